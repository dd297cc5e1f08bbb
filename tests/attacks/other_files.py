"""ONNX, ONNX Runtime, Orbax, TensorFlow, Paddle, MLX, DeepSpeed and Trainer folders that lead elsewhere or lie."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.attack import COMMAND, SECRET_FILE, attack, file
from tests.attacks.pickled import NOT_LISTED, called, text

DATA = Path(__file__).parents[1] / "data"
OUTSIDE = f"../{SECRET_FILE}"


def copied(sample: str, folder: Path) -> Path:
    """A sample of tests/data, in ``folder`` under the name "hostile", its files' suffixes kept."""
    source = DATA / sample
    if source.is_dir():
        shutil.copytree(source, folder / "hostile")
        return folder / "hostile"
    stem = source.name.split(".")[0]
    for near in source.parent.iterdir():
        if near.name.startswith(f"{stem}."):
            shutil.copy(near, folder / near.name.replace(stem, "hostile"))
    return folder / source.name.replace(stem, "hostile")


def linked(path: Path) -> Path:
    """``path`` becomes a link to a file outside, with the same bytes."""
    outside = path.resolve().parent
    while outside.name != "hostile" and (outside / SECRET_FILE).exists() is False:
        outside = outside.parent
    target = (outside if outside.name != "hostile" else outside.parent.parent) / f"linked-{path.name}"
    os.replace(path, target)
    path.symlink_to(target)
    return path


# -- ONNX --------------------------------------------------------------------------------------------


def _external(folder: Path, **entries: str) -> Path:
    """The sample with external data, every tensor of which says something else about its place."""
    import onnx

    path = copied("onnx/adam_external.onnx", folder)
    model = onnx.load(path, load_external_data=False)
    todo: list[Any] = [model]
    while todo:
        message = todo.pop()
        if isinstance(message, onnx.TensorProto):
            for entry in message.external_data:
                entry.value = entries.get(entry.key, entry.value)
            continue
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                todo += (
                    list(value) if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
                )
    path.write_bytes(model.SerializeToString())
    data = folder / "adam_external.onnx.data"
    if not data.exists() and (folder / "hostile.onnx.data").exists():
        os.replace(folder / "hostile.onnx.data", data)
    return path


LOCATIONS: dict[str, tuple[dict[str, str], str]] = {
    "above": ({"location": OUTSIDE}, "which leads out of it"),
    "absolute": ({"location": "/etc/passwd"}, "which leads out of it"),
    "behind_backslashes": ({"location": "..\\secret.bin"}, "which leads out of it"),
    "nowhere": ({"location": ""}, ""),
    "beyond_the_end": ({"offset": str(1 << 60)}, ""),
    "before_the_start": ({"offset": "-8"}, ""),
    "of_a_huge_length": ({"length": str(1 << 60)}, ""),
    "of_no_number": ({"offset": "9" * 5000}, ""),
}
for _name, (_entries, _says) in LOCATIONS.items():

    def _build(folder: Path, entries: dict[str, str] = _entries) -> Path:
        return _external(folder, **entries)

    attack(_says, format="onnx", name=f"onnx_data_{_name}", needs=("onnx",))(_build)


@attack("is a link that leads out of the folder", format="onnx", needs=("onnx",))
def onnx_data_behind_a_link(folder: Path) -> Path:
    path = _external(folder)
    linked(folder / "adam_external.onnx.data")
    return path


@attack("", format="onnx")
def onnx_of_very_deep_messages(folder: Path) -> Path:
    """A graph in an attribute of a node of a graph …"""
    inner = b""
    for _ in range(20_000):
        if len(inner) > 200_000:
            break
        node = (
            b"\x2a"
            + _varint(len(inner) + 1 + len(_varint(len(inner))))
            + b"\x32"
            + _varint(len(inner))
            + inner
        )
        inner = b"\x0a" + _varint(len(node)) + node
    return file(folder, "hostile.onnx", b"\x08\x08\x3a" + _varint(len(inner)) + inner)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@attack("", format="onnx", heavy=True)
def onnx_of_very_many_empty_tensors(folder: Path) -> Path:
    graph = b"\x2a\x00" * 10_000_000
    return file(folder, "hostile.onnx", b"\x08\x08\x3a" + _varint(len(graph)) + graph)


# -- ONNX Runtime ------------------------------------------------------------------------------------


def _every_word(sample: str, low: int, high: int, value: int) -> bytes:
    """Each 32-bit number between ``low`` and ``high`` in a sample becomes ``value``."""
    raw = bytearray((DATA / sample).read_bytes())
    for at in range(8, len(raw) - 4, 4):
        if low <= struct.unpack_from("<I", raw, at)[0] <= high:
            struct.pack_into("<I", raw, at, value)
    return bytes(raw)


ORT: dict[str, Callable[[], bytes]] = {
    "root_beyond_the_file": lambda: struct.pack("<I", 0xFFFFFFF0) + (DATA / "onnxruntime/adamw.ckpt").read_bytes()[4:],
    "root_at_itself": lambda: struct.pack("<I", 0) + (DATA / "onnxruntime/adamw.ckpt").read_bytes()[4:],
    "vectors_of_everything": lambda: _every_word("onnxruntime/adamw.ckpt", 2, 8, 0x7FFFFFFF),
    "offsets_to_themselves": lambda: _every_word("onnxruntime/adamw.ckpt", 4, 4096, 0),
    "offsets_all_bits": lambda: _every_word("onnxruntime/adamw.ckpt", 64, 4096, 0xFFFFFFFF),
}  # fmt: skip
for _name, _make in ORT.items():

    def _ort(folder: Path, make: Callable[[], bytes] = _make) -> Path:
        return file(folder, "hostile.ckpt", make())

    attack("", format="onnxruntime-training", name=f"ort_{_name}")(_ort)


@attack("link", format="onnxruntime-training")
def ort_data_behind_a_link(folder: Path) -> Path:
    from optexport.converters.onnx._ort_checkpoint import read_checkpoint, write_checkpoint

    path = folder / "hostile.ckpt"
    write_checkpoint(read_checkpoint(str(DATA / "onnxruntime" / "adamw.ckpt")), str(path), external_above=0)
    linked(folder / "hostile.ckpt.data")
    return path


# -- Orbax -------------------------------------------------------------------------------------------


def _zarr(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """The plain sample, every array's description changed."""
    path = copied("orbax/adam_zarr", folder)
    for described in path.rglob(".zarray"):
        held = json.loads(described.read_text())
        if change is not None:
            change(held)
        described.write_text(json.dumps(held))
    return path


ZARR: dict[str, Callable[[dict[str, Any]], None]] = {
    "huge_shape": lambda m: m.update(shape=[1 << 40], chunks=[1 << 40]),
    "shape_that_overflows": lambda m: m.update(shape=[1 << 32, 1 << 32], chunks=[1 << 32, 1 << 32]),
    "very_many_chunks": lambda m: m.update(shape=[1 << 40], chunks=[1]),
    "chunks_of_nothing": lambda m: m.update(chunks=[0] * len(m["shape"])),
    "negative_shape": lambda m: m.update(shape=[-4]),
    "objects": lambda m: m.update(dtype="|O"),
    "pickled_filter": lambda m: m.update(filters=[{"id": "pickle"}]),
    "codec_of_its_own": lambda m: m.update(compressor={"id": "canary_module"}),
}
for _name, _change in ZARR.items():

    def _array(folder: Path, change: Callable[[dict[str, Any]], None] = _change) -> Path:
        return _zarr(folder, change)

    attack("", format="orbax", name=f"orbax_{_name}", needs=("zstandard",))(_array)


@attack("", format="orbax", needs=("zstandard",))
def orbax_chunk_bomb(folder: Path) -> Path:
    """A kilobyte of zstandard that becomes 2 GB."""
    import zstandard

    path = _zarr(folder)
    bomb = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    packed = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(128)) + bomb.flush()
    for chunk in path.rglob("*"):
        if chunk.is_file() and chunk.name.replace(".", "").isdigit():
            chunk.write_bytes(packed)
    return path


@attack("", format="orbax", needs=("zstandard",))
def orbax_chunk_behind_a_link(folder: Path) -> Path:
    path = _zarr(folder)
    chunk = next(p for p in sorted(path.rglob("*")) if p.is_file() and p.name.replace(".", "").isdigit())
    linked(chunk)
    return path


@attack("", format="orbax")
def orbax_metadata_of_very_deep_json(folder: Path) -> Path:
    path = copied("orbax/adam_zarr", folder)
    (path / "_METADATA").write_bytes(b'{"tree_metadata":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}")
    return path


@attack("", format="orbax", needs=("zstandard",))
def orbax_names_that_climb_out(folder: Path) -> Path:
    path = copied("orbax/adam_zarr", folder)
    raw = (path / "_METADATA").read_text()
    (path / "_METADATA").write_text(raw.replace('"key": "', '"key": "../../../'))
    return path


# -- TensorFlow, Paddle, MLX -------------------------------------------------------------------------


@attack("", format="tensorflow")
def tensorflow_data_behind_a_link(folder: Path) -> Path:
    path = copied("tf_checkpoint/adam.index", folder)
    linked(folder / "hostile.data-00000-of-00001")
    return path


@attack("", format="tensorflow")
def tensorflow_index_of_noise(folder: Path) -> Path:
    raw = bytearray((DATA / "tf_checkpoint" / "adam.index").read_bytes())
    raw[: len(raw) - 48] = bytes([255]) * (len(raw) - 48)
    copied("tf_checkpoint/adam.index", folder)
    return file(folder, "hostile.index", bytes(raw))


@attack(NOT_LISTED, format="paddle")
def paddle_that_runs_a_command(folder: Path) -> Path:
    return file(folder, "hostile.pdopt", called("os", "system", text(COMMAND)))


def _npz(folder: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return file(folder, "hostile.npz", out.getvalue())


def _npy(header: str, data: bytes = b"") -> bytes:
    raw = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data


def _array_of_objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(1, np.float32))
    payload = called("os", "system", text(COMMAND))
    return _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", payload)


NPY: dict[str, Callable[[], bytes]] = {
    "objects": _array_of_objects,
    "header_that_is_code": lambda: _npy("__import__('canary_module')"),
    "header_very_deep": lambda: _npy("(" * 20_000 + ")" * 20_000),
    "huge_shape": lambda: _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", bytes(16)),
    "negative_shape": lambda: _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }", bytes(16)),
    "empty_of_huge_sizes": lambda: _npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904, 4611686018427387904), }"
    ),
    "dtype_of_text": lambda: _npy("{'descr': '<U1000000000', 'fortran_order': False, 'shape': (1,), }", bytes(16)),
}  # fmt: skip
for _name, _make in NPY.items():

    def _mlx(folder: Path, make: Callable[[], bytes] = _make) -> Path:
        return _npz(folder, {"step.npy": _npy("{'descr': '<u8', 'fortran_order': False, 'shape': (), }", bytes(8)),
                             "w.m.npy": make()})  # fmt: skip

    attack("", format="mlx-npz", name=f"mlx_{_name}")(_mlx)


@attack("", format="mlx-npz", heavy=True)
def mlx_zip_bomb(folder: Path) -> Path:
    huge = _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (402653184,), }", bytes(3 << 29))
    return _npz(folder, {"w.m.npy": huge, "w.v.npy": huge}, zipfile.ZIP_DEFLATED)


# -- folders of PyTorch's ----------------------------------------------------------------------------


def _payload() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", called("os", "system", text(COMMAND)))
    return out.getvalue()


def _ranks(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*.pt") if "optim" in p.name)


@attack(NOT_LISTED, format="deepspeed")
def deepspeed_rank_that_runs_a_command(folder: Path) -> Path:
    path = copied("deepspeed/zero2_adamw", folder)
    _ranks(path)[0].write_bytes(_payload())
    return path


@attack("", format="deepspeed")
def deepspeed_rank_behind_a_link(folder: Path) -> Path:
    path = copied("deepspeed/zero2_adamw", folder)
    linked(_ranks(path)[0])
    return path


@attack("", format="deepspeed")
def deepspeed_rank_that_is_missing(folder: Path) -> Path:
    path = copied("deepspeed/zero2_adamw", folder)
    _ranks(path)[-1].unlink()
    return path


@attack("", format="deepspeed")
def deepspeed_latest_leads_elsewhere(folder: Path) -> Path:
    path = copied("deepspeed/zero2_adamw", folder)
    outer = folder / "outer"
    outer.mkdir()
    (outer / "latest").write_text("../hostile")
    shutil.move(str(path), outer.parent / "elsewhere")
    shutil.copytree(outer, folder / "hostile")
    return folder / "hostile"


@attack(NOT_LISTED, format="hf-trainer")
def trainer_optimizer_that_runs_a_command(folder: Path) -> Path:
    path = copied("hf_trainer/checkpoint-3", folder)
    (path / "optimizer.pt").write_bytes(_payload())
    return path


@attack("", format="hf-trainer")
def trainer_optimizer_behind_a_link(folder: Path) -> Path:
    path = copied("hf_trainer/checkpoint-3", folder)
    linked(path / "optimizer.pt")
    return path


@attack("", format="hf-trainer")
def trainer_state_of_very_deep_json(folder: Path) -> Path:
    path = copied("hf_trainer/checkpoint-3", folder)
    (path / "trainer_state.json").write_bytes(b'{"a":' + b"[" * 1_000_000)
    return path


@attack("", format="hf-trainer")
def trainer_weights_in_another_folder(folder: Path) -> Path:
    path = copied("hf_trainer/checkpoint-3", folder)
    os.replace(path / "model.safetensors", folder / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"w": "../elsewhere.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path
