"""The safetensors container: mapped for reading, streamed for writing.

A writer of our own, because the library's takes every tensor in memory at once; files are opened and
checked as the format's own library does.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

import ml_dtypes
import numpy as np

from ..errors import CheckpointError
from .files import map_file
from .limits import holdable, parse_json
from .stream import byte_blocks, write_summed

__all__ = ["is_safetensors", "is_text", "metadata", "read_tensors", "tensor_bytes", "write_tensors"]

# The reference implementation's cap.
_MAX_HEADER = 100_000_000
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I16": np.int16,
    "U16": np.uint16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I32": np.int32,
    "U32": np.uint32,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "U64": np.uint64,
}
_NAMES = {np.dtype(t): name for name, t in _DTYPES.items()}


def tensor_bytes(array: np.ndarray) -> memoryview:
    """Little-endian C-order bytes, without a copy where the array has them already."""
    array = np.ascontiguousarray(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def is_safetensors(path: str) -> bool:
    """Whether the file begins as a safetensors file."""
    try:
        with open(path, "rb") as f:
            head = f.read(9)
            size = os.fstat(f.fileno()).st_size
    except OSError:
        return False
    return (
        len(head) == 9
        and head[8:9] == b"{"
        and 2 <= struct.unpack("<Q", head[:8])[0] <= min(size - 8, _MAX_HEADER)
    )


def metadata(path: str) -> tuple[list[str], dict[str, Any]]:
    """(tensor names, ``__metadata__``) of a safetensors file, as its header has them.

    Raises:
        CheckpointError: it has no such header.
    """
    header, _ = _header(path, map_file(path))
    meta = header.pop("__metadata__", {})
    return list(header), meta if isinstance(meta, dict) else {}


def read_tensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors (mapped, read-only, in the file's order of bytes) and metadata of a safetensors file.

    Raises:
        CheckpointError: not a valid safetensors file: header over its cap, holes or overlaps, an
            unknown dtype, a shape that disagrees with the bytes, a name twice.
    """
    view = map_file(path)
    header, start = _header(path, view)
    meta = header.pop("__metadata__", None)
    meta = {} if meta is None else meta  # null is how MLX says nothing
    if not isinstance(meta, dict) or not all(isinstance(v, str) for v in meta.values()):
        raise CheckpointError(f"{path}: expected text in __metadata__, found other values")
    out, end = {}, 0
    rows = [(name, *_row(path, name, row)) for name, row in header.items()]
    for name, dtype, shape, first, last in sorted(rows, key=lambda r: (r[3], r[4])):
        count = 1
        for n in shape:
            count *= n
        if first != end:
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected bytes from {end}, found {first}; holes and overlaps are refused"
            )
        if last - first != count * dtype.itemsize:
            raise CheckpointError(
                f"{path}: tensor {name!r}: shape {list(shape)} of {dtype.name} needs {count * dtype.itemsize} bytes, "
                f"found {last - first}"
            )
        if start + last > len(view):
            raise CheckpointError(
                f"{path}: tensor {name!r} ends at byte {start + last} of {len(view)}; the file is truncated"
            )
        if not holdable(shape, dtype.itemsize):
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected a shape that an array can have, found {len(shape)} "
                f"dimensions, {list(shape[:4])}…"
            )
        out[name] = np.frombuffer(view, dtype, count, start + first).reshape(shape)
        end = last
    if start + end != len(view):
        raise CheckpointError(f"{path}: expected {start + end} bytes, found {len(view)}; the file has a tail")
    return out, meta


def _header(path: str, view: memoryview) -> tuple[dict[str, Any], int]:
    if len(view) < 9:
        raise CheckpointError(f"{path}: expected a safetensors file, found {len(view)} bytes")
    (size,) = struct.unpack("<Q", view[:8])
    if size > min(len(view) - 8, _MAX_HEADER):
        raise CheckpointError(
            f"{path}: declares a header of {size} bytes in a file of {len(view)}; truncated, or no safetensors file"
        )

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError(f"{path}: a name occurs twice in the header")
        return found

    text = bytes(view[8 : 8 + size])
    try:
        if text[:1] != b"{":
            raise ValueError
        header: dict[str, Any] = parse_json(text, object_pairs_hook=no_duplicates)
    except ValueError as error:
        said = f"found other bytes: {' '.join(str(error).split())[:120]}".removesuffix(": ")
        raise CheckpointError(f"{path}: expected a safetensors header in JSON, {said}") from None
    for name in header:
        if not is_text(name):
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected a name in Unicode, found half a surrogate pair"
            )
    return header, 8 + size


def _row(path: str, name: str, row: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    try:
        kind, shape, (first, last) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        if isinstance(kind, str) and kind not in _DTYPES:
            raise CheckpointError(
                f"{path}: tensor {name!r}: unknown dtype {kind!r}; expected one of {', '.join(_DTYPES)}"
            )
        dtype = _DTYPES[kind]
        if set(row) != {"dtype", "shape", "data_offsets"}:
            raise ValueError
        if not all(type(n) is int and n >= 0 for n in (*shape, first, last)) or last < first:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: tensor {name!r}: malformed entry in the header") from None
    return np.dtype(dtype), shape, first, last


def write_tensors(
    file: BinaryIO,
    path: str,
    tensors: Mapping[str, np.ndarray],
    meta: Mapping[str, str] | Callable[[Mapping[str, str]], Mapping[str, str]],
    on_tensor: Callable[[int], None] | None = None,
) -> None:
    """Write a safetensors file, tensors in sorted order.

    path: what to call the file in messages. meta: the metadata, or a function that makes it from the
    sha256 of every tensor (64 digits each) and gives as many bytes whatever they are. on_tensor: called
    with the number of bytes of each tensor.

    Raises:
        CheckpointError: a dtype that safetensors does not have, or a name that is no text.
    """
    names = sorted(tensors)
    entries: dict[str, Any] = {}
    offset = 0
    for name in names:
        array = tensors[name]
        kind = _NAMES.get(array.dtype.newbyteorder("=") if array.dtype.byteorder == ">" else array.dtype)
        if kind is None:
            raise CheckpointError(f"{path}: tensor {name!r}: safetensors has no dtype {array.dtype}")
        if name == "__metadata__" or not is_text(name):
            raise CheckpointError(f"{path}: tensor {name!r}: safetensors cannot have this name; rename it")
        entries[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    told = meta if callable(meta) else None

    def header(sums: Mapping[str, str]) -> bytes:
        held = dict(told(sums) if told is not None else cast(Mapping[str, str], meta))
        text = json.dumps(
            {"__metadata__": held, **entries}, separators=(",", ":"), ensure_ascii=False
        ).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    arrays = [tensors[name] for name in names]
    if told is None:
        file.write(header({}))
        for array in arrays:
            for block in byte_blocks(array):
                file.write(block)
            if on_tensor is not None:
                on_tensor(array.nbytes)
        return
    # The sums stand before what they are the sums of, and are made while that is written.
    start, blank = file.tell(), header(dict.fromkeys(names, "0" * 64))
    file.write(blank)
    end, placed = file.tell(), []
    for array in arrays:
        placed.append((end, array))
        end += array.nbytes
    made = write_summed(file, placed, hashlib.sha256, on_tensor)
    text = header({name: s.hexdigest() for name, s in zip(names, made, strict=True)})
    if len(text) != len(blank):
        raise AssertionError("metadata changed its length with the sums")
    file.seek(start)
    file.write(text)
    file.seek(end)


def is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
