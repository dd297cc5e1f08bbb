"""Flax' msgpack files (``flax/serialization.py``): nested maps of arrays, one extension type each.

Extension 1 is an array, msgpack of [shape, dtype's name, C-order bytes]; 3 a NumPy scalar, the same. An
array above 2³⁰ bytes is a map of its pieces. Tuples, lists and named tuples are maps with text keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optexport.errors import CheckpointError

__all__ = ["CHUNK", "encode", "load_msgpack", "looks_like_msgpack"]

Tree = dict[str, Any]

CHUNK = 1 << 30
_CHUNKED = "__msgpack_chunked_array__"
_MOST_VALUES = 2_000_000
# First byte -> bytes of the length that follows, and of the extension's type.
_LENGTHS = {
    **{0xC4 + i: (1 << i, 0) for i in range(3)},
    **{0xC7 + i: (1 << i, 1) for i in range(3)},
    **{0xD9 + i: (1 << i, 0) for i in range(3)},
}
# First byte -> bytes of the value, of the length of a list or a map, or of an extension.
_FIXED = {
    **{0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8},
    **{0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4},
}
_NAMES = frozenset(
    ("bool", *(f"{k}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)), "float16", "float32", "float64")
)


def _msgpack(file: str) -> Any:
    try:
        import msgpack
    except ImportError:
        raise CheckpointError(
            f"{file}: Flax' msgpack files need the package msgpack; install optexport[optax]"
        ) from None
    return msgpack


def looks_like_msgpack(head: bytes) -> bool:
    """Whether the first bytes are a map, not empty, whose first key is text."""
    if len(head) < 4:
        return False
    start = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
    if not start or len(head) <= start:
        return False
    return 0xA1 <= head[start] <= 0xBF or head[start] == 0xD9


def load_msgpack(data: memoryview, file: str) -> Tree:
    """The file's root, nested dictionaries with NumPy arrays and plain numbers as leaves.

    Nothing is larger than the file: every length is checked against it before anything is made.

    Raises:
        CheckpointError: no map at the root, a malformed or truncated file, or the package is missing.
    """
    msgpack = _msgpack(file)

    def made(code: int, raw: bytes) -> Any:
        if code not in (1, 3):
            raise CheckpointError(f"{file}: extension type {code}: expected 1 or 3, an array or a number")
        return _array(msgpack, raw, file)

    _count(data, file)
    try:
        root = msgpack.unpackb(data, ext_hook=made, raw=False, strict_map_key=True)
    except CheckpointError:
        raise
    except Exception as error:  # the package has no one base class for what a malformed file raises
        deep = isinstance(error, msgpack.exceptions.StackError)
        said = "it nests too deep" if deep else str(error) or type(error).__name__
        raise CheckpointError(f"{file}: not a whole msgpack file: {said}") from None
    if not isinstance(root, dict):
        raise CheckpointError(f"{file}: expected a map of names, found a {type(root).__name__}")
    return _tidy(root, file)  # type: ignore[no-any-return]


def _count(data: memoryview, file: str) -> None:
    """Refuse a file of more values than a checkpoint has: a byte of it can become a hundred of memory."""
    at, size, seen = 0, len(data), 0
    while at < size:
        head = data[at]
        seen += 1
        if seen > _MOST_VALUES:
            raise CheckpointError(f"{file}: more than {_MOST_VALUES} values; expected arrays; refused")
        if head in _LENGTHS:
            width, extra = _LENGTHS[head]
            at += 1 + width + extra + int.from_bytes(data[at + 1 : at + 1 + width], "big")
        elif 0xA0 <= head <= 0xBF:
            at += 1 + (head & 0x1F)
        else:
            at += 1 + _FIXED.get(head, 0)


def _array(msgpack: Any, raw: bytes, file: str) -> np.ndarray:
    _count(memoryview(raw), file)
    body = msgpack.unpackb(raw, raw=False)
    if not isinstance(body, list | tuple) or len(body) != 3:
        raise CheckpointError(f"{file}: an array: expected shape, dtype and bytes; the file is damaged")
    shape, name, data = body
    if not isinstance(shape, list | tuple) or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise CheckpointError(f"{file}: an array's shape is {shape!r:.80}; expected numbers from 0 up")
    if len(shape) > 32:
        raise CheckpointError(f"{file}: an array has {len(shape)} dimensions; expected at most 32")
    if isinstance(name, bytes):
        name = name.decode("ascii", "replace")
    if name == "bfloat16":
        import ml_dtypes

        kind = np.dtype(ml_dtypes.bfloat16)
    elif name in _NAMES:
        kind = np.dtype(name)
    else:
        raise CheckpointError(f"{file}: an array of {name!r:.40}; expected a real number type")
    if not isinstance(data, bytes) or math.prod(shape) * kind.itemsize != len(data):
        size = len(data) if isinstance(data, bytes) else "no"
        raise CheckpointError(f"{file}: shape {list(shape)} of {kind} does not fit {size} bytes")
    return np.frombuffer(data, kind).reshape(shape)


def _tidy(value: Any, file: str) -> Any:
    """Pieces put together; only text keys, arrays and plain values stay."""
    if isinstance(value, dict):
        if _CHUNKED in value:
            return _joined(value, file)
        if not all(isinstance(k, str) for k in value):
            raise CheckpointError(f"{file}: a map's key is no text; the file is damaged")
        return {k: _tidy(v, file) for k, v in value.items()}
    if isinstance(value, list):
        return {str(i): _tidy(v, file) for i, v in enumerate(value)}
    return value


def _joined(value: Mapping[str, Any], file: str) -> np.ndarray:
    """An array out of its pieces."""
    shape, chunks = value.get("shape"), value.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or not chunks:
        raise CheckpointError(f"{file}: an array in pieces lacks its shape or its pieces")
    try:
        sizes = tuple(int(shape[str(i)]) for i in range(len(shape)))
        pieces = [chunks[str(i)] for i in range(len(chunks))]
        if any(n < 0 for n in sizes):  # NumPy would take -1 for "the rest"
            raise ValueError
        whole: np.ndarray = np.concatenate([p.ravel() for p in pieces]).reshape(sizes)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{file}: the pieces of an array do not make its shape") from None
    whole.flags.writeable = False
    return whole


def encode(tree: Mapping[str, Any], write: Callable[[bytes], Any], chunk: int = CHUNK) -> None:
    """``tree`` as Flax writes it, given to ``write`` array by array. chunk: bytes of a piece.

    Raises:
        CheckpointError: the package is missing.
    """
    packer = _msgpack("writing").Packer()

    def put(value: Any) -> None:
        if isinstance(value, Mapping):
            write(packer.pack_map_header(len(value)))
            for key, held in value.items():
                write(packer.pack(key))
                put(held)
        elif isinstance(value, np.ndarray) and value.nbytes > chunk:
            flat, count = value.reshape(-1), max(1, chunk // value.itemsize)
            pieces = [flat[i : i + count] for i in range(0, flat.size, count)]
            put(
                {
                    _CHUNKED: True,
                    "shape": {str(i): n for i, n in enumerate(value.shape)},
                    "chunks": {str(i): p for i, p in enumerate(pieces)},
                }
            )
        elif isinstance(value, np.ndarray):
            body = packer.pack((value.shape, value.dtype.name, np.ascontiguousarray(value).tobytes()))
            write(packer.pack_ext_type(1, body) or b"")
        else:
            write(packer.pack(value))

    put(tree)
