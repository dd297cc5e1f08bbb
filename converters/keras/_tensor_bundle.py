"""TensorFlow's tensor bundle without TensorFlow: ``X.index`` and its shards ``X.data-00000-of-00001``.

The index is a sorted table as LevelDB writes it: blocks of keys that share prefixes, an index block, and a
footer. The value of the empty key describes the bundle, every other one a tensor: its dtype, shape,
shard, place there, and a CRC-32C (`_crc32c.py`). Blocks carry such a checksum as well.

Sources: ``tensorflow/core/lib/io/table_format.txt``, ``core/protobuf/tensor_bundle.proto``,
``core/util/tensor_bundle/tensor_bundle.cc``.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.limits import holdable

from ._beside import beside
from ._crc32c import crc32c, masked
from ._protobuf import fields, number, varint

__all__ = ["Bundle", "is_index"]

_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57.to_bytes(8, "little")
_TRAILER = 5  # of a block: how it is compressed, checksum
_ENTRIES = 1_000_000
_NAMES = 1 << 26  # bytes that the names of all tensors may take: those of a table share theirs
# Checksums of tensors are looked at up to so many bytes: state may be larger than memory, and is mapped.
_CHECKED = 1 << 28
_STRING = 7
_AXES = 32  # NumPy's least bound
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
    24: np.dtype(ml_dtypes.float8_e5m2),
    25: np.dtype(ml_dtypes.float8_e4m3fn),
}


def is_index(path: str) -> bool:
    """Whether a file ends as such a table does; False if it cannot be read."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) < _FOOTER:
            return False
        with open(path, "rb") as file:
            file.seek(-8, os.SEEK_END)
            return file.read() == _MAGIC
    except OSError:
        return False


@dataclass
class _Entry:
    """One tensor: BundleEntryProto."""

    dtype: int = 0
    shape: list[int] = field(default_factory=list)
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int | None = None
    sliced: bool = False


class Bundle:
    """An open bundle. prefix: its path without ``.index``.

    Raises:
        CheckpointError: the index is damaged, compressed, or big-endian.
    """

    def __init__(self, prefix: str) -> None:
        self.where = f"{prefix}.index"
        self._prefix, self._shards = prefix, {}
        self._index = map_file(self.where)
        self._checked = 0
        self.unchecked: list[str] = []
        self._entries = {}
        header: bytes | None = None
        for key, value in self._table():
            if not key:
                header = value
                continue
            name = key.decode("utf-8", "replace")
            if not name.isprintable():
                raise self._damage(f"a tensor is called {name[:80]!r}")
            if name in self._entries:
                raise self._damage(f"two tensors are called {name!r}")
            self._entries[name] = self._entry(name, value)
        self._count = self._header(header)

    _shards: dict[int, memoryview]
    _entries: dict[str, _Entry]

    def names(self) -> list[str]:
        """Keys of the tensors, in the order of the table."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def array(self, name: str) -> np.ndarray:
        """A tensor as a read-only view on its mapped shard.

        Raises:
            CheckpointError: it is in slices, no numbers, outside its shard, or its checksum differs.
        """
        entry = self._entries[name]
        where = f"{self._prefix}: {name}"
        if entry.sliced:
            raise CheckpointError(
                f"{where}: expected a whole tensor, found slices of a partitioned variable; save it unpartitioned"
            )
        if entry.dtype not in _DTYPES:
            raise CheckpointError(
                f"{where}: expected a tensor of numbers, found TensorFlow's dtype {entry.dtype}"
            )
        dtype = _DTYPES[entry.dtype]
        if not holdable(entry.shape, dtype.itemsize):
            raise CheckpointError(f"{where}: expected a shape that an array can have, found {entry.shape}")
        if math.prod(entry.shape) * dtype.itemsize != entry.size:
            raise CheckpointError(
                f"{where}: expected {math.prod(entry.shape) * dtype.itemsize} bytes for {dtype} {entry.shape}, found "
                f"{entry.size}; the index is damaged"
            )
        data = self._data(name, entry)
        if self._checked + len(data) <= _CHECKED:
            self._checked += len(data)
            if entry.checksum is not None and masked(crc32c(data)) != entry.checksum:
                raise CheckpointError(
                    f"{where}: bytes do not have the checksum of the index; the file is damaged"
                )
        else:
            self.unchecked.append(name)
        array: np.ndarray = np.frombuffer(data, dtype).reshape(entry.shape)
        array.flags.writeable = False
        return array

    def text(self, name: str) -> bytes:
        """A tensor that is one string.

        Raises:
            CheckpointError: it is none, or damaged.
        """
        entry = self._entries[name]
        if entry.dtype != _STRING or entry.shape or entry.sliced:
            raise CheckpointError(f"{self._prefix}: {name}: expected one string, found dtype {entry.dtype}")
        data = bytes(self._data(name, entry))
        size, at = varint(data, 0, f"{self._prefix}: {name}")
        if at + 4 + size != len(data):
            raise CheckpointError(
                f"{self._prefix}: {name}: expected a string of {size} bytes, found {len(data)}"
            )
        # The checksum is over the length as a whole number, over the checksum of that, and over the text.
        lengths = size.to_bytes(4 if size < 1 << 32 else 8, "little")
        told = int.from_bytes(data[at : at + 4], "little")
        if masked(crc32c(lengths)) != told or (
            entry.checksum is not None and masked(crc32c(lengths + data[at:])) != entry.checksum
        ):
            raise CheckpointError(
                f"{self._prefix}: {name}: bytes do not have their checksum; the file is damaged"
            )
        return data[at + 4 :]

    def _data(self, name: str, entry: _Entry) -> memoryview:
        if entry.shard not in self._shards:
            path = f"{os.path.basename(self._prefix)}.data-{entry.shard:05d}-of-{self._count:05d}"
            if not 0 <= entry.shard < self._count:
                raise self._damage(f"{name}: is in shard {entry.shard} of {self._count}")
            self._shards[entry.shard] = map_file(beside(self.where, path))
        shard = self._shards[entry.shard]
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > len(shard):
            raise CheckpointError(
                f"{self._prefix}: {name}: expected {entry.size} bytes at {entry.offset} of its shard, which has "
                f"{len(shard)}; the file is cut"
            )
        return shard[entry.offset : entry.offset + entry.size]

    def _header(self, value: bytes | None) -> int:
        """The number of shards."""
        if value is None:
            raise self._damage("the bundle's header is missing")
        held = {n: v for n, v in fields(value, self.where) if isinstance(v, int)}
        if held.get(2, 0) != 0:
            raise CheckpointError(f"{self.where}: expected a little-endian bundle, found a big-endian one")
        count = held.get(1, 0)
        if not 1 <= count <= 99999:
            raise self._damage(f"expected a number of shards, found {count}")
        return count

    def _entry(self, name: str, value: bytes) -> _Entry:
        out = _Entry()
        for tag, held in fields(value, f"{self.where}: {name}"):
            if tag == 2 and isinstance(held, bytes):
                dims = (dim for kind, dim in fields(held, self.where) if kind == 2)
                out.shape = [self._size(name, dim) for dim in itertools.islice(dims, _AXES + 1)]
                if len(out.shape) > _AXES:
                    raise self._damage(f"{name}: has more than {_AXES} axes")
            elif tag == 7:
                out.sliced = True
            elif isinstance(held, int):
                if tag == 1:
                    out.dtype = held
                elif tag == 3:
                    out.shard = held
                elif tag == 4:
                    out.offset = number(held)
                elif tag == 5:
                    out.size = number(held)
                elif tag == 6:
                    out.checksum = held
        return out

    def _size(self, name: str, dim: int | bytes) -> int:
        held = dict(fields(dim, self.where)) if isinstance(dim, bytes) else {}
        size = held.get(1, 0)
        size = number(size) if isinstance(size, int) else -1
        if size < 0:
            raise self._damage(f"{name}: expected a size of an axis, found {size}")
        return size

    def _table(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every entry."""
        self._read = self._named = 0
        index = bytes(self._index[-_FOOTER:])
        if len(self._index) < _FOOTER or index[-8:] != _MAGIC:
            raise CheckpointError(
                f"{self.where}: expected the index of a TensorFlow checkpoint, found another file"
            )
        _, at = self._handle(index, 0)
        (offset, size), _ = self._handle(index, at)
        count = 0
        for _, handle in self._block(offset, size):
            (start, length), _ = self._handle(handle, 0)
            for key, value in self._block(start, length):
                count += 1
                if count > _ENTRIES:
                    raise CheckpointError(f"{self.where}: expected at most {_ENTRIES} tensors, found more")
                yield key, value

    def _handle(self, data: bytes, at: int) -> tuple[tuple[int, int], int]:
        offset, at = varint(data, at, self.where)
        size, at = varint(data, at, self.where)
        return (offset, size), at

    def _block(self, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
        end = offset + size + _TRAILER
        if end > len(self._index) or size < 4:
            raise self._damage(f"a block of {size} bytes at {offset} is not inside the file")
        self._read += size
        if self._read > len(self._index):
            raise self._damage("its blocks have more bytes together than the file; they overlap")
        whole = bytes(self._index[offset:end])
        block, kind = whole[:size], whole[size]
        if kind != 0:
            named = "snappy" if kind == 1 else f"method {kind}"
            raise CheckpointError(
                f"{self.where}: expected blocks as they are, found blocks compressed with {named}; write the checkpoint "
                "again with tf.train.Checkpoint, which compresses none"
            )
        if masked(crc32c(whole[: size + 1])) != int.from_bytes(whole[size + 1 :], "little"):
            raise self._damage(f"the block at {offset} does not have its checksum")
        restarts = int.from_bytes(block[-4:], "little")
        limit = size - 4 - 4 * restarts
        if limit < 0:
            raise self._damage(f"the block at {offset} has {restarts} restarts, more than fit")
        at, key = 0, b""
        while at < limit:
            shared, at = varint(block, at, self.where)
            own, at = varint(block, at, self.where)
            length, at = varint(block, at, self.where)
            if shared > len(key) or at + own + length > limit:
                raise self._damage(f"the block at {offset} has an entry that does not fit")
            # A key that shares with the one before may grow with every entry.
            if shared + own > 1 << 16:
                raise self._damage(f"a key of {shared + own} bytes")
            self._named += shared + own
            if self._named > _NAMES:
                raise self._damage(f"the names of its tensors take more than {_NAMES} bytes")
            key = key[:shared] + block[at : at + own]
            at += own + length
            yield key, block[at - length : at]

    def _damage(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {what}; the file is damaged")
