"""ONNX, ONNX Runtime, Orbax, Paddle, MLX, DeepSpeed and Trainer folders that lead elsewhere or lie."""

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

from tests.attacks.attack import COMMAND, SECRET_FILE, attack, deflated_bomb, file
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
    "nowhere": ({"location": ""}, "found '', which leads out of it"),
    "beyond_the_end": ({"offset": str(1 << 60)}, "bytes at 1152921504606846976 of"),
    "before_the_start": ({"offset": "-8"}, "external_data's offset is '-8'; expected a number"),
    "of_a_huge_length": ({"length": str(1 << 60)}, "length has 1152921504606846976 bytes"),
    "of_no_number": ({"offset": "9" * 5000}, "external_data's offset is '9999"),
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


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def _with_algorithm(folder: Path, more: bytes) -> Path:
    """The sample, ``more`` at the end of the graph that updates its state."""
    from optexport.converters.onnx._protobuf import Fields

    def changed(data: memoryview, path: tuple[int, ...]) -> bytes:
        if not path:
            return bytes(data) + more
        out = b""
        for number, held in Fields("").walk(data):
            if isinstance(held, int):
                out += varint(number << 3) + varint(held)
            else:
                out += field(number, changed(held, path[1:]) if number == path[0] else bytes(held))
        return out

    sample = (DATA / "onnx" / "adam_training_info.onnx").read_bytes()
    return file(folder, "hostile.onnx", changed(memoryview(sample), (20, 2)))


@attack(None, format="onnx")
def onnx_of_very_deep_messages(folder: Path) -> Path:
    """A graph in an attribute of a node of a graph …, which nobody needs."""
    inner = b""
    while len(inner) < 100_000:
        inner = field(1, field(5, field(6, inner)))
    return _with_algorithm(folder, inner)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@attack("more than 100000 initializers", format="onnx", once=True)
def onnx_of_very_many_empty_tensors(folder: Path) -> Path:
    return _with_algorithm(folder, b"".join(field(5, field(8, b"%d" % i)) for i in range(100_001)))


@attack("more than 250000 nodes", format="onnx", once=True)
def onnx_of_very_many_empty_nodes(folder: Path) -> Path:
    return _with_algorithm(folder, field(1, b"") * 3_000_000)


# -- ONNX Runtime ------------------------------------------------------------------------------------

_BEHIND_ROOT = 64


def _every_word(sample: str, low: int, high: int, value: int) -> bytes:
    """Each 32-bit number between ``low`` and ``high`` behind the root of a sample becomes ``value``."""
    raw = bytearray((DATA / sample).read_bytes())
    for at in range(_BEHIND_ROOT, len(raw) - 4, 4):
        if low <= struct.unpack_from("<I", raw, at)[0] <= high:
            struct.pack_into("<I", raw, at, value)
    return bytes(raw)


ORT: dict[str, tuple[Callable[[], bytes], str]] = {
    "root_beyond_the_file": (
        lambda: struct.pack("<I", 0xFFFFFFF0) + (DATA / "onnxruntime/adamw.ckpt").read_bytes()[4:],
        "an offset leads to byte 4294967280 of",
    ),
    "root_at_itself": (  # a table of no fields
        lambda: bytes(4) + (DATA / "onnxruntime/adamw.ckpt").read_bytes()[4:], "checkpoint version 0; expected 1 or 2",
    ),
    "vectors_of_everything": (
        lambda: _every_word("onnxruntime/adamw.ckpt", 2, 8, 0x7FFFFFFF), "an offset leads to byte -2147481035 of",
    ),
    "offsets_to_themselves": (lambda: _every_word("onnxruntime/adamw.ckpt", 4, 4096, 0), "group's name is missing"),
    "offsets_all_bits": (
        lambda: _every_word("onnxruntime/adamw.ckpt", 64, 4096, 0xFFFFFFFF), "an offset leads to byte 42949",
    ),
}  # fmt: skip
for _name, (_make, _says) in ORT.items():

    def _ort(folder: Path, make: Callable[[], bytes] = _make) -> Path:
        return file(folder, "hostile.ckpt", make())

    attack(_says, format="onnxruntime-training", name=f"ort_{_name}")(_ort)


@attack("is a link that leads out of the folder", format="onnxruntime-training")
def ort_data_behind_a_link(folder: Path) -> Path:
    from optexport.converters.onnx._ort_checkpoint import read_checkpoint, write_checkpoint

    path = folder / "hostile.ckpt"
    write_checkpoint(read_checkpoint(str(DATA / "onnxruntime" / "adamw.ckpt")), str(path), external_above=0)
    linked(folder / "hostile.ckpt.data")
    return path


# -- Orbax -------------------------------------------------------------------------------------------


def _zarr(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """The plain sample, the description of every array with axes changed."""
    path = copied("orbax/adam_zarr", folder)
    for described in path.rglob(".zarray"):
        held = json.loads(described.read_text())
        if change is not None and held["shape"]:
            change(held)
        described.write_text(json.dumps(held))
    return path


def _sized(size: int, chunk: int | None = None) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        axes = len(described["shape"])
        described.update(shape=[size] * axes, chunks=[size if chunk is None else chunk] * axes)

    return change


ZARR: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "huge_shape": (_sized(1 << 40), "expected at most 1000 times that"),
    "shape_that_overflows": (_sized(1 << 32), "expected at most 1000 times that"),
    "very_many_chunks": (_sized(1 << 40, 1), "of them, and the checkpoint has"),
    "chunks_of_nothing": (
        lambda m: m.update(chunks=[0] * len(m["shape"])), "expected whole numbers from 1 up",
    ),
    "negative_shape": (_sized(-4), "expected whole numbers from 0 up"),
    "objects": (lambda m: m.update(dtype="|O"), "an array of '|O'; expected a real number type"),
    "pickled_filter": (lambda m: m.update(filters=[{"id": "pickle"}]), "expected no filters and the order C or F"),
    "codec_of_its_own": (
        lambda m: m.update(compressor={"id": "canary_module"}), "compressed by {'id': 'canary_module'}; expected zstd",
    ),
}  # fmt: skip
for _name, (_change, _says) in ZARR.items():

    def _array(folder: Path, change: Callable[[dict[str, Any]], None] = _change) -> Path:
        return _zarr(folder, change)

    attack(_says, format="orbax", name=f"orbax_{_name}", needs=("zstandard",))(_array)


@attack("bytes unpacked, found more than", format="orbax", needs=("zstandard",))
def orbax_chunk_bomb(folder: Path) -> Path:
    """A kilobyte of zstandard that becomes more than 1 GB."""
    import zstandard

    path = _zarr(folder)
    bomb = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    packed = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(65)) + bomb.flush()
    for chunk in path.rglob("*"):
        if chunk.is_file() and chunk.name.replace(".", "").isdigit():
            chunk.write_bytes(packed)
    return path


@attack("nothing outside it is read", format="orbax", needs=("zstandard",))
def orbax_chunk_behind_a_link(folder: Path) -> Path:
    path = _zarr(folder)
    chunk = next(p for p in sorted(path.rglob("*")) if p.is_file() and p.name.replace(".", "").isdigit())
    linked(chunk)
    return path


@attack("expected JSON: it nests too deep", format="orbax")
def orbax_metadata_of_very_deep_json(folder: Path) -> Path:
    path = copied("orbax/adam_zarr", folder)
    (path / "_METADATA").write_bytes(b'{"tree_metadata":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}")
    return path


@attack("listed in _METADATA, and there is no array of that name", format="orbax", needs=("zstandard",))
def orbax_names_that_climb_out(folder: Path) -> Path:
    path = copied("orbax/adam_zarr", folder)
    raw = (path / "_METADATA").read_text()
    (path / "_METADATA").write_text(raw.replace('"key": "', '"key": "../../../'))
    return path


# -- Paddle, MLX -------------------------------------------------------------------------------------


@attack(NOT_LISTED, format="paddle")
def paddle_that_runs_a_command(folder: Path) -> Path:
    return file(folder, "hostile.pdopt", called("os", "system", text(COMMAND)))


def _npz(folder: Path, members: dict[str, bytes]) -> Path:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return file(folder, "hostile.npz", out.getvalue())


def _npy(header: str, data: bytes = b"") -> bytes:
    raw = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data


def _shaped(shape: str, data: bytes = bytes(16), kind: str = "<f4") -> bytes:
    return _npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}", data)


def _array_of_objects() -> bytes:
    payload = called("os", "system", text(COMMAND))
    return _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", payload)


NPY: dict[str, tuple[Callable[[], bytes], str]] = {
    "objects": (_array_of_objects, "objects are pickles, which are never read"),
    "header_that_is_code": (lambda: _npy("__import__('canary_module')"), "its header is not that of an array"),
    "header_very_deep": (lambda: _npy("(" * 20_000 + ")" * 20_000), "its header is not that of an array"),
    "huge_shape": (lambda: _shaped("(1099511627776,)"), "needs 4398046511104 bytes, found 16"),
    "negative_shape": (lambda: _shaped("(-4,)"), "its header is not that of an array"),
    "empty_of_huge_sizes": (
        lambda: _shaped("(0, 4611686018427387904, 4611686018427387904)", b""), "a shape that an array can have",
    ),
    "dtype_of_text": (lambda: _shaped("(1,)", kind="<U1000000000"), "expected plain numbers, found '<U1000000000'"),
}  # fmt: skip
for _name, (_make, _says) in NPY.items():

    def _mlx(folder: Path, make: Callable[[], bytes] = _make) -> Path:
        return _npz(folder, {"step.npy": _npy("{'descr': '<u8', 'fortran_order': False, 'shape': (), }", bytes(8)),
                             "w.m.npy": make()})  # fmt: skip

    attack(_says, format="mlx-npz", name=f"mlx_{_name}")(_mlx)


@attack("w.m.npy: expected at most 268435456 bytes deflated", format="mlx-npz", once=True)
def mlx_zip_bomb(folder: Path) -> Path:
    huge = (_shaped("(402653184,)", b""), 3 << 29)
    return deflated_bomb(folder / "hostile.npz", {"w.m.npy": huge, "w.v.npy": huge})


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


@attack("is a symbolic link; refused", format="deepspeed")
def deepspeed_rank_behind_a_link(folder: Path) -> Path:
    path = copied("deepspeed/zero2_adamw", folder)
    linked(_ranks(path)[0])
    return path


@attack("was written by 2 ranks, found the files of 1", format="deepspeed")
def deepspeed_rank_that_is_missing(folder: Path) -> Path:
    path = copied("deepspeed/zero2_adamw", folder)
    _ranks(path)[-1].unlink()
    return path


@attack("../hostile is not inside the directory; refused", format="deepspeed")
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


@attack("optimizer.pt is a symbolic link; refused", format="hf-trainer")
def trainer_optimizer_behind_a_link(folder: Path) -> Path:
    path = copied("hf_trainer/checkpoint-3", folder)
    linked(path / "optimizer.pt")
    return path


@attack("expected JSON, found other bytes: it nests too deep", format="hf-trainer")
def trainer_state_of_very_deep_json(folder: Path) -> Path:
    path = copied("hf_trainer/checkpoint-3", folder)
    (path / "trainer_state.json").write_bytes(b'{"a":' + b"[" * 1_000_000)
    return path


@attack("../elsewhere.safetensors is not inside the directory; refused", format="hf-trainer")
def trainer_weights_in_another_folder(folder: Path) -> Path:
    path = copied("hf_trainer/checkpoint-3", folder)
    os.replace(path / "model.safetensors", folder / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"w": "../elsewhere.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path
