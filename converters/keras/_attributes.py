"""Texts among an HDF5 object's attributes, read out of the mapped file.

The HDF5 library reads texts of varying length out of a heap, trusting what the heap says of itself: a
damaged one can keep it busy without end, and one text that many elements point at is copied for each.
Here nothing is followed that does not lie inside the file, and there is a bound for all.

Object header, version 1: 16 bytes, then messages of type, size, flags and data; one type says where more
of them are. An attribute: name, datatype, dataspace, data. A text of varying length: its length, the
address of a heap, its number there. (HDF5 file format specification 3.0, III.E, IV.A.1, IV.A.2.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from optexport.errors import CheckpointError

__all__ = ["texts_of"]

_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_FIXED, _VARYING = 3, 9  # classes of datatypes
_MESSAGES = 100_000
_TEXT = 256 << 20  # bytes of all texts of one attribute
_REFERENCE = 16


def texts_of(data: memoryview, address: int, where: str) -> dict[str, list[str]]:
    """Name -> texts of every attribute of the object at ``address`` that is a text or a list of them.

    Raises:
        CheckpointError: the header or a heap is damaged, or of a version that Keras' files do not have.
    """
    heaps: dict[int, dict[int, memoryview]] = {}
    out: dict[str, list[str]] = {}
    for message in _messages(data, address, where):
        held = _attribute(data, message, heaps, where)
        if held is not None:
            out[held[0]] = held[1]
    return out


def _damage(where: str, what: str) -> CheckpointError:
    return CheckpointError(f"{where}: {what}; the file is damaged")


def _piece(data: memoryview, start: int, size: int, where: str) -> memoryview:
    if start < 0 or size < 0 or start + size > len(data):
        raise _damage(where, f"expected {size} bytes at {start}, which are not in the file")
    return data[start : start + size]


def _number(data: memoryview, at: int, size: int, where: str) -> int:
    return int.from_bytes(_piece(data, at, size, where), "little")


def _messages(data: memoryview, address: int, where: str) -> Iterator[memoryview]:
    """The attributes' messages, in the header and where it goes on."""
    head = _piece(data, address, 16, where)
    if head[0] != 1:
        raise CheckpointError(
            f"{where}: expected an object header of version 1, as Keras' files have it, found another; write the file again "
            "with Keras"
        )
    todo = [(address + 16, _number(head, 8, 4, where))]
    seen: set[int] = set()
    count = 0
    while todo:
        start, size = todo.pop()
        if start in seen:
            raise _damage(where, "an object header goes on in itself")
        seen.add(start)
        block, at = _piece(data, start, size, where), 0
        while at + 8 <= size:
            kind, length = _number(block, at, 2, where), _number(block, at + 2, 2, where)
            body = _piece(block, at + 8, length, where)
            at, count = at + 8 + length, count + 1
            if count > _MESSAGES:
                raise _damage(where, f"an object header of more than {_MESSAGES} messages")
            if kind == _CONTINUATION:
                todo.append((_number(body, 0, 8, where), _number(body, 8, 8, where)))
            elif kind == _ATTRIBUTE:
                yield body


def _attribute(
    data: memoryview, body: memoryview, heaps: dict[int, dict[int, memoryview]], where: str
) -> tuple[str, list[str]] | None:
    """Name and texts; None for an attribute of something else."""
    version = _number(body, 0, 1, where)
    sizes = [_number(body, at, 2, where) for at in (2, 4, 6)]
    # From version 2 on a part may be kept elsewhere, from 3 on nothing is filled up to 8 bytes.
    if version not in (1, 2, 3) or (version > 1 and body[1]):
        return None
    at = 9 if version == 3 else 8
    parts = []
    for size in sizes:
        parts.append(_piece(body, at, size, where))
        at += size if version > 1 else -(-size // 8) * 8
    name = bytes(parts[0]).split(b"\0")[0].decode("utf-8", "replace")
    kind, unit = _number(parts[1], 0, 1, where) & 0x0F, _number(parts[1], 4, 4, where)
    if kind not in (_FIXED, _VARYING) or (kind == _VARYING and _number(parts[1], 1, 1, where) & 0x0F != 1):
        return None
    if kind == _VARYING:
        unit = _REFERENCE
    count = _count(parts[2], where)
    raw = _piece(body, at, count * unit, f"{where}, attribute {name!r}")
    items = [raw[i * unit : (i + 1) * unit] for i in range(count)]
    if kind == _VARYING:
        items = _varying(data, items, heaps, f"{where}, attribute {name!r}")
    return name, [bytes(item).rstrip(b"\0").decode("utf-8", "replace") for item in items]


def _count(space: memoryview, where: str) -> int:
    """Elements of a dataspace: one where it has no axes, none where it is null."""
    version, rank = _number(space, 0, 1, where), _number(space, 1, 1, where)
    if version == 2 and _number(space, 3, 1, where) == 2:
        return 0
    start = 8 if version == 1 else 4
    return math.prod(_number(space, start + 8 * i, 8, where) for i in range(rank))


def _varying(
    data: memoryview, references: list[memoryview], heaps: dict[int, dict[int, memoryview]], where: str
) -> list[memoryview]:
    out, total = [], 0
    for reference in references:
        length, address = _number(reference, 0, 4, where), _number(reference, 4, 8, where)
        index = _number(reference, 12, 4, where)
        if length == 0:
            out.append(memoryview(b""))
            continue
        if address not in heaps:
            heaps[address] = _heap(data, address, where)
        held = heaps[address].get(index, memoryview(b""))
        total += length
        if length > len(held) or total > _TEXT:
            raise _damage(where, f"expected a text of {length} bytes, found {len(held)}")
        out.append(held[:length])
    return out


def _heap(data: memoryview, address: int, where: str) -> dict[int, memoryview]:
    """Number -> bytes of the objects in a global heap."""
    head = _piece(data, address, 16, where)
    if bytes(head[:5]) != b"GCOL\x01":
        raise _damage(where, "expected a heap of texts, found none")
    block, at = _piece(data, address, _number(head, 8, 8, where), where), 16
    out: dict[int, memoryview] = {}
    while at + 16 <= len(block):
        index, size = _number(block, at, 2, where), _number(block, at + 8, 8, where)
        if index == 0:  # what is free
            break
        out[index] = _piece(block, at + 16, size, where)
        at += 16 + -(-size // 8) * 8
    return out
