"""MXNet's binary arrays: one record an array, and the list file around them (``.params``, ``.nd``).

A record starts with a magic number: V2 (MXNet 1.x) and V3 (the same, saved in NumPy mode, where
scalars and empty arrays exist) are read and written, V1 and V0 (older than 1.0) are read. Sparse
arrays are read into dense ones. All numbers are little-endian and nothing is aligned.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import BinaryIO, NoReturn

import ml_dtypes
import numpy as np

from optexport.errors import CheckpointError
from optexport.state.stream import byte_blocks

__all__ = [
    "LIST_MAGIC",
    "DenseBudget",
    "needs_numpy_shape",
    "pack_record",
    "read_list",
    "read_record",
    "record_head",
    "write_list",
]

LIST_MAGIC = 0x112

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE, _ROW_SPARSE, _CSR = 0, 1, 2
_AUX_ARRAYS = {_DENSE: 0, _ROW_SPARSE: 1, _CSR: 2}
_CPU = struct.pack("<ii", 1, 0)

_DTYPES: dict[int, np.dtype] = {
    0: np.dtype("<f4"), 1: np.dtype("<f8"), 2: np.dtype("<f2"), 3: np.dtype("u1"), 4: np.dtype("<i4"),
    5: np.dtype("i1"), 6: np.dtype("<i8"), 7: np.dtype("?"), 8: np.dtype("<i2"), 9: np.dtype("<u2"),
    10: np.dtype("<u4"), 11: np.dtype("<u8"), 12: np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip

# MXNet 1.9.1 has numbers for 16-bit and unsigned integers and refuses to load arrays of them.
_WRITABLE = {_DTYPES[flag]: flag for flag in (0, 1, 2, 3, 4, 5, 6, 7, 12)}

_MAX_DIMS = 32
_MAX_NAME = 1 << 16
_MAX_ARRAYS = 100_000
_FREE_DENSE_BYTES = 64 << 20
_DENSE_PER_FILE_BYTE = 64


class DenseBudget:
    """How many bytes the sparse arrays of one file may become when made dense (``made_dense`` counts them).

    A sparse record of a hundred bytes can declare terabytes, so the whole file gets 64 MiB and 64
    bytes for each byte it has.
    """

    def __init__(self, file_bytes: int) -> None:
        self.left = _FREE_DENSE_BYTES + _DENSE_PER_FILE_BYTE * file_bytes
        self.made_dense = 0

    def spend(self, nbytes: int, where: str) -> None:
        """Raise CheckpointError if ``nbytes`` more are too many."""
        if nbytes > self.left:
            raise CheckpointError(
                f"{where}: a sparse array that takes {nbytes} bytes when dense; expected at most {self.left} "
                "in a file of this size; save it with tostype('default')"
            )
        self.left -= nbytes
        self.made_dense += 1


class _Cursor:
    """A position in bytes; every read is checked against what is left."""

    def __init__(self, data: memoryview, at: int, where: str) -> None:
        self.data, self.at, self.where = data, at, where

    def fail(self, cause: str) -> NoReturn:
        raise CheckpointError(f"{self.where}: {cause}")

    def damaged(self, cause: str) -> NoReturn:
        self.fail(f"{cause}; the file is damaged")

    def take(self, length: int, what: str) -> memoryview:
        left = len(self.data) - self.at
        if length > left:
            self.fail(
                f"truncated: expected {length} bytes of {what} at byte {self.at}, found {left}; "
                "the file is incomplete or damaged"
            )
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, layout: str, what: str) -> int:
        return int(struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))[0])

    def shape(self, what: str) -> tuple[int, ...] | None:
        """int32 count and int64 dims; None where the count is -1 (an unknown shape)."""
        count = self.number("i", f"the number of dimensions of {what}")
        return None if count == -1 else self.dims(count, "q", what)

    def dims(self, count: int, layout: str, what: str) -> tuple[int, ...]:
        if not 0 <= count <= _MAX_DIMS:
            self.damaged(f"{what} has {count} dimensions; expected 0 to {_MAX_DIMS}")
        dims = tuple(self.number(layout, f"the dimensions of {what}") for _ in range(count))
        if any(dim < 0 for dim in dims):
            self.damaged(f"{what} has the shape {dims}; expected no negative dimension")
        if math.prod(dim for dim in dims if dim) >= 1 << 56:
            # Also where a dimension of 0 makes it empty: NumPy refuses such shapes.
            self.damaged(f"{what} has the shape {dims}, which no computer can hold")
        return dims

    def dtype(self, what: str) -> np.dtype:
        flag = self.number("i", f"the type of {what}")
        if flag not in _DTYPES:
            self.damaged(f"{what} has the type number {flag}; expected 0 to 12")
        return _DTYPES[flag]

    def array(self, dims: tuple[int, ...], dtype: np.dtype, what: str) -> np.ndarray:
        """Read-only array of ``dims``: a view where the bytes are aligned, else a copy."""
        count = math.prod(dims)
        raw = self.take(count * dtype.itemsize, what)
        if not count:
            array = np.empty(dims, dtype)
        else:
            array = np.frombuffer(raw, dtype).reshape(dims)
            if not array.flags.aligned:
                array = array.copy()
        array.flags.writeable = False
        return array


def read_record(
    data: memoryview, offset: int, *, where: str, budget: DenseBudget
) -> tuple[np.ndarray | None, int]:
    """The array of the record at ``offset``, read-only, and the offset just after it.

    None stands for "no array", which MXNet writes for an array that was never allocated.
    where: start of messages (file, parameter, slot). budget: what sparse arrays may become.
    Raises CheckpointError if the record is truncated or damaged, or exceeds the budget.
    """
    at = _Cursor(data, offset, where)
    magic = at.number("I", "the magic number")
    storage = _DENSE
    shape: tuple[int, ...] | None
    stored: tuple[int, ...] | None = None
    if magic in (_V2, _V3):
        storage = at.number("i", "the storage type")
        if storage == -1:
            storage = _DENSE
        if storage not in _AUX_ARRAYS:
            at.damaged(f"storage type {storage}; expected 0 (dense), 1 (row_sparse) or 2 (csr)")
        if storage != _DENSE:
            stored = at.shape("the stored values")
        shape = at.shape("the array")
    elif magic == _V1:
        shape = at.shape("the array")
    elif magic <= _MAX_DIMS:
        shape = at.dims(magic, "I", "the array")
    else:
        at.damaged(f"starts with 0x{magic:08x}, which is not an MXNet array")
    if shape is None or (not shape and magic != _V3):
        return None, at.at
    at.take(8, "the context")
    dtype = at.dtype("the array")
    if storage == _DENSE:
        return at.array(shape, dtype, "data"), at.at
    return _read_sparse(at, storage, shape, stored, dtype, budget), at.at


def _read_sparse(
    at: _Cursor,
    storage: int,
    shape: tuple[int, ...],
    stored: tuple[int, ...] | None,
    dtype: np.dtype,
    budget: DenseBudget,
) -> np.ndarray:
    heads = []
    for _ in range(_AUX_ARRAYS[storage]):
        kind = at.dtype("the indices")
        dims = at.shape("the indices")
        if kind.kind not in "iu" or dims is None or len(dims) != 1:
            at.damaged(f"indices of type {kind} and shape {dims}; expected integers in one dimension")
        heads.append((dims, kind))
    if stored is None or not stored:
        at.damaged("a sparse array whose values have no shape")
    values = at.array(stored, dtype, "values")
    # int64 whatever the file uses, so that comparisons and products below cannot wrap around.
    aux = [at.array(dims, kind, "indices").astype(np.int64) for dims, kind in heads]
    budget.spend(math.prod(shape) * dtype.itemsize, at.where)
    if storage == _ROW_SPARSE:
        return _dense_rows(at, shape, values, aux[0])
    return _dense_csr(at, shape, values, aux[0], aux[1])


def _dense_rows(at: _Cursor, shape: tuple[int, ...], values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if not shape or values.shape != (len(rows), *shape[1:]):
        at.damaged(f"row_sparse, shape {shape}: {len(rows)} rows with values of shape {values.shape}")
    if len(rows) and (rows.min() < 0 or rows.max() >= shape[0]):
        at.damaged(f"row_sparse, shape {shape}: rows {rows.min()} to {rows.max()} are named")
    if len(np.unique(rows)) != len(rows):
        at.damaged(f"row_sparse, shape {shape}: a row is named twice")
    dense = np.zeros(shape, values.dtype)
    dense[rows] = values
    dense.flags.writeable = False
    return dense


def _dense_csr(
    at: _Cursor, shape: tuple[int, ...], values: np.ndarray, starts: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    if len(shape) != 2 or values.shape != columns.shape:
        at.damaged(f"csr, shape {shape}: {len(columns)} columns with values of shape {values.shape}")
    dense = np.zeros(shape, values.dtype)
    # An array that nothing was ever put into may have no row starts at all.
    if len(starts) or len(columns):
        # The range first: differences of numbers outside it could wrap around.
        fits = len(starts) == shape[0] + 1 and starts[0] == 0 and starts[-1] == len(columns)
        fits = fits and starts.min() == 0 and starts.max() == len(columns)
        lengths = np.diff(starts)
        if not fits or (lengths < 0).any():
            at.damaged(f"csr, shape {shape}: the row starts do not fit it")
        if len(columns) and (columns.min() < 0 or columns.max() >= shape[1]):
            at.damaged(f"csr, shape {shape}: columns {columns.min()} to {columns.max()} are named")
        flat = np.repeat(np.arange(shape[0]), lengths) * shape[1] + columns
        if len(np.unique(flat)) != len(flat):
            at.damaged(f"csr, shape {shape}: an element is named twice")
        dense.reshape(-1)[flat] = values
    dense.flags.writeable = False
    return dense


def read_list(data: memoryview, *, file: str) -> dict[str, np.ndarray]:
    """Name -> read-only array of a list file, in its order; names are indexes where it has none.

    file: name for messages. Names are as in the file, with ``arg:`` and ``aux:``.
    Raises CheckpointError if the file is not a list file, is damaged, or is followed by more bytes.
    """
    at = _Cursor(data, 0, file)
    if (magic := at.number("Q", "the magic number")) != LIST_MAGIC:
        at.fail(f"starts with 0x{magic:x}; expected 0x{LIST_MAGIC:x}, an MXNet array list (.params, .nd)")
    at.number("Q", "the header")
    count = at.number("Q", "the number of arrays")
    if count > _MAX_ARRAYS:
        at.damaged(f"declares {count} arrays; expected at most {_MAX_ARRAYS}")
    budget = DenseBudget(len(data))
    arrays: list[np.ndarray | None] = []
    for index in range(count):
        array, at.at = read_record(data, at.at, where=f"{file}: array {index}", budget=budget)
        arrays.append(array)
    names = _read_names(at, count)
    if at.at != len(data):
        at.damaged(f"{len(data) - at.at} bytes follow the end of the list at byte {at.at}")
    out = {}
    for name, array in zip(names, arrays, strict=True):
        if array is None:
            at.fail(f"parameter {name!r} has no value; initialize it before saving")
        if name in out:
            at.damaged(f"the name {name!r} occurs twice")
        out[name] = array
    return out


def _read_names(at: _Cursor, count: int) -> list[str]:
    named = at.number("Q", "the number of names")
    if named == 0:
        return [str(index) for index in range(count)]
    if named != count:
        at.damaged(f"{named} names for {count} arrays; expected as many or none")
    names = []
    for index in range(named):
        length = at.number("Q", f"the length of name {index}")
        if length > _MAX_NAME:
            at.damaged(f"name {index} is {length} bytes long; expected at most {_MAX_NAME}")
        try:
            names.append(str(at.take(length, f"name {index}"), "utf-8"))
        except UnicodeDecodeError:
            at.damaged(f"name {index} is not UTF-8 text")
    return names


def needs_numpy_shape(array: np.ndarray) -> bool:
    """Whether only MXNet's NumPy mode has such an array: a scalar, or one without elements."""
    return array.ndim == 0 or array.size == 0


def pack_record(array: np.ndarray, *, where: str, numpy_shape: bool = False) -> bytes:
    """The record of a dense array of any strides or byte order, on the CPU.

    numpy_shape: write V3 rather than V2. MXNet loads V3 in NumPy mode only, and V2 outside it only.
    Raises CheckpointError if MXNet has no such dtype, or no such shape outside NumPy mode.
    """
    return b"".join((record_head(array, where=where, numpy_shape=numpy_shape), *byte_blocks(array)))


def record_head(array: np.ndarray, *, where: str, numpy_shape: bool = False) -> bytes:
    """What stands in a record before the array's bytes; see `pack_record`."""
    dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    flag = _WRITABLE.get(dtype)
    if flag is None:
        known = ", ".join(kind.name for kind in _WRITABLE)
        raise CheckpointError(
            f"{where}: MXNet has no arrays of {array.dtype.name}; expected one of {known}; cast it first"
        )
    if not numpy_shape and needs_numpy_shape(array):
        raise CheckpointError(
            f"{where}: shape {array.shape} exists in MXNet's NumPy mode only; write the file for that mode"
        )
    if array.ndim > _MAX_DIMS:
        raise CheckpointError(f"{where}: {array.ndim} dimensions; expected at most {_MAX_DIMS}")
    head = struct.pack("<Iii", _V3 if numpy_shape else _V2, _DENSE, array.ndim)
    return head + struct.pack(f"<{array.ndim}q", *array.shape) + _CPU + struct.pack("<i", flag)


def write_list(
    file: BinaryIO, tensors: Mapping[str, np.ndarray], *, where: str, numpy_shape: bool = False
) -> None:
    """Write a list file with names; ``where`` starts messages.

    Raises CheckpointError as `pack_record` does, and for a name that MXNet could not read back.
    """
    # Surrogates, which UTF-8 does not have, come out as such and are refused by whoever reads them.
    names = [name.encode("utf-8", "surrogatepass") for name in tensors]
    for name in names:
        if len(name) > _MAX_NAME:
            raise CheckpointError(f"{where}: a name is {len(name)} bytes long; expected at most {_MAX_NAME}")
    file.write(struct.pack("<QQQ", LIST_MAGIC, 0, len(names)))
    for text, array in tensors.items():
        file.write(record_head(array, where=f"{where}: parameter {text!r}", numpy_shape=numpy_shape))
        for block in byte_blocks(array):
            file.write(block)
    file.write(struct.pack("<Q", len(names)))
    for name in names:
        file.write(struct.pack("<Q", len(name)) + name)
