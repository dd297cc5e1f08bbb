"""Flatbuffers: tables of a mapped file, every offset checked, and files laid out and streamed.

The flatbuffers package checks no offset when it reads and keeps the whole file in memory when it
writes. Source: the internals page of the FlatBuffers documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from optexport.errors import CheckpointError

__all__ = ["Buffer", "Field", "Part", "Scalar", "Table", "layout"]


_MAX_TABLES = 500_000  # more would take longer to read than anybody waits


class Buffer:
    """One file's bytes.

    What is read is counted: tables, texts and raw bytes of a real file do not overlap, so together
    they are no more than the file.
    """

    def __init__(self, data: memoryview, where: str) -> None:
        self.data, self.where = data, where
        self.tables_left = min(len(data) // 4, _MAX_TABLES)
        self.bytes_left = len(data)

    def fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.where}: {what}; the file is damaged")

    def number(self, code: str, at: int) -> Any:
        if at < 0 or at + struct.calcsize(code) > len(self.data):
            self.fail(f"an offset leads to byte {at} of {len(self.data)}")
        return struct.unpack_from(f"<{code}", self.data, at)[0]

    def root(self) -> Table:
        return Table(self, self.number("I", 0))

    def vector(self, at: int, item: int) -> tuple[int, int]:
        """(first byte, number of items) of the vector that the offset at ``at`` leads to."""
        start = at + self.number("I", at)
        count = self.number("I", start)
        if count * item > len(self.data) - start - 4:
            self.fail(f"a vector of {count} items at byte {start}, behind which the file ends")
        return start + 4, count

    def take(self, at: int) -> memoryview:
        """The bytes of the vector that the offset at ``at`` leads to."""
        start, count = self.vector(at, 1)
        self.bytes_left -= count
        if self.bytes_left < 0:
            self.fail("vectors have more bytes together than the file; they overlap")
        return self.data[start : start + count]


class Table:
    """One table; fields by their number in the schema."""

    def __init__(self, buffer: Buffer, at: int) -> None:
        buffer.tables_left -= 1
        if buffer.tables_left < 0:
            buffer.fail("more tables than expected (they overlap, or are too many)")
        self._buffer, self._at = buffer, at
        self._vtable = at - buffer.number("i", at)
        self._size = buffer.number("H", self._vtable)

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        offset = self._buffer.number("H", self._vtable + entry)
        return self._at + offset if offset else None

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def number(self, field: int, code: str, default: Any = 0) -> Any:
        """A scalar; its default where the file leaves it out."""
        at = self._place(field)
        return default if at is None else self._buffer.number(code, at)

    def table(self, field: int) -> Table | None:
        at = self._place(field)
        return None if at is None else Table(self._buffer, at + self._buffer.number("I", at))

    def tables(self, field: int) -> Iterable[Table]:
        at = self._place(field)
        if at is None:
            return
        start, count = self._buffer.vector(at, 4)
        for i in range(start, start + 4 * count, 4):
            yield Table(self._buffer, i + self._buffer.number("I", i))

    def bytes(self, field: int) -> memoryview | None:
        at = self._place(field)
        return None if at is None else self._buffer.take(at)

    def longs(self, field: int) -> tuple[int, ...]:
        """A vector of at most 64 int64."""
        at = self._place(field)
        if at is None:
            return ()
        start, count = self._buffer.vector(at, 8)
        if count > 64:
            self._buffer.fail(f"{count} dimensions; expected at most 64")
        return struct.unpack_from(f"<{count}q", self._buffer.data, start)

    def text(self, field: int, what: str) -> str:
        data = self.bytes(field)
        if data is None:
            self._buffer.fail(f"{what} is missing")
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            self._buffer.fail(f"{what} is not UTF-8 text")


# -- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scalar:
    """A scalar field: a ``struct`` code and its value."""

    code: str
    value: int | float


# A field is absent, a scalar, a table (a list of fields in the schema's order), a vector of tables
# (a tuple), a text, or a vector of numbers: an array, whose items are the vector's.
Field = None | Scalar | list[Any] | tuple[Any, ...] | str | np.ndarray
Part = bytes | bytearray | np.ndarray


class _Layout:
    """Places objects one behind the other; what an object points to stands behind it."""

    def __init__(self) -> None:
        self.at = 0
        self.parts: list[Part] = []

    def put(self, data: Part) -> int:
        start = self.at
        self.parts.append(data)
        self.at += data.nbytes if isinstance(data, np.ndarray) else len(data)
        return start

    def pad(self, to: int, ahead: int = 0) -> None:
        """Zeros, so that what comes ``ahead`` bytes later is aligned."""
        gap = -(self.at + ahead) % to
        if gap:
            self.put(bytes(gap))

    def place(self, value: Field) -> int:
        """Lay out what a field points to; its place."""
        if isinstance(value, list):
            return self.table(value)
        if isinstance(value, str):
            data = value.encode()
            self.pad(4)
            return self.put(struct.pack("<I", len(data)) + data + b"\0")
        if isinstance(value, tuple):
            self.pad(4)
            body = bytearray(4 + 4 * len(value))
            struct.pack_into("<I", body, 0, len(value))
            start = self.put(body)
            self._point(start, body, [(4 + 4 * i, v) for i, v in enumerate(value)])
            return start
        assert isinstance(value, np.ndarray)
        self.pad(8, 4)
        start = self.put(struct.pack("<I", value.size))
        self.put(value)
        return start

    def table(self, fields: Sequence[Field]) -> int:
        """A table with its vtable in front; big fields first, so that each is aligned."""
        sizes = {
            i: struct.calcsize(f.code) if isinstance(f, Scalar) else 4
            for i, f in enumerate(fields)
            if f is not None
        }
        places, end = {}, 4
        for i in sorted(sizes, key=lambda i: (sizes[i] == 8, -sizes[i])):
            end += -end % sizes[i]
            places[i] = end
            end += sizes[i]
        width = 4 + 2 * len(fields)
        vtable = struct.pack(
            f"<{2 + len(fields)}H", width, end, *(places.get(i, 0) for i in range(len(fields)))
        )
        self.pad(8, width)  # the vtable ends where the table begins
        self.put(vtable)
        body = bytearray(end)
        struct.pack_into("<i", body, 0, width)
        start = self.put(body)
        pointed = []
        for i, f in enumerate(fields):
            if isinstance(f, Scalar):
                struct.pack_into(f"<{f.code}", body, places[i], f.value)
            elif f is not None:
                pointed.append((places[i], f))
        self._point(start, body, pointed)
        return start

    def _point(self, start: int, body: bytearray, values: Iterable[tuple[int, Field]]) -> None:
        for place, value in values:
            offset = self.place(value) - (start + place)
            if offset >= 1 << 32:
                raise OverflowError
            struct.pack_into("<I", body, place, offset)


def layout(root: Sequence[Field], identifier: bytes) -> tuple[list[Part], int]:
    """The pieces of a file with this root table, and their size in bytes; arrays stay where they are.

    Raises:
        OverflowError: it has 2 GiB or more, which offsets cannot reach.
    """
    out = _Layout()
    head = bytearray(8)
    out.put(head)
    head[4:] = identifier
    struct.pack_into("<I", head, 0, out.table(root))
    if out.at >= 1 << 31:
        raise OverflowError
    return out.parts, out.at
