"""Files as a whole: mapped for reading, written so that they appear complete or not at all."""

from __future__ import annotations

import bisect
import contextlib
import contextvars
import hashlib
import mmap
import os
import platform
import re
import secrets
import shutil
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from optexport.errors import CheckpointError

__all__ = [
    "Sending",
    "check_whole",
    "give_back",
    "map_file",
    "tell_write",
    "told",
    "told_of_writes",
    "whole_or_nothing",
    "whole_or_nothing_directory",
]

# Seconds for which a temporary file is taken to be somebody's at work.
_FRESH = 60
# What is written is sent to the disk in pieces of this size, while the next is made.
_SENT = 1 << 24
# A write worth a look at how much has added up.
_LARGE = 1 << 16


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The bytes of a regular file, mapped read-only; an empty file gives an empty view.

    The mapping lives as long as any view on it, so arrays made from it need no copy and no open file.
    Raises CheckpointError if ``path`` is missing, not a regular file, or cannot be read.
    """
    try:
        # Looked at before opening: opening a pipe would wait for somebody to write to it.
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{os.fspath(path)}: is a directory; expected a file")
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{os.fspath(path)}: is not a regular file; expected a file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _MAPPED.add(mapping, os.fspath(path))
            return memoryview(mapping)
    except FileNotFoundError:
        raise CheckpointError(f"{os.fspath(path)}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)}: cannot be read: {_reason(error)}") from None


class _Mappings:
    """The mappings that are alive, found by address."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.starts: list[int] = []
        self.held: list[tuple[int, weakref.ref[mmap.mmap], str]] = []

    def add(self, mapping: mmap.mmap, path: str) -> None:
        start = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
        with self.lock:
            alive = [i for i, (_, held, _) in enumerate(self.held) if held() is not None]
            self.starts = [self.starts[i] for i in alive]
            self.held = [self.held[i] for i in alive]
            at = bisect.bisect(self.starts, start)
            self.starts.insert(at, start)
            self.held.insert(at, (len(mapping), weakref.ref(mapping), path))

    def find(self, address: int) -> tuple[mmap.mmap, int, str] | None:
        """The mapping that this address is in, where in it, and the file's name."""
        with self.lock:
            at = bisect.bisect(self.starts, address) - 1
            if at < 0 or address >= self.starts[at] + self.held[at][0]:
                return None
            (_, held, path), start = self.held[at], self.starts[at]
            mapping = held()
        return None if mapping is None else (mapping, address - start, path)


_MAPPED = _Mappings()


def give_back(array: np.ndarray) -> None:
    """Let go of the memory under a contiguous array that is a view on a mapped file, if it is one.

    The array stays good: whoever looks again has the pages read again.
    """
    if not hasattr(mmap, "MADV_DONTNEED") or array.nbytes < mmap.PAGESIZE or array.flags.owndata:
        return
    found = _MAPPED.find(array.__array_interface__["data"][0])
    if found is None:
        return
    mapping, start, _ = found
    # Its first page too, which ends the array before: arrays are taken in the file's order as a rule.
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    stop = min((start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE, len(mapping))
    if first < stop:
        mapping.madvise(mmap.MADV_DONTNEED, first, stop - first)


def check_whole(array: np.ndarray) -> None:
    """Raise CheckpointError if ``array`` is a view on a mapped file that has since become shorter.

    Touching pages that a file no longer has would end the process (SIGBUS). Looking before each block
    leaves only the moment between look and touch.
    """
    found = _MAPPED.find(array.__array_interface__["data"][0]) if array.size else None
    if found is None:
        return
    mapping, _, path = found
    if mapping.size() < len(mapping):
        raise CheckpointError(
            f"{path}: had {len(mapping)} bytes when it was opened and has {mapping.size()} now; another program is "
            "writing to it: wait until it is done, or take a copy"
        )


class Sending:
    """Has the disk begin to write an open file while more of it is being made, so that the end waits less."""

    def __init__(self, handle: int, at: int) -> None:
        self.handle, self.sent = handle, at

    def written(self, end: int) -> None:
        """All bytes before ``end`` are in the file.

        The last of them wait: who writes to a page that is on its way to the disk waits for it to be there.
        """
        stop = (end - _SENT // 4) // _SENT * _SENT
        if stop <= self.sent or not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.handle, self.sent, stop - self.sent, os.POSIX_FADV_DONTNEED)
        self.sent = stop


_TELL: contextvars.ContextVar[Callable[[int], None] | None] = contextvars.ContextVar("tell", default=None)


class _Told:
    """A file whose writes are told as they are made, and sent to the disk as they add up."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], None] | None) -> None:
        self._file, self._tell = file, tell
        self._sending = Sending(file.fileno(), 0)

    def write(self, data: bytes | memoryview) -> int:
        self._file.write(data)
        size = memoryview(data).nbytes
        if size >= _LARGE:
            self._sending.written(self._file.tell())
        self.told(size)
        return size

    def told(self, size: int) -> None:
        if self._tell is not None:
            self._tell(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def told(file: BinaryIO) -> Callable[[int], None] | None:
    """Who hears of writes to a file of `whole_or_nothing`, for one who writes beside its ``write``."""
    return file.told if isinstance(file, _Told) else None


@contextlib.contextmanager
def told_of_writes(tell: Callable[[int], None] | None) -> Iterator[None]:
    """While the block runs, ``tell`` gets the number of bytes of each write of `whole_or_nothing`."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def tell_write(size: int) -> None:
    """For writers that hand the file's name to a library: ``size`` bytes of state have been written."""
    tell = _TELL.get()
    if tell is not None:
        tell(size)


@contextlib.contextmanager
def whole_or_nothing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes ``path`` when the block ends without an exception.

    It is a temporary file in the same folder, flushed to the disk before it replaces ``path``; on
    any exception, KeyboardInterrupt included, it is removed and ``path`` stays as it was.
    Raises CheckpointError if the folder is missing or the disk refuses.
    """
    target = Path(path)
    if target.is_dir():
        raise CheckpointError(f"{target}: is a directory; expected a file name to write to")
    part = _part_of(target)
    try:
        _remove_stale(target)
        # Opened like any new file, so that the user's umask decides who may read the result.
        with open(part, "xb") as file:
            yield cast(BinaryIO, _Told(file, _TELL.get()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise CheckpointError(f"{target}: cannot be written: {_reason(error)}") from error
        raise


@contextlib.contextmanager
def whole_or_nothing_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty directory to fill, which becomes ``path`` when the block ends without an exception.

    On any exception it is removed with all that is in it. Raises CheckpointError if ``path`` exists
    and is not an empty directory, or if the disk refuses.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(f"{target}: already exists and is not an empty directory; choose another path")
    part = _part_of(target)
    try:
        _remove_stale(target)
        part.mkdir()
        yield part
        for folder, _, names in os.walk(part):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    os.fsync(file.fileno())
            _sync_folder(Path(folder))
        if target.exists():
            target.rmdir()  # not every system renames onto an existing directory
        os.replace(part, target)
        _sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, CheckpointError) and str(part) in str(error):
            # Nobody has ever seen the temporary name.
            raise CheckpointError(*(c.replace(str(part), str(target)) for c in error.causes)) from error
        if isinstance(error, OSError):
            raise CheckpointError(f"{target}: cannot be written: {_reason(error)}") from error
        raise


def _part_of(target: Path) -> Path:
    return target.parent / f".{target.name[:100]}.{_machine()}-{os.getpid()}-{secrets.token_hex(6)}.part"


def _remove_stale(target: Path) -> None:
    """Remove what a process that was killed has left of an attempt to write ``target``.

    Its name tells the machine and the process. What was written to in the last minute is left alone,
    should two machines have one name; Windows cannot ask whether a process lives without ending it.
    """
    if os.name == "nt":
        return
    name = re.compile(
        re.escape(f".{target.name[:100]}.{_machine()}-") + r"(\d{1,9})-[0-9a-f]{12}\.part(?:\.\w+)?"
    )
    with contextlib.suppress(OSError):
        for found in list(os.scandir(target.parent)):
            attempt = name.fullmatch(found.name)
            if attempt is None or found.is_symlink() or time.time() - found.stat().st_mtime < _FRESH:
                continue
            try:
                os.kill(int(attempt[1]), 0)
            except ProcessLookupError:
                if found.is_dir():
                    shutil.rmtree(found.path, ignore_errors=True)
                else:
                    os.unlink(found.path)
            except PermissionError:
                continue  # another user's, and alive


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _open_folder(folder: Path) -> int | None:
    """A handle of a folder, None on systems that cannot open folders."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def _sync_folder(folder: Path) -> None:
    # A rename is durable once its folder is; systems that cannot open folders do without.
    handle = _open_folder(folder)
    if handle is not None:
        with contextlib.suppress(OSError):
            os.fsync(handle)
        os.close(handle)


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
