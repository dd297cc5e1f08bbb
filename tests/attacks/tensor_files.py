"""safetensors, bundles and Flax' msgpack that lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attacks.attack import attack, file

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "bundle_v1.safetensors"


def container(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def row(*shape: int, start: int = 0, end: int = 16, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}


def manifest(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The golden bundle with another manifest."""
    raw = GOLDEN.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    found = json.loads(header["__metadata__"]["optexport"])
    change(found)
    header["__metadata__"]["optexport"] = json.dumps(found)
    return container(header, raw[8 + size :])


_NEXT = json.dumps(row(4, start=16, end=32)).encode()
_SHAPED = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,16]}}'
_HOLES = "holes and overlaps are refused"


WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "header_of_100_gb": (
        lambda: container(b'{"a":1}', bytes(100), size=100 << 30),
        "declares a header of 107374182400 bytes",
    ),
    "header_of_all_bits": (
        lambda: container(b'{"a":1}', bytes(100), size=(1 << 64) - 1),
        "declares a header of 18446744073709551615 bytes",
    ),
    "hole": (lambda: container({"a": row(4), "b": row(4, start=20, end=36)}, bytes(36)), _HOLES),
    "overlap": (lambda: container({"a": row(4), "b": row(4, start=8, end=24)}, bytes(24)), _HOLES),
    "same_bytes_twice": (lambda: container({"a": row(4), "b": row(4)}, bytes(16)), _HOLES),
    "one_name_twice": (
        lambda: container(b'{"a":%s,"a":%s}' % (json.dumps(row(4)).encode(), _NEXT), bytes(32)),
        "a name occurs twice in the header",
    ),
    "beyond_the_file": (
        lambda: container({"a": row(1 << 34, end=1 << 36)}, bytes(16)),
        "the file is truncated",
    ),
    "dimensions_that_overflow": (
        lambda: container({"a": row(1 << 62, 1 << 62, 4)}, bytes(16)),
        "of float32 needs 340282366920938463463374607431768211456 bytes, found 16",
    ),
    "dimensions_that_overflow_to_fit": (
        lambda: container({"a": row(1 << 32, 1 << 32, end=0)}, b""),
        "of float32 needs 73786976294838206464 bytes, found 0",
    ),
    "negative_dimension": (lambda: container({"a": row(-2, -2)}, bytes(16)), "malformed entry"),
    "offsets_reversed": (lambda: container({"a": row(4, start=16, end=0)}, bytes(16)), "malformed entry"),
    "tail": (lambda: container({"a": row(4)}, bytes(64)), "the file has a tail"),
    "empty_of_huge_sizes": (
        lambda: container({"a": row(0, 1 << 62, 1 << 62, end=0)}, b""),
        "a shape that an array can have",
    ),
    "very_many_dimensions": (
        lambda: container({"a": row(*[1] * 100_000, end=4)}, bytes(4)),
        "found 100000 dimensions",
    ),
    "huge_integer": (lambda: container(_SHAPED % (b"9" * 100_000), bytes(16)), "Exceeds the limit"),
    "deep_json": (
        lambda: container(b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
        "it nests too deep",
    ),
    "not_a_number": (lambda: container(_SHAPED % b"NaN", bytes(16)), "malformed entry"),
}
for _name, (_make, _says) in WEIGHTS.items():

    def _tensors(folder: Path, make: Callable[[], bytes] = _make) -> Path:
        return file(folder, "hostile.safetensors", make())

    attack(_says, weights=True, name=f"safetensors_{_name}")(_tensors)


@attack("of JSON would take", weights=True, once=True)
def safetensors_json_of_very_many_lists(folder: Path) -> Path:
    """A header below the format's own cap that would become gigabytes of lists."""
    return file(folder, "hostile.safetensors", container(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"))


@attack("of JSON would take", weights=True, once=True)
def safetensors_very_many_tensors_of_nothing(folder: Path) -> Path:
    entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(400_000))
    return file(folder, "hostile.safetensors", container(b"{" + entries + b"}"))


def _deep_manifest(found: dict[str, Any]) -> None:
    inner: dict[str, Any] = {"name": "constant"}
    for _ in range(150):
        inner = {"name": "sum", "parts": [inner]}
    found["spec"]["groups"][0]["schedules"] = {"lr": inner}


def _other_program(found: dict[str, Any]) -> None:
    found["spec"]["groups"][0]["rule"]["digest"] = "0" * 64


def _many_parameters(found: dict[str, Any]) -> None:
    found["parameters"] *= 2


BUNDLES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "deep_manifest": (_deep_manifest, "Message too deep"),
    "rule_of_another_digest": (_other_program, "expected 000000000000; damaged"),
    "parameters_twice": (_many_parameters, "is in the manifest twice"),
    "newer_version": (
        lambda m: m.update(version=1 << 30),
        "format version 1073741824; this optexport reads up to",
    ),
    "step_that_is_none": (lambda m: m["parameters"][0].update(step="-1"), "Value out of range: -1"),
    "huge_shape": (
        lambda m: m["parameters"][0]["slots"]["exp_avg"].update(shape=["9" * 18, "9" * 18]),
        "the manifest says float32 [999999999999999999, 9",
    ),
    "slot_named_as_a_path": (
        lambda m: m["parameters"][0]["slots"].update({"../../x": m["parameters"][0]["slots"].pop("exp_avg")}),
        "tensor 'fc.weight/../../x' of the manifest is missing",
    ),
}
for _name, (_change, _says) in BUNDLES.items():

    def _bundle(folder: Path, change: Callable[[dict[str, Any]], None] = _change) -> Path:
        return file(folder, "hostile.safetensors", manifest(change))

    attack(_says, format="bundle", name=f"bundle_{_name}")(_bundle)


# -- msgpack ----------------------------------------------------------------------------------------


def ext(code: int, body: bytes, size: int | None = None) -> bytes:
    return b"\xc9" + struct.pack(">IB", len(body) if size is None else size, code) + body


def text(value: str) -> bytes:
    return bytes((0xA0 | len(value),)) + value.encode()


def array(shape: bytes, data: bytes, kind: str = "float32") -> bytes:
    return ext(1, b"\x93" + shape + text(kind) + b"\xc6" + struct.pack(">I", len(data)) + data)


def state(leaf: bytes) -> bytes:
    """As Flax writes Adam's state, with ``leaf`` as a moment."""
    moments = (
        b"\x83" + text("count") + array(b"\x90", bytes(4), "int32") + text("mu") + b"\x81" + text("w") + leaf
    )
    return b"\x81" + text("0") + moments + text("nu") + b"\x81" + text("w") + array(b"\x91\x04", bytes(16))


def pieces(shape: bytes, *chunks: bytes, count: int | None = None) -> bytes:
    listed = b"".join(text(str(i)) + c for i, c in enumerate(chunks))
    return (
        b"\x83" + text("__msgpack_chunked_array__") + b"\xc3" + text("shape") + b"\x81" + text("0") + shape
        + text("chunks") + bytes((0x80 | (len(chunks) if count is None else count),)) + listed
    )  # fmt: skip


FOUR = array(b"\x91\x04", bytes(16))
PACKED: dict[str, tuple[Callable[[], bytes], str]] = {
    "extension_longer_than_the_file": (
        lambda: state(ext(1, b"x", size=(1 << 32) - 1)),
        "exceeds max_ext_len",
    ),
    "unknown_extension": (lambda: state(ext(77, b"x")), "extension type 77"),
    "shape_that_does_not_fit": (
        lambda: state(array(b"\x92\xcf" + b"\x7f" * 8 + b"\x04", bytes(16))),
        "an array's shape is [9187201950435737471, 4]",
    ),
    "dimensions_that_overflow": (
        lambda: state(array(b"\x92" + b"\xce\x40\x00\x00\x00" * 2, bytes(16))),
        "does not fit",
    ),
    "negative_dimension": (lambda: state(array(b"\x91\xfc", bytes(16))), "expected numbers from 0 up"),
    "objects": (lambda: state(array(b"\x91\x02", bytes(16), "object")), "expected a real number type"),
    "dtype_of_text": (lambda: state(array(b"\x91\x02", bytes(16), "S8")), "expected a real number type"),
    "bytes_longer_than_the_file": (lambda: state(b"\xc6\xff\xff\xff\xffx"), "incomplete input"),
    "list_longer_than_the_file": (
        lambda: state(b"\xdd\xff\xff\xff\xff\x01"),
        "4294967295 exceeds max_array_len",
    ),
    "map_longer_than_the_file": (
        lambda: state(b"\xdf\xff\xff\xff\xff\xa1a\x01"),
        "4294967295 exceeds max_map_len",
    ),
    "deep": (
        lambda: b"\x81" + text("float32") + b"\x91" * 1_000_000 + b"\x01",
        "not a whole msgpack file: it nests too deep",
    ),
    "deep_maps": (
        lambda: (b"\x81" + text("float32")) * 100_000 + b"\x01",
        "not a whole msgpack file: it nests too deep",
    ),
    "deep_maps_just_allowed": (
        lambda: (b"\x81" + text("float32")) * 400 + b"\x01",
        "found no array of a parameter",
    ),
    "deep_extensions": (
        lambda: state(ext(1, ext(1, ext(1, b"\x93")))),
        "an array: expected shape, dtype and bytes",
    ),
    "pieces_of_another_size": (
        lambda: state(pieces(b"\xcf" + b"\x7f" * 8, FOUR, FOUR)),
        "do not make its shape",
    ),
    "pieces_of_a_negative_size": (lambda: state(pieces(b"\xff", FOUR, FOUR)), "do not make its shape"),
    "pieces_of_a_size_of_text": (lambda: state(pieces(text("9" * 30), FOUR)), "do not make its shape"),
    "pieces_that_are_none": (lambda: state(pieces(b"\x04", text("a"))), "do not make its shape"),
    "keys_that_are_numbers": (lambda: state(b"\x81\x01" + FOUR), "int is not allowed for map key"),
    "tail": (lambda: state(FOUR) + b"\x01", "extra data"),
}
for _name, (_make, _says) in PACKED.items():

    def _packed(folder: Path, make: Callable[[], bytes] = _make) -> Path:
        return file(folder, "hostile.msgpack", make())

    attack(_says, format="optax", name=f"msgpack_{_name}", needs=("msgpack",))(_packed)

for _kind, _code in {"lists": b"\x90", "maps": b"\x80"}.items():

    def _many(folder: Path, code: bytes = _code) -> Path:
        """A byte each, and some sixty as a Python object."""
        count = 3_000_000
        return file(
            folder,
            "hostile.msgpack",
            b"\x81" + text("float32") + b"\xdd" + struct.pack(">I", count) + code * count,
        )

    attack(
        "more than 2000000 values",
        format="optax",
        name=f"msgpack_very_many_{_kind}",
        needs=("msgpack",),
        once=True,
    )(_many)
