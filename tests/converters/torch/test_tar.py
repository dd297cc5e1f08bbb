"""Files of PyTorch's first format, made as 0.1.10 made them; today's PyTorch still opens them."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optexport.converters.torch.checkpoint import FORMATS, read, read_weights
from optexport.state.pickles import Global, Persistent, dumps

from .making import refused

KINDS = {"float32": "Float", "float64": "Double", "int64": "Long"}


def made(
    path: Path,
    value: Any,
    storages: dict[int, np.ndarray],
    tensors: dict[int, tuple[int, tuple[int, ...], tuple[int, ...], int]],
    views: list[tuple[int, int, int, int]] | None = None,
    skip: str = "",
    extra: bytes = b"",
) -> Path:
    """storages: key -> elements. tensors: key -> (storage, sizes, strides, offset). views: of storages."""
    parts = {"sys_info": dumps({"protocol_version": 1000, "little_endian": True, "type_sizes": {}})}
    blob = dumps(len(storages))
    for key, array in storages.items():
        blob += dumps((key, "cpu", Global("torch", KINDS[array.dtype.name] + "Storage")))
        blob += struct.pack("<q", array.size) + array.tobytes()
    parts["storages"] = blob + dumps(views or []) + extra
    blob = dumps(len(tensors))
    for key, (storage, size, stride, offset) in tensors.items():
        blob += dumps((key, storage, Global("torch", "FloatTensor")))
        blob += struct.pack(f"<ii{len(size)}q{len(size)}qq", len(size), 0, *size, *stride, offset)
    parts["tensors"] = blob
    parts["pickle"] = value if isinstance(value, bytes) else dumps(value)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, raw in parts.items():
            if name != skip:
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
    return path


STORAGES = {11: np.arange(12, dtype=np.float32), 12: np.arange(3, dtype=np.int64)}
TENSORS = {
    21: (11, (3, 4), (4, 1), 0),
    22: (11, (4, 3), (1, 4), 0),
    23: (13, (2,), (1,), 1),
    24: (12, (3,), (1,), 0),
}
VIEWS = [(13, 11, 6, 4)]
SLOTS = {"step": 3, "exp_avg": Persistent("21"), "exp_avg_sq": Persistent("22"), "part": Persistent("23")}
STATE = {
    "state": {7: {**SLOTS, "count": Persistent("24")}},
    "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "params": [7]}],
}


def test_a_tar_file_is_read_as_pytorch_reads_it(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with the real reader")
    path = made(tmp_path / "a.pt", STATE, STORAGES, TENSORS, VIEWS)
    assert [f.name for f in FORMATS if f.sniff(str(path))] == ["torch"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.load(path, weights_only=False)
    state = read(path)
    assert state.format == "torch-tar" and state.steps == {"0": 3}
    for slot, value in theirs["state"][7].items():
        if slot != "step":
            assert state.slots["0"][slot].dtype == value.numpy().dtype
            assert np.array_equal(state.slots["0"][slot], value.numpy())
    assert state.groups[0].arguments["betas"] == (0.9, 0.999)
    assert state.slots["0"]["part"].tolist() == [7, 8] and not state.slots["0"]["exp_avg"].flags.owndata


def test_weights_in_a_tar_file(tmp_path):
    path = made(tmp_path / "m.pt", {"fc.weight": Persistent("21")}, STORAGES, TENSORS, VIEWS)
    assert read_weights(path).tensors["fc.weight"].shape == (3, 4)


def test_a_tar_file_truncated_anywhere(tmp_path):
    path = made(tmp_path / "a.pt", STATE, STORAGES, TENSORS, VIEWS)
    raw = path.read_bytes()
    end = raw.rindex(b"param_groups")
    for cut in range(0, end, 97):
        path.write_bytes(raw[:cut])
        refused(path)
    for at in range(0, end, 61):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        try:
            read(path)
        except Exception as error:
            assert type(error).__name__ == "CheckpointError", error


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"skip": "tensors"}, "has no member tensors"),
        ({"views": [(13, 11, 6, 7)]}, "view 13 reaches outside its storage of 12 elements"),
        ({"views": [(13, 99, 0, 1)]}, "view 13 is of storage 99, which is not there"),
        ({"views": [(13, 11, "0", 1)]}, "expected key, storage, offset and count"),
        ({"tensors": {21: (99, (1,), (1,), 0)}}, "tensor 21 is on storage 99, which is not there"),
        ({"tensors": {**TENSORS, 21: (11, (5, 4), (4, 1), 0)}}, "needs 20 elements; storage 11 has 12"),
        ({"tensors": {**TENSORS, 21: (11, (5, 4), (0, 0), 0)}}, "stride 0"),
        ({"tensors": {**TENSORS, 21: (11, (-1, 4), (4, 1), 0)}}, "expected a number from 0 up"),
        ({"value": {"state": {0: {"m": Persistent("77")}}, "param_groups": []}}, "77 names no tensor of the file"),
        ({"value": b"cos\nsystem\n(S'true'\ntR."}, "os.system"),
    ],
)  # fmt: skip
def test_hostile_tar_files(tmp_path, change, why):
    given = {"value": STATE, "storages": STORAGES, "tensors": TENSORS, "views": VIEWS, **change}
    assert why in refused(made(tmp_path / "a.pt", **given))


def test_other_members_are_refused(tmp_path):
    path = made(tmp_path / "a.pt", STATE, STORAGES, TENSORS, VIEWS)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("pickle")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert "expected one file each of sys_info, pickle, tensors, storages; refused" in refused(path)
