"""The wire format of protobuf messages: enough to read TensorFlow's small ones."""

from __future__ import annotations

from collections.abc import Iterator

from optexport.errors import CheckpointError

__all__ = ["fields", "number", "varint"]


def varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """A whole number of at most 64 bits at ``at``, and the place after it.

    Raises:
        CheckpointError: it is cut, or longer.
    """
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise CheckpointError(f"{where}: a number is cut; the file is damaged")


def number(value: int) -> int:
    """The signed number behind 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """(tag, number or bytes) of every field of a message, in its order.

    Raises:
        CheckpointError: it is no message.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at, where)
        tag, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(data, at, where)
            yield tag, value
            continue
        if kind == 2:
            size, at = varint(data, at, where)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise CheckpointError(
                f"{where}: expected a protobuf message, found wire type {kind}; it is damaged"
            )
        if at + size > len(data):
            raise CheckpointError(f"{where}: a field of {size} bytes is cut; the file is damaged")
        held = data[at : at + size]
        at += size
        yield tag, (held if kind == 2 else int.from_bytes(held, "little"))
