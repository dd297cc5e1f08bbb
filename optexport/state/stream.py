"""Bytes of arrays on their way from a mapped file to a written one, so that memory stays flat.

A tensor is taken in blocks small enough for a processor's cache; the pages of a mapped file are given
back as soon as a block has been used, and what is written is sent to the disk while the next block is
being prepared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Protocol, TypeVar

import numpy as np

from .files import Sending, check_whole, give_back
from .lazy import LazyArray

__all__ = ["BLOCK", "Sum", "byte_blocks", "elements", "write_summed"]

BLOCK = 1 << 20
# An array from this size on is sent to the disk while it is written.
_ALONE = 1 << 26
# Blocks whose pages are kept before they are given back together.
_KEPT = 8
# A core each: summing takes longer than a copy.
_WORKERS = min(4, os.cpu_count() or 1)


def elements(array: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """The elements in C order as vectors of about ``size`` bytes, views where that is possible.

    Mapped pages under a vector are given back when the next one is asked for; a copy is made only of
    as much as has another order in memory.

    Raises:
        CheckpointError: the mapped file has become shorter meanwhile.
    """
    if isinstance(array, LazyArray):
        if array.pieces is None:
            yield from elements(np.asarray(array), size)
        for piece in array.pieces or ():
            yield from elements(piece, size)
        return
    array = np.asarray(array)
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        count = max(1, size // max(1, flat.itemsize))
        used = 0
        for start in range(0, flat.size, count):
            check_whole(flat[start : start + count])
            yield flat[start : start + count]
            if start - used >= _KEPT * count:
                give_back(flat[used:start])
                used = start
        give_back(flat[used:])
    elif array.nbytes <= size:
        check_whole(array)
        yield np.ascontiguousarray(array).reshape(-1)
    else:
        rows = max(1, size * len(array) // array.nbytes)
        for start in range(0, len(array), rows):
            # One row alone may be too large still.
            yield from elements(array[start] if rows == 1 else array[start : start + rows], size)


def byte_blocks(array: np.ndarray, size: int = BLOCK) -> Iterator[memoryview]:
    """The little-endian C-order bytes, in pieces of about ``size``; a copy only of what is not so already."""
    for block in elements(array, size):
        if block.dtype.byteorder == ">":
            block = block.astype(block.dtype.newbyteorder("<"))
        yield block.view(np.uint8).data


class Sum(Protocol):
    """A checksum in the making, as of `hashlib`."""

    def update(self, data: memoryview, /) -> None: ...


S = TypeVar("S", bound=Sum)


def write_summed(
    file: BinaryIO,
    placed: Sequence[tuple[int, np.ndarray]],
    new: Callable[[], S],
    on_array: Callable[[int], None] | None = None,
) -> list[S]:
    """Write arrays at their places in ``file``, in ascending order; the sum of each, in that order.

    Several are summed and written at once, since that takes longer than a disk or its cache needs.
    new: makes a sum without data. on_array: called with the number of bytes of each that is done, in
    order. Where ``file`` stands afterwards is not said.
    """
    file.flush()
    handle = file.fileno()
    sending = Sending(handle, placed[0][0] if placed else 0)
    sums: list[S] = []

    def done(made: S, place: int, array: np.ndarray) -> None:
        sums.append(made)
        sending.written(place + array.nbytes)
        if on_array is not None:
            on_array(array.nbytes)

    if len(placed) < 2 or not hasattr(os, "pwrite"):
        for place, array in placed:
            done(_written(handle, place, array, new()), place, array)
        return sums
    with ThreadPoolExecutor(_WORKERS) as pool:
        jobs = [pool.submit(_written, handle, place, array, new()) for place, array in placed]
        try:
            for job, (place, array) in zip(jobs, placed, strict=True):
                done(job.result(), place, array)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return sums


def _written(handle: int, at: int, array: np.ndarray, total: S) -> S:
    sending = Sending(handle, at)
    for block in byte_blocks(array):
        total.update(block)
        while len(block):
            done = _pwrite(handle, block, at)
            block, at = block[done:], at + done
        if array.nbytes >= _ALONE:
            sending.written(at)
    return total


def _pwrite(handle: int, data: memoryview, at: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, data, at)
    os.lseek(handle, at, os.SEEK_SET)
    return os.write(handle, data)
