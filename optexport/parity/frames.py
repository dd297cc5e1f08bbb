"""Messages between two processes on a pipe: JSON and arrays, each with its length in front.

A frame is ``OXP1``, the length of the header (4 bytes, big-endian), that of the arrays (8 bytes), the header
(UTF-8 JSON) and the arrays' bytes one after another, little-endian, C order. The header's ``arrays`` names
each with dtype and shape; nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import OptexportError

__all__ = ["ClosedError", "Frame", "LateError", "RubbishError", "read_frame", "write_frame"]

MAGIC = b"OXP1"
_HEAD = struct.Struct(">4sIQ")
MOST_HEADER, MOST_ARRAYS = 1 << 26, 1 << 32
_DTYPES = frozenset({"float64", "float32", "float16", "int64", "int32", "bool"})

Frame = tuple[dict[str, Any], dict[str, np.ndarray]]


class ClosedError(OptexportError):
    """The other side is gone."""


class LateError(OptexportError):
    """The other side said nothing in time."""


class RubbishError(OptexportError):
    """Bytes that are no frame."""


def write_frame(fd: int, message: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
    """Send one message.

    Raises:
        ClosedError: nobody reads any more. RubbishError: an array of a type that frames do not carry.
    """
    parts, described = [], []
    for name, value in (arrays or {}).items():
        array = np.asarray(value)
        if array.dtype.name not in _DTYPES:
            raise RubbishError(
                f"array {name!r}: expected one of {', '.join(sorted(_DTYPES))}, found {array.dtype}"
            )
        parts.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        described.append([name, array.dtype.name, list(array.shape)])
    header = json.dumps({**message, "arrays": described}).encode()
    data = b"".join((_HEAD.pack(MAGIC, len(header), sum(map(len, parts))), header, *parts))
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except (BrokenPipeError, OSError) as e:
        raise ClosedError(f"the other process closed its pipe ({e.strerror})") from None


def read_frame(fd: int, timeout: float | None = None) -> Frame:
    """The next message.

    timeout: seconds for the whole of it, None to wait for ever.

    Raises:
        ClosedError: the pipe ended. LateError: the time was over. RubbishError: what came is no frame.
    """
    until = None if timeout is None else time.monotonic() + timeout
    head = _exactly(fd, _HEAD.size, until, start=True)
    _, header_size, arrays_size = _HEAD.unpack(head)
    if header_size > MOST_HEADER or arrays_size > MOST_ARRAYS:
        raise RubbishError(
            f"a frame of {header_size + arrays_size} bytes: expected at most {MOST_HEADER} and {MOST_ARRAYS}"
        )
    header, body = _exactly(fd, header_size, until), _exactly(fd, arrays_size, until)
    try:
        message = json.loads(header)
        return message, _arrays(message.pop("arrays"), body)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise RubbishError(f"a frame whose header does not fit its arrays: {e}") from None


def _arrays(described: Any, body: bytes) -> dict[str, np.ndarray]:
    out, at = {}, 0
    for name, dtype, shape in described:
        if dtype not in _DTYPES or any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError(f"array {name!r} of {dtype} {shape}")
        kind = np.dtype(dtype).newbyteorder("<")
        size = kind.itemsize * math.prod(shape)
        if at + size > len(body):
            raise ValueError(f"array {name!r} ends after the frame")
        out[name] = np.frombuffer(body, kind, math.prod(shape), at).reshape(shape).astype(dtype)
        at += size
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes belong to no array")
    return out


def _exactly(fd: int, size: int, until: float | None, start: bool = False) -> bytes:
    """``size`` bytes; at the start of a frame its first ones are looked at as they come."""
    got = bytearray()
    while len(got) < size:
        left = None if until is None else max(0.0, until - time.monotonic())
        ready, _, _ = select.select([fd], [], [], left)
        if not ready:
            raise LateError("no answer in time")
        some = os.read(fd, min(size - len(got), 1 << 20))
        if not some:
            raise ClosedError("the pipe ended")
        got += some
        if start and not MAGIC.startswith(bytes(got[:4])):
            more = os.read(fd, 200) if select.select([fd], [], [], 0.2)[0] else b""
            raise RubbishError(repr((bytes(got) + more)[:80].decode("utf-8", "replace")))
    return bytes(got)
