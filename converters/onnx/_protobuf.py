"""Protocol buffers as bytes: fields of a mapped message without a copy, and messages written as parts.

The library would copy a whole file into objects, and refuses 2 GiB; here a tensor's bytes stay where
they are. Source: the encoding page of the protocol buffers' documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import numpy as np

from optexport.errors import CheckpointError

__all__ = [
    "Fields",
    "Part",
    "doubles",
    "float32",
    "floats",
    "int64",
    "key_value",
    "message",
    "number",
    "size",
    "text",
    "varints",
]

# A piece of a message: bytes, or an array whose bytes are meant.
Part = bytes | memoryview | np.ndarray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECE = 1 << 18
_UINT64: np.dtype[Any] = np.dtype(np.uint64)
_MAX_FIELDS = 1_000_000  # of one file: more would take longer to walk than anybody waits


class Fields:
    """Walks the messages of one file and counts their fields, so that a small file cannot take long."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.left = _MAX_FIELDS

    def fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.where}: {what}; the file is damaged or no ONNX model")

    def walk(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """(field number, value) in the file's order: an int for a varint, else the value's bytes.

        Raises:
            CheckpointError: a field reaches behind the message's end, or is of a kind that no field has.
        """
        at, end = 0, len(data)
        while at < end:
            self.left -= 1
            if self.left < 0:
                self.fail(f"more than {_MAX_FIELDS} fields")
            tag, at = self._varint(data, at)
            kind = tag & 7
            if tag >> 3 == 0:
                self.fail("field number 0")
            if kind == _VARINT:
                value, at = self._varint(data, at)
                yield tag >> 3, value
                continue
            if kind == _BYTES:
                length, at = self._varint(data, at)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                self.fail(f"field {tag >> 3} of wire type {kind}")
            if length > end - at:
                self.fail(f"field {tag >> 3} has {length} bytes of which {end - at} are there")
            yield tag >> 3, data[at : at + length]
            at += length

    def table(self, data: memoryview) -> dict[int, list[int | memoryview]]:
        """Field number -> its values, in order."""
        out: dict[int, list[int | memoryview]] = {}
        for field, value in self.walk(data):
            out.setdefault(field, []).append(value)
        return out

    def bytes_of(self, value: int | memoryview, what: str) -> memoryview:
        if isinstance(value, int):
            self.fail(f"{what} is a number; expected bytes")
        return value

    def number_of(self, value: int | memoryview, what: str) -> int:
        """A varint as a signed 64-bit number."""
        if not isinstance(value, int):
            self.fail(f"{what} is no number")
        return int64(value)

    def text_of(self, value: int | memoryview, what: str) -> str:
        data = self.bytes_of(value, what)
        if len(data) > 1 << 16:
            self.fail(f"{what} has {len(data)} bytes; expected at most {1 << 16}")
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8 text")

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = shift = 0
        while at < len(data) and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
        self.fail("a number has no end")


def int64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def varints(
    values: Iterable[int | memoryview], walker: Fields, what: str, dtype: np.dtype[Any] = _UINT64
) -> np.ndarray:
    """A repeated number field, packed or not, in the file's order; higher bits than ``dtype`` has fall away."""
    out: list[np.ndarray] = []
    single: list[int] = []
    for value in values:
        if isinstance(value, int):
            single.append(value)
            continue
        if single:
            out.append(np.array(single, np.uint64).astype(dtype))
            single = []
        out += _packed(np.frombuffer(value, np.uint8), walker, what, dtype)
    if single:
        out.append(np.array(single, np.uint64).astype(dtype))
    return np.concatenate(out) if out else np.empty(0, dtype)


def _packed(data: np.ndarray, walker: Fields, what: str, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """Piece by piece, since the work on a byte takes many."""
    at = 0
    while at < data.size:
        piece = data[at : at + _PIECE]
        ends = np.flatnonzero(piece < 0x80)
        if ends.size == 0 or (at + piece.size == data.size and ends[-1] != piece.size - 1):
            walker.fail(f"{what}: a number has no end")
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends - starts + 1
        if lengths.max() > 10:
            walker.fail(f"{what}: a number of {lengths.max()} bytes")
        out = np.zeros(ends.size, np.uint64)
        for i in range(int(lengths.max())):
            held = np.flatnonzero(lengths > i)
            out[held] |= (piece[starts[held] + i].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * i)
        yield out.astype(dtype)
        at += int(ends[-1]) + 1


def floats(values: Iterable[int | memoryview], walker: Fields, what: str) -> np.ndarray:
    """A repeated float field, packed or not."""
    return _fixed(values, np.dtype("<f4"), walker, what)


def doubles(values: Iterable[int | memoryview], walker: Fields, what: str) -> np.ndarray:
    """A repeated double field, packed or not."""
    return _fixed(values, np.dtype("<f8"), walker, what)


def _fixed(
    values: Iterable[int | memoryview], dtype: np.dtype[np.floating], walker: Fields, what: str
) -> np.ndarray:
    pieces = [walker.bytes_of(v, what) for v in values]
    if any(len(p) % dtype.itemsize for p in pieces):
        walker.fail(f"{what}: bytes that are no whole {dtype.name}")
    if len(pieces) == 1:
        return np.frombuffer(pieces[0], dtype)
    return np.frombuffer(b"".join(pieces), dtype)


# -- writing --------------------------------------------------------------------------------------


def _encoded(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def size(parts: Iterable[Part]) -> int:
    """Bytes of a message's parts."""
    return sum(p.nbytes if isinstance(p, memoryview | np.ndarray) else len(p) for p in parts)


def number(field: int, value: int) -> list[Part]:
    """A varint field."""
    return [_encoded(field << 3 | _VARINT) + _encoded(value)]


def float32(field: int, value: float) -> list[Part]:
    """A float field."""
    return [_encoded(field << 3 | _FIXED32) + struct.pack("<f", value)]


def message(field: int, parts: list[Part]) -> list[Part]:
    """A field whose value is a message, or bytes, made of these parts."""
    return [_encoded(field << 3 | _BYTES) + _encoded(size(parts)), *parts]


def text(field: int, value: str) -> list[Part]:
    """A string field."""
    return message(field, [value.encode()])


def key_value(field: int, key: str, value: str) -> list[Part]:
    """A field of ONNX' StringStringEntryProto."""
    return message(field, [*text(1, key), *text(2, value)])
