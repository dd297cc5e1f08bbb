"""The zip container, written without torch: deterministic bytes that ``torch.load`` opens.

Tensors are written one after another from where they are (a mapping of another file, as a rule), in
blocks, so that memory stays flat whatever their size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from optexport.converters.torch._tensors import DTYPES, STORAGE_CLASSES
from optexport.errors import CheckpointError
from optexport.state.files import told
from optexport.state.lazy import LazyArray
from optexport.state.pickles import Global, Persistent, Reduce, dumps
from optexport.state.stream import write_summed

__all__ = ["Pack", "dtype_name"]

_ROOT = "archive"
_ALIGNMENT = 64
# Sizes and offsets from here on are written in zip64 fields.
ZIP64_FROM = 0xFFFFFFFF
_FULL = 0xFFFFFFFF
# 1 January 1980, the earliest date a zip can hold: a clock would make equal contents differ.
_DATE = 0x0021
_UTF8 = 0x0800
_CLASS_OF = {dtype: name for name, dtype in STORAGE_CLASSES.items()}


def dtype_name(array: np.ndarray, what: str) -> str:
    """torch's name of an array's dtype; raises CheckpointError, naming ``what``, if it has none."""
    dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise CheckpointError(f"{what}: PyTorch has no dtype {array.dtype}")


class Pack:
    """One zip: storages are collected while tensors are turned into pickle markers, then written."""

    def __init__(self) -> None:
        self.storages: list[np.ndarray] = []
        self.hooks = Reduce(Global("collections", "OrderedDict"))

    def tensor(self, array: np.ndarray, what: str) -> Reduce:
        """A tensor of its own storage. A dense array keeps its strides, others become C order.

        An array that is made when it is needed is made when it is written, and not kept.
        """
        array = array if isinstance(array, LazyArray) else np.asarray(array)
        name = dtype_name(array, what)
        axes = list(range(array.ndim))
        if not isinstance(array, LazyArray) and array.size:
            by_stride = sorted(axes, key=lambda axis: -array.strides[axis])
            axes = by_stride if array.transpose(by_stride).flags.c_contiguous else axes
        strides = [0] * array.ndim
        step = 1
        for axis in reversed(axes):
            strides[axis] = step
            step *= max(1, array.shape[axis])
        key = str(len(self.storages))
        self.storages.append(array.transpose(axes) if axes != sorted(axes) else array)
        size = tuple(int(length) for length in array.shape)
        if name in _CLASS_OF:
            storage = Persistent(("storage", Global("torch", _CLASS_OF[name]), key, "cpu", int(array.size)))
            args: tuple[Any, ...] = (storage, 0, size, tuple(strides), False, self.hooks)
            return Reduce(Global("torch._utils", "_rebuild_tensor_v2"), args)
        storage = Persistent(
            ("storage", Global("torch.storage", "UntypedStorage"), key, "cpu", int(array.nbytes))
        )
        args = (storage, 0, size, tuple(strides), False, self.hooks, Global("torch", name))
        return Reduce(Global("torch._utils", "_rebuild_tensor_v3"), args)

    def write(self, file: BinaryIO, value: Any) -> int:
        """Write ``value``, with the markers that `tensor` gave in it, from where ``file`` stands.

        Returns the number of bytes. file: seekable, since a sum stands before what it is the sum of.
        """
        members = _Members(file)
        members.add("data.pkl", dumps(value, 2))
        for name, text in (
            (".format_version", b"1"),
            (".storage_alignment", b"64"),
            ("byteorder", b"little"),
        ):
            members.add(name, text)
        members.add_arrays({f"data/{key}": array for key, array in enumerate(self.storages)})
        members.add("version", b"3\n")
        return members.end()


class _Crc32:
    """The checksum of zips, in the making."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: memoryview, /) -> None:
        self.value = zlib.crc32(data, self.value)


@dataclass(frozen=True)
class _Place:
    """Where a member's header and data stand, counted from the zip's begin."""

    name: bytes
    size: int
    header: int
    data: int


class _Members:
    """The members of a zip that begins where ``file`` stands."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.start = file, file.tell()
        self.at = 0
        self.count = 0
        self.directory = bytearray()

    def add(self, short: str, data: bytes) -> None:
        place = self.placed(short, len(data))
        self.header(place, zlib.crc32(data))
        self.file.write(data)

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Headers after the data: each has the sum of what follows it."""
        places = [self.placed(short, array.nbytes) for short, array in arrays.items()]
        parts = [(self.start + p.data, a) for p, a in zip(places, arrays.values(), strict=True)]
        sums = write_summed(self.file, parts, _Crc32, told(self.file))
        for place, crc in zip(places, sums, strict=True):
            self.file.seek(self.start + place.header)
            self.header(place, crc.value)
        self.file.seek(self.start + self.at)

    def placed(self, short: str, size: int) -> _Place:
        """The next member's place."""
        name = f"{_ROOT}/{short}".encode()
        start = self.at + 30 + len(name) + (20 if size >= ZIP64_FROM else 0) + 4
        place = _Place(name, size, self.at, start + -start % _ALIGNMENT)
        self.at = place.data + size
        return place

    def header(self, place: _Place, crc: int) -> None:
        name, size = place.name, place.size
        wide = struct.pack("<HHQQ", 1, 16, size, size) if size >= ZIP64_FROM else b""
        padding = place.data - place.header - 30 - len(name) - len(wide) - 4
        extra = wide + struct.pack("<HH", 0x4246, padding) + b"Z" * padding
        shown = _FULL if wide else size
        head = struct.pack("<HHHHH", 45 if wide else 20, _UTF8, 0, 0, _DATE)
        tail = struct.pack("<IIIHH", crc, shown, shown, len(name), len(extra)) + name + extra
        self.file.write(struct.pack("<I", 0x04034B50) + head + tail)
        self.directory += _central(name, head, crc, shown, size, place.header)
        self.count += 1

    def end(self) -> int:
        self.file.write(self.directory)
        last = _end(self.count, len(self.directory), self.at)
        self.file.write(last)
        return self.at + len(self.directory) + len(last)


def _central(name: bytes, head: bytes, crc: int, shown: int, size: int, at: int) -> bytes:
    wide = b"" if shown == size else struct.pack("<QQ", size, size)
    far = at >= ZIP64_FROM
    if far:
        wide += struct.pack("<Q", at)
    extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
    needed = struct.pack("<H", 45 if wide else 20) + head[2:]
    sizes = struct.pack("<III", crc, shown, shown)
    places = struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, _FULL if far else at)
    return struct.pack("<IH", 0x02014B50, 45) + needed + sizes + places + name + extra


def _end(count: int, size: int, at: int) -> bytes:
    wide = b""
    if at >= ZIP64_FROM or size >= ZIP64_FROM or count >= 0xFFFF:
        wide = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, at)
        wide += struct.pack("<IIQI", 0x07064B50, 0, at + size, 1)
    shown = (0xFFFF, 0xFFFF, _FULL, _FULL) if wide else (count, count, size, at)
    return wide + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, *shown, 0)
