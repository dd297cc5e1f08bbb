"""Bytes of arrays on their way from a mapped file to a written one, so that memory stays flat.

A tensor is taken in blocks small enough for a processor's cache; the pages of a mapped file are given
back as soon as a block has been used, and what is written is sent to the disk while the next block is
being prepared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from .files import give_back, start_writing
from .lazy import LazyArray

__all__ = ["BLOCK", "byte_blocks", "elements", "write_summed"]

BLOCK = 1 << 20
# Two are enough where one core sums and the other writes; more only help small tensors.
_SENT = 1 << 23
_WORKERS = min(4, os.cpu_count() or 1)


def elements(array: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """The elements in C order as vectors of about ``size`` bytes, views where that is possible.

    Mapped pages under a vector are given back when the next one is asked for; a copy is made only of
    as much as has another order in memory.
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
        for start in range(0, flat.size, count):
            block = flat[start : start + count]
            yield block
            give_back(block)
    elif array.nbytes <= size:
        yield np.ascontiguousarray(array).reshape(-1)
    else:
        rows = max(1, size * len(array) // array.nbytes)
        for start in range(0, len(array), rows):
            # One row alone may be too large still.
            yield from elements(array[start] if rows == 1 else array[start : start + rows], max(size, 1))


def byte_blocks(array: np.ndarray, size: int = BLOCK) -> Iterator[memoryview]:
    """The little-endian C-order bytes, in pieces of about ``size``; a copy only of what is not so already."""
    for block in elements(array, size):
        if block.dtype.byteorder == ">":
            block = block.astype(block.dtype.newbyteorder("<"))
        yield block.view(np.uint8).data


def write_summed(
    file: BinaryIO, arrays: Sequence[np.ndarray], on_array: Callable[[int], None] | None = None
) -> list[str]:
    """Write arrays one after another from where ``file`` stands; the sha256 of each, in order.

    Several are summed and written at once, each at its place, since a sum takes longer than a copy.
    on_array: called with the number of bytes of each that is done, in order.
    """
    file.flush()
    handle, at = file.fileno(), file.tell()
    places = []
    for array in arrays:
        places.append(at)
        at += array.nbytes
    sums: list[str] = []
    if not hasattr(os, "pwrite"):
        for array in arrays:
            sums.append(_write_on(file, array))
            if on_array is not None:
                on_array(array.nbytes)
        return sums
    with ThreadPoolExecutor(_WORKERS) as pool:
        jobs = [pool.submit(_write_at, handle, p, a) for p, a in zip(places, arrays, strict=True)]
        try:
            for job, array in zip(jobs, arrays, strict=True):
                sums.append(job.result())
                if on_array is not None:
                    on_array(array.nbytes)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    file.seek(at)
    return sums


def _write_on(file: BinaryIO, array: np.ndarray) -> str:
    digest = hashlib.sha256()
    for block in byte_blocks(array):
        digest.update(block)
        file.write(block)
    return digest.hexdigest()


def _write_at(handle: int, at: int, array: np.ndarray) -> str:
    digest, sent = hashlib.sha256(), at
    for block in byte_blocks(array):
        digest.update(block)
        while len(block):
            done = os.pwrite(handle, block, at)
            block, at = block[done:], at + done
        if at - sent >= _SENT:
            start_writing(handle, sent, at - sent)
            sent = at
    start_writing(handle, sent, at - sent)
    return digest.hexdigest()
