"""Weights in several HDF5 files: ``X.weights.json`` says which variables are in which of them.

    {"metadata": {"total_size": …}, "weight_map": {"/optimizer/vars": ["X_00000.weights.h5", …], …}}

A group of variables that did not fit into one file goes on in the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.limits import parse_json

from ._beside import beside
from ._h5 import H5

__all__ = ["Shards", "is_shard_list"]

_SNIFFED = 1 << 12
_LONGEST = 64 << 20
_FILES = 10_000


def is_shard_list(path: str) -> bool:
    """Whether a file begins as such a list; False if it cannot be read."""
    if not path.lower().endswith(".json"):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(_SNIFFED)
    except OSError:
        return False
    return head.lstrip()[:1] == b"{" and b'"weight_map"' in head and b'.weights.h5"' in head


class Shards:
    """What `H5` offers, over several files. path: of the list.

    Raises:
        CheckpointError: the list or a file is damaged, or names a file that is not beside it.
    """

    def __init__(self, path: str) -> None:
        self._where, self._stack = path, ExitStack()
        self._map = _weight_map(path)
        names = list(dict.fromkeys(n for files in self._map.values() for n in files))
        if len(names) > _FILES:
            raise CheckpointError(f"{path}: expected at most {_FILES} files, found {len(names)}")
        self._files: dict[str, H5] = {}
        with self._stack:
            for name in names:
                shard = beside(path, name)
                self._files[name] = self._stack.enter_context(H5(map_file(shard), shard))
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def names(self, path: str) -> list[str]:
        """What the groups at ``path`` have."""
        out: list[str] = []
        for file in self._having(path):
            out += file.names(path)
        if len(set(out)) != len(out):
            raise CheckpointError(
                f"{self._where}: {path}: two files have a variable of one name; one is damaged"
            )
        return sorted(out)

    def attribute(self, path: str, name: str) -> str | None:
        """A text attribute, of the first file that has it."""
        return next((v for f in self._having(path) if (v := f.attribute(path, name)) is not None), None)

    def variables(self, path: str) -> list[np.ndarray]:
        """The datasets ``0``, ``1``, … over all files.

        Raises:
            CheckpointError: their names are not the numbers from 0 on, or one is no plain dataset.
        """
        places = {name: file for file in self._having(path) for name in file.names(path)}
        names = self.names(path)
        if set(names) != {str(i) for i in range(len(names))}:
            raise CheckpointError(
                f"{self._where}: {path}: expected variables numbered from 0 on, found {', '.join(names[:6])}"
            )
        return [places[str(i)].array(f"{path}/{i}") for i in range(len(names))]

    def groups_of_variables(self) -> Iterator[str]:
        """Every path whose last part is ``vars``."""
        yield from self._map

    def _having(self, path: str) -> list[H5]:
        return [self._files[n] for n in self._map.get(path, ())]


def _weight_map(path: str) -> dict[str, list[str]]:
    data = map_file(path)
    if len(data) > _LONGEST:
        raise CheckpointError(f"{path}: expected a list of at most {_LONGEST} bytes, found {len(data)}")
    try:
        held: Any = parse_json(bytes(data))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON: {error}") from None
    found = held.get("weight_map") if isinstance(held, Mapping) else None
    out: dict[str, list[str]] = {}
    for key, value in found.items() if isinstance(found, Mapping) else ():
        files = value if isinstance(value, list) else [value]
        if not all(isinstance(f, str) for f in files) or len(set(files)) != len(files):
            raise CheckpointError(f"{path}: {key}: expected names of files, found {value!r:.80}")
        out[key.strip("/")] = files
    if not out:
        raise CheckpointError(f"{path}: expected a weight_map from variables to files, found none")
    return out
