"""HDF5 that points out of itself, loops, or declares more than it holds; and the zip around it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.attack import SECRET_FILE, attack, deflated_bomb, file

VARS = "optimizer/vars"


def _honest(h5: Any) -> None:
    group = h5.create_group(VARS)
    group["0"], group["1"] = np.int64(3), np.float32(0.1)
    group["2"] = np.zeros(4, np.float32)


def _external_link(h5: Any) -> None:
    import h5py

    _honest(h5)
    with h5py.File(os.path.join(os.path.dirname(h5.filename), "other.h5"), "w") as other:
        other["secret"] = np.zeros(4, np.float32)
    h5[f"{VARS}/3"] = h5py.ExternalLink("other.h5", "/secret")


def _soft_link(h5: Any) -> None:
    import h5py

    _honest(h5)
    h5[f"{VARS}/3"] = h5py.SoftLink(f"/{VARS}/3")


def _group_in_itself(h5: Any) -> None:
    _honest(h5)
    h5["layers/a/b"] = h5.require_group("layers/a")


def _vars_behind_a_link(h5: Any) -> None:
    import h5py

    h5["optimizer"] = h5py.ExternalLink("other.h5", "/")


def _external_storage(h5: Any) -> None:
    _honest(h5)
    outside = str(Path(h5.filename).parents[1] / SECRET_FILE)
    h5.create_dataset(f"{VARS}/3", (16,), np.uint8, external=[(outside, 0, 16)])


def _virtual(h5: Any) -> None:
    import h5py

    _honest(h5)
    layout = h5py.VirtualLayout((16,), np.uint8)
    layout[:] = h5py.VirtualSource("../secret.bin", "x", (16,))
    h5.create_virtual_dataset(f"{VARS}/3", layout)


def _bomb(h5: Any) -> None:
    _honest(h5)
    h5.create_dataset(f"{VARS}/3", (1 << 33,), np.float32, chunks=(1 << 20,), compression="gzip")


def _unallocated(h5: Any) -> None:
    _honest(h5)
    h5.create_dataset(f"{VARS}/3", (1 << 33,), np.float32)


def _huge_chunk(h5: Any) -> None:
    _honest(h5)
    h5.create_dataset(
        f"{VARS}/3",
        (1 << 28,),
        np.uint8,
        chunks=(1 << 28,),
        compression="gzip",
        compression_opts=1,
        data=np.zeros(1 << 28, np.uint8),
    )


def _objects(h5: Any) -> None:
    import h5py

    _honest(h5)
    h5.create_dataset(f"{VARS}/3", (4,), h5py.ref_dtype)


def _strings(h5: Any) -> None:
    import h5py

    _honest(h5)
    h5.create_dataset(f"{VARS}/3", data=["a", "b"], dtype=h5py.string_dtype())


def _deep(h5: Any) -> None:
    _honest(h5)
    at = h5.require_group("layers")
    for _ in range(1500):
        at = at.create_group("a")


FILES: dict[str, tuple[Callable[[Any], None], str]] = {
    "external_link": (_external_link, "which may lead out of the file"),
    "soft_link_to_itself": (_soft_link, "which may lead out of the file"),
    "group_in_itself": (_group_in_itself, "layers/a/b: a group that occurs twice"),
    "group_behind_an_external_link": (_vars_behind_a_link, "found ExternalLink, which may lead out of the file"),
    "external_storage": (_external_storage, "in another file, which is never opened"),
    "virtual_dataset": (_virtual, "in another file, which is never opened"),
    "filter_bomb": (_bomb, "more than a packed file of"),
    "huge_filtered_chunk": (_huge_chunk, "more than a packed file of"),
    "unallocated": (_unallocated, "declares 34359738368 bytes that the file does not have"),
    "references": (_objects, "expected numbers"),
    "strings": (_strings, "expected numbers"),
    "deep_groups": (_deep, "groups nest more than 64 deep"),
}  # fmt: skip


def _written(path: Path, put: Callable[[Any], None]) -> Path:
    import h5py

    with h5py.File(path, "w") as h5:
        put(h5)
    return path


for _name, (_put, _says) in FILES.items():

    def _h5(folder: Path, put: Callable[[Any], None] = _put) -> Path:
        return _written(folder / "hostile.weights.h5", put)

    attack(_says, format="keras", name=f"hdf5_{_name}", needs=("h5py",))(_h5)


def _weights(folder: Path) -> bytes:
    return _written(folder / "inside.h5", _honest).read_bytes()


def _zip(folder: Path, members: dict[str, bytes]) -> Path:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return file(folder, "hostile.keras", out.getvalue())


@attack(
    "expected a member that is stored as it is, found a compressed",
    format="keras",
    needs=("h5py",),
    once=True,
)
def keras_zip_bomb(folder: Path) -> Path:
    return deflated_bomb(folder / "hostile.keras", {"config.json": b"{}", "model.weights.h5": (b"", 1 << 30)})


@attack("of JSON would take", format="keras", needs=("h5py",), once=True)
def keras_config_of_very_many_lists(folder: Path) -> Path:
    members = {"config.json": b"[" + b"[]," * 3_000_000 + b"[]]", "model.weights.h5": _weights(folder)}
    return _zip(folder, members)


@attack("config.json: expected JSON: it nests too deep", format="keras", needs=("h5py",))
def keras_deep_config(folder: Path) -> Path:
    return _zip(folder, {"config.json": b"[" * 1_000_000, "model.weights.h5": _weights(folder)})


@attack(None, format="keras", needs=("h5py",))
def keras_config_that_names_code(folder: Path) -> Path:
    """Keras itself would import ``module`` and build ``class_name``."""
    optimizer = {"module": "canary_module", "class_name": "Lambda", "config": {"learning_rate": 0.1}}
    config = {
        "module": "canary_module",
        "class_name": "Functional",
        "config": {},
        "compile_config": {"optimizer": optimizer},
    }
    return _zip(folder, {"config.json": json.dumps(config).encode(), "model.weights.h5": _weights(folder)})


@attack("holds two members of one name", format="keras", needs=("h5py",))
def keras_two_members_of_one_name(folder: Path) -> Path:
    path = _zip(folder, {"config.json": b"{}", "model.weights.h5": _weights(folder), "model.weights.hX": b""})
    raw = path.read_bytes().replace(b"model.weights.hX", b"model.weights.h5")
    return file(folder, "hostile.keras", raw)


@attack("model.weights.h5: is longer than the file", format="keras", needs=("h5py",))
def keras_member_longer_than_the_file(folder: Path) -> Path:
    path = _zip(folder, {"config.json": b"{}", "model.weights.h5": _weights(folder)})
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 20 : at + 28] = (1 << 30).to_bytes(4, "little") * 2
    return file(folder, "hostile.keras", bytes(raw))
