"""Where an Orbax checkpoint's leaves are: files in a folder, or keys of an OCDBT database.

Either way only regular files below the checkpoint's own folder are opened; a link is refused.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Protocol

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.formats import needed

__all__ = ["MANIFEST", "Store", "files_of", "open_store"]

MANIFEST = "manifest.ocdbt"


class Store(Protocol):
    """Values by key. count: how many there are; size: bytes of all files of the checkpoint."""

    count: int
    size: int

    def has(self, key: str) -> bool: ...

    def get(self, key: str) -> memoryview: ...


def files_of(folder: Path) -> dict[str, int]:
    """Relative name -> size of every file below ``folder``.

    Raises:
        CheckpointError: one is a link, or neither a file nor a folder.
    """
    found: dict[str, int] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    kind = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(kind.st_mode):
                        waiting.append(Path(entry.path))
                    elif stat.S_ISREG(kind.st_mode):
                        found[Path(entry.path).relative_to(folder).as_posix()] = kind.st_size
                    else:
                        raise CheckpointError(
                            f"{entry.path}: is a link or no regular file; expected files of the checkpoint's own "
                            "folder; nothing outside it is read"
                        )
        except OSError as error:
            raise CheckpointError(f"{here}: cannot be read: {error.strerror}") from None
    return found


class _Files:
    def __init__(self, folder: Path, files: dict[str, int]) -> None:
        self._folder, self._files = folder, files
        self.count, self.size = len(files), sum(files.values())

    def has(self, key: str) -> bool:
        return key in self._files  # names as they were found: no "..", no second spelling

    def get(self, key: str) -> memoryview:
        return map_file(self._folder / key)


class _Ocdbt:
    def __init__(self, folder: Path, files: dict[str, int]) -> None:
        self._file = str(folder)
        tensorstore = needed("tensorstore", "orbax", self._file)
        base = folder.resolve().as_uri() + "/"
        try:
            # Its driver for files refuses names with "..", whatever the manifest says.
            opened = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
            self._keys = {bytes(k).decode() for k in opened.list().result()}
        except Exception as error:  # the library has no one base class
            raise self._damaged(error) from None
        self._store: Any = opened
        self.count, self.size = len(self._keys), sum(files.values())

    def _damaged(self, error: Exception) -> CheckpointError:
        first = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        return CheckpointError(f"{self._file}: the OCDBT database is damaged or incomplete: {first}")

    def has(self, key: str) -> bool:
        return key in self._keys

    def get(self, key: str) -> memoryview:
        try:
            return memoryview(self._store.read(key).result().value)
        except Exception as error:  # as above
            raise self._damaged(error) from None


def open_store(folder: Path) -> Store:
    """The leaves of an item's folder.

    Raises:
        CheckpointError: a file is a link, the database is damaged, or tensorstore is missing.
    """
    files = files_of(folder)
    return _Ocdbt(folder, files) if MANIFEST in files else _Files(folder, files)
