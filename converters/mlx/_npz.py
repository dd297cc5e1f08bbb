"""NumPy's ``.npz``: a zip of arrays, mapped where they are stored as they are. No pickle is ever read."""

from __future__ import annotations

import ast
import math
import os
import re
import struct
import zipfile
import zlib

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.limits import holdable

__all__ = ["looks_like_npz", "names", "read_npz"]

_SUFFIX = ".npy"
_LOCAL = 30
_MOST_MEMBERS = 1_000_000
_LONGEST_HEADER = 1 << 16
# Zeros deflate to a thousandth; a bomb does no better, and no state is all zeros and larger than this.
_LARGEST_DEFLATED = 1 << 28
_CODE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|V2)")


def looks_like_npz(path: str) -> bool:
    """Whether every member of a zip is an array."""
    try:
        found = names(path)
    except CheckpointError:
        return False
    return bool(found)


def names(path: str) -> list[str]:
    """Names of the arrays.

    Raises:
        CheckpointError: it is no such file.
    """
    return [i.filename[: -len(_SUFFIX)] for i in _members(path)]


def _members(path: str) -> list[zipfile.ZipInfo]:
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: expected a file")
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise CheckpointError(f"{path}: expected a zip of NumPy arrays")
            with zipfile.ZipFile(file) as held:
                members = held.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path}: expected a zip of NumPy arrays: {error}") from None
    if len(members) > _MOST_MEMBERS:
        raise CheckpointError(f"{path}: has {len(members)} members, more than {_MOST_MEMBERS}")
    if len({i.filename for i in members}) != len(members):
        raise CheckpointError(f"{path}: a name occurs twice in the zip")
    if any(not i.filename.endswith(_SUFFIX) for i in members):
        raise CheckpointError(f"{path}: expected a zip of NumPy arrays, found other members")
    return members


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Arrays by name, in the file's order; read-only.

    Raises:
        CheckpointError: a member is damaged, encrypted, of another type than plain numbers, or longer
            than the file says.
    """
    data = map_file(path)
    out = {}
    for info in _members(path):
        name = info.filename[: -len(_SUFFIX)]
        out[name] = _array(_bytes(data, info, path), f"{path}: array {name!r}")
    return out


def _bytes(data: memoryview, info: zipfile.ZipInfo, path: str) -> memoryview:
    where = f"{path}: {info.filename}"
    head = bytes(data[info.header_offset : info.header_offset + _LOCAL])
    if len(head) != _LOCAL or head[:4] != b"PK\x03\x04" or info.flag_bits & 1:
        raise CheckpointError(f"{where}: its header is missing, or it is encrypted")
    start = info.header_offset + _LOCAL
    start += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if start + info.compress_size > len(data):
        raise CheckpointError(f"{where}: is longer than the file; the file is damaged")
    held = data[start : start + info.compress_size]
    if info.compress_type == zipfile.ZIP_DEFLATED:
        if info.file_size > _LARGEST_DEFLATED:
            raise CheckpointError(
                f"{where}: expected at most {_LARGEST_DEFLATED} bytes deflated, found {info.file_size}; store it as it is"
            )
        try:
            work = zlib.decompressobj(-15)
            held = memoryview(work.decompress(held, info.file_size + 1))
        except zlib.error as error:
            raise CheckpointError(f"{where}: {error}; the file is damaged") from None
    elif info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{where}: expected a member that is stored or deflated")
    if len(held) != info.file_size:
        raise CheckpointError(
            f"{where}: expected {info.file_size} bytes, found {len(held)}; the file is damaged"
        )
    if zlib.crc32(held) != info.CRC:
        raise CheckpointError(f"{where}: bytes do not have the checksum of the zip; the file is damaged")
    return held


def _array(data: memoryview, where: str) -> np.ndarray:
    """One ``.npy``: a header that is a dictionary of plain values, then the bytes."""
    if bytes(data[:6]) != b"\x93NUMPY" or len(data) < 10 or data[6] not in (1, 2, 3):
        raise CheckpointError(f"{where}: expected a NumPy array, found other bytes")
    wide = 2 if data[6] == 1 else 4
    size = int.from_bytes(data[8 : 8 + wide], "little")
    start = 8 + wide + size
    if size > _LONGEST_HEADER or start > len(data):
        raise CheckpointError(f"{where}: declares a header of {size} bytes; the file is damaged")
    try:
        header = ast.literal_eval(bytes(data[8 + wide : start]).decode("latin-1").strip())
        kind, shape, order = header["descr"], header["shape"], header["fortran_order"]
        fits = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
        if not fits or type(order) is not bool or set(header) != {"descr", "shape", "fortran_order"}:
            raise ValueError
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise CheckpointError(f"{where}: its header is not that of an array; the file is damaged") from None
    if not isinstance(kind, str) or not _CODE.fullmatch(kind):
        raise CheckpointError(
            f"{where}: expected plain numbers, found {str(kind)[:40]!r}; objects are pickles, which are never read"
        )
    dtype = np.dtype(kind)
    if dtype.kind == "V":
        raise CheckpointError(
            f"{where}: two bytes of no type, which is how NumPy keeps bfloat16; save as safetensors instead"
        )
    if not holdable(shape, dtype.itemsize):
        raise CheckpointError(f"{where}: expected a shape that an array can have, found {list(shape)}")
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise CheckpointError(
            f"{where}: shape {list(shape)} of {dtype} needs {math.prod(shape) * dtype.itemsize} bytes, found "
            f"{len(data) - start}"
        )
    array = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if order else "C")
    array.flags.writeable = False
    return array
