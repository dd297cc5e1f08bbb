"""Directories of ``torch.distributed.checkpoint``: a pickled index over byte ranges of data files."""

from __future__ import annotations

import itertools
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optexport.converters.torch._interpret import as_array, is_tensor
from optexport.converters.torch._tensors import DTYPES, Tensor
from optexport.converters.torch._zip import load_zip
from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.lazy import lazy
from optexport.state.pickles import BASICS, Constant, Record, loads, record
from optexport.state.pickles.objects import brief

__all__ = ["is_dcp", "load_dcp"]

_METADATA = "torch.distributed.checkpoint.metadata"
_FILESYSTEM = "torch.distributed.checkpoint.filesystem"
# Of chunks with each other: more would take longer than anybody waits.
_COMPARED = 20_000_000

CONSTRUCTORS: Mapping[tuple[str, str], Callable[..., Any] | Constant] = {
    **BASICS,
    **{
        (module, name): record(module, name)
        for module, name in (
            *((_METADATA, name) for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata")),
            *((_METADATA, name) for name in ("TensorProperties", "ChunkStorageMetadata", "MetadataIndex")),
            *((_METADATA, name) for name in ("StorageMeta", "_MEM_FORMAT_ENCODING")),
            (_FILESYSTEM, "_StorageInfo"),
            ("torch.serialization", "_get_layout"),
            *(("pathlib", name) for name in ("PosixPath", "WindowsPath", "PurePosixPath")),
        )
    },
    ("torch", "Size"): lambda dims=(): tuple(dims),
    **{("torch", name): Constant(dtype) for name, dtype in DTYPES.items()},
}


def is_dcp(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a directory with a ``.metadata`` file."""
    return os.path.isfile(os.path.join(path, ".metadata"))


def load_dcp(folder: Path, *, verify: bool = False) -> dict[Any, Any]:
    """The saved dict, nested as it was, with tensors as `Tensor` (one chunk) or arrays that are put together when needed.

    Raises CheckpointError if the index is malformed, names a file outside ``folder`` or a range
    outside its file, or if the chunks of a tensor do not cover it exactly.
    """
    return _Directory(folder, verify).load()


class _Directory:
    def __init__(self, folder: Path, verify: bool) -> None:
        self.folder, self.verify = folder, verify
        self.file = str(folder)
        self.maps: dict[str, memoryview] = {}

    def load(self) -> dict[Any, Any]:
        name = f"{self.file}/.metadata"
        if (self.folder / ".metadata").is_symlink():
            raise CheckpointError(f"{name}: is a symbolic link; refused: put the file itself there")
        index = loads(map_file(self.folder / ".metadata"), file=name, constructors=CONSTRUCTORS)
        fields = self.fields(index, "Metadata")
        items = fields.get("state_dict_metadata")
        stored = fields.get("storage_data")
        paths = fields.get("planner_data")
        if (
            not isinstance(items, dict)
            or not isinstance(stored, dict)
            or not isinstance(paths, (dict, type(None)))
        ):
            raise CheckpointError(f"{name}: the index lacks state_dict_metadata or storage_data")
        where = self.locations(stored)
        values = {key: self.value(key, entry, where) for key, entry in items.items()}
        return _unflatten({_path_of(key, paths, name): value for key, value in values.items()}, name)

    def fields(self, value: Any, name: str) -> dict[str, Any]:
        """The fields of one of DCP's dataclasses."""
        if not isinstance(value, Record) or value.name != name or not isinstance(value.state, dict):
            raise CheckpointError(f"{self.file}/.metadata: expected a {name}, found {brief(value)}")
        return value.state

    def locations(self, stored: dict[Any, Any]) -> dict[tuple[str, Any], memoryview]:
        """(key, chunk offsets or None) -> the bytes of the item."""
        where: dict[tuple[str, Any], memoryview] = {}
        spans: list[tuple[str, int, int]] = []
        for index, info in stored.items():
            fields = self.fields(index, "MetadataIndex")
            key, offset = fields.get("fqn"), fields.get("offset")
            if not isinstance(key, str) or not (offset is None or _is_dims(offset)):
                raise CheckpointError(
                    f"{self.file}/.metadata: an index entry names {brief(key)} at {brief(offset)}"
                )
            if (key, offset) in where:
                raise CheckpointError(f"{self.file}/.metadata: {brief(key)} is stored twice")
            place = self.fields(info, "_StorageInfo")
            where[key, offset] = self.range(key, place)
            spans.append((place["relative_path"], place["offset"], place["offset"] + place["length"]))
        # One range for many items would make more memory out of a file than it has bytes.
        for earlier, later in itertools.pairwise(sorted(spans)):
            if earlier[0] == later[0] and later[1] < earlier[2]:
                raise CheckpointError(
                    f"{self.file}/.metadata: two items share bytes {later[1]} to {earlier[2]} of "
                    f"{brief(later[0])}; refused"
                )
        return where

    def range(self, key: str, info: dict[str, Any]) -> memoryview:
        name: Any = info.get("relative_path")
        offset: Any = info.get("offset")
        length: Any = info.get("length")
        if info.get("transform_descriptors"):
            raise CheckpointError(f"{self.file}: {brief(key)} is stored compressed, which is not read")
        data = self.data(name)
        if not _is_dims((offset, length)) or offset + length > len(data):
            raise CheckpointError(
                f"{self.file}: {brief(key)} is at {brief(offset)}, {brief(length)} bytes long; "
                f"{brief(name)} has {len(data)}"
            )
        return data[offset : offset + length]

    def data(self, name: Any) -> memoryview:
        """A data file, which must be a regular file inside the folder and no link."""
        parts = name.replace("\\", "/").split("/") if isinstance(name, str) else []
        if not parts or any(part in ("", ".", "..") or ":" in part or "\0" in part for part in parts):
            raise CheckpointError(
                f"{self.file}/.metadata: data file {brief(name)} is not inside the directory; refused"
            )
        if name not in self.maps:
            path = self.folder
            for part in parts:
                path = path / part
                if path.is_symlink():
                    raise CheckpointError(f"{self.file}: data file {brief(name)} is a symbolic link; refused")
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                raise CheckpointError(f"{self.file}: data file {brief(name)} is not a regular file")
            self.maps[name] = map_file(path)
        return self.maps[name]

    def value(self, key: Any, entry: Any, where: dict[tuple[str, Any], memoryview]) -> Any:
        if not isinstance(key, str):
            raise CheckpointError(f"{self.file}/.metadata: a key is {brief(key)}; expected text")
        if isinstance(entry, Record) and entry.name == "BytesStorageMetadata":
            if (key, None) not in where:
                raise CheckpointError(f"{self.file}: {brief(key)} is listed and not stored")
            return self.item(key, where[key, None])
        return self.tensor(key, self.fields(entry, "TensorStorageMetadata"), where)

    def item(self, key: str, raw: memoryview) -> Any:
        return load_zip(raw, f"{self.file}: {brief(key, 200)}", verify=self.verify)

    def tensor(self, key: str, entry: dict[str, Any], where: dict[tuple[str, Any], memoryview]) -> Any:
        size: Any = entry.get("size")
        listed = entry.get("chunks")
        properties = entry.get("properties")
        dtype = properties.state[0] if isinstance(properties, Record) and properties.state else None
        if isinstance(properties, Record) and isinstance(properties.state, dict):
            dtype = properties.state.get("dtype")
        if not _is_dims(size) or not isinstance(listed, list) or not isinstance(dtype, np.dtype):
            raise CheckpointError(f"{self.file}/.metadata: the entry of {brief(key)} is malformed")
        chunks = []
        for chunk in listed:
            fields = self.fields(chunk, "ChunkStorageMetadata")
            offsets: Any = fields.get("offsets")
            sizes: Any = fields.get("sizes")
            if not _is_dims(offsets) or not _is_dims(sizes) or not len(offsets) == len(sizes) == len(size):
                raise CheckpointError(f"{self.file}/.metadata: a chunk of {brief(key)} is malformed")
            chunks.append((offsets, sizes))
        self.covered(key, size, chunks)
        pieces = [self.chunk(key, dtype, offsets, sizes, where) for offsets, sizes in chunks]
        if len(pieces) == 1 and chunks[0][1] == size:
            return pieces[0]
        places = [
            tuple(slice(start, start + length) for start, length in zip(offsets, sizes, strict=True))
            for offsets, sizes in chunks
        ]

        def whole() -> np.ndarray:
            array = np.empty(size, dtype)
            for place, piece in zip(places, pieces, strict=True):
                array[place] = piece
            array.flags.writeable = False
            return array

        # Put together when somebody looks: one tensor of many ranks is in memory, not the checkpoint.
        return lazy(size, dtype, whole)

    def chunk(
        self,
        key: str,
        dtype: np.dtype[Any],
        offsets: Any,
        sizes: Any,
        where: dict[tuple[str, Any], memoryview],
    ) -> np.ndarray:
        raw = where.get((key, offsets))
        if raw is None:
            raise CheckpointError(
                f"{self.file}: the chunk of {brief(key)} at {offsets} is listed and not stored"
            )
        value = self.item(key, raw)
        if not is_tensor(value):
            raise CheckpointError(
                f"{self.file}: the chunk of {brief(key)} at {offsets} is {brief(value)}, not a tensor"
            )
        array: np.ndarray = value.array(f"chunk at {offsets}") if isinstance(value, Tensor) else value
        if array.shape != sizes or array.dtype != dtype:
            raise CheckpointError(
                f"{self.file}: the chunk of {brief(key)} at {offsets} should be {dtype} {sizes} and is "
                f"{array.dtype} {array.shape}"
            )
        return array

    def covered(self, key: str, size: tuple[int, ...], chunks: list[tuple[Any, Any]]) -> None:
        """Raise CheckpointError unless the chunks tile the tensor: inside, no overlap, nothing left."""
        filled = [(offsets, sizes) for offsets, sizes in chunks if math.prod(sizes)]
        inside = all(
            start + length <= whole
            for offsets, sizes in chunks
            for start, length, whole in zip(offsets, sizes, size, strict=True)
        )
        if not inside or sum(math.prod(sizes) for _, sizes in filled) != math.prod(size):
            raise CheckpointError(
                f"{self.file}: the chunks of {brief(key)} do not cover its shape {size} exactly"
            )
        starts = np.array([offsets for offsets, _ in filled], np.int64).reshape(len(filled), len(size))
        stops = starts + np.array([sizes for _, sizes in filled], np.int64).reshape(starts.shape)
        if len(filled) < 2 or not size:
            return
        # In the order of the axis that is cut most, only those that start before a chunk ends can meet it.
        axis = max(range(len(size)), key=lambda a: len(np.unique(starts[:, a])))
        order = np.argsort(starts[:, axis], kind="stable")
        starts, stops = starts[order], stops[order]
        ends = np.searchsorted(starts[:, axis], stops[:, axis])
        beside = ends - np.arange(len(filled)) - 1
        if beside.sum() > _COMPARED:
            raise CheckpointError(
                f"{self.file}: {brief(key)} is cut into {len(filled)} chunks, too many of which lie side by side; refused"
            )
        for row in np.flatnonzero(beside):
            later = slice(row + 1, ends[row])
            meets = (starts[later] < stops[row]) & (stops[later] > starts[row])
            if meets.all(axis=1).any():
                raise CheckpointError(f"{self.file}: two chunks of {brief(key)} overlap")


def _is_dims(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def _path_of(key: str, paths: dict[Any, Any] | None, file: str) -> tuple[Any, ...]:
    """The nested path of a flattened key: what the planner recorded, else the whole key."""
    path = (paths or {}).get(key, (key,))
    if not isinstance(path, tuple) or not path or not all(type(part) in (int, str) for part in path):
        raise CheckpointError(f"{file}: the path of {brief(key)} is {brief(path)}")
    return path


class _Branch(dict):  # type: ignore[type-arg]
    """A level of nesting, told from a dict that was saved as a value."""


def _unflatten(items: dict[tuple[Any, ...], Any], file: str) -> dict[Any, Any]:
    """Nested dicts, with lists where the keys of a level are its positions."""
    root = _Branch()
    for path, value in items.items():
        level = root
        for part in path[:-1]:
            level = level.setdefault(part, _Branch())
            if not isinstance(level, _Branch):
                raise CheckpointError(f"{file}: {brief(str(path))} lies inside another item")
        if path[-1] in level:
            raise CheckpointError(f"{file}: {brief(str(path))} occurs twice")
        level[path[-1]] = value
    return dict(_settle(root).items())


def _settle(value: Any) -> Any:
    if not isinstance(value, _Branch):
        return value
    settled = _nest_flat({key: _settle(item) for key, item in value.items()})
    # Positions are numbers; the ids of a state are dict keys, which DCP turns into text.
    if settled and all(type(key) is int for key in settled) and sorted(settled) == list(range(len(settled))):
        return [settled[position] for position in range(len(settled))]
    if isinstance(settled.get("param_groups"), list):
        settled.setdefault("state", {})
    return settled


def _nest_flat(level: dict[Any, Any]) -> dict[Any, Any]:
    """Undo ``flatten_optimizer_state_dict``: keys ``state.FQN.SLOT`` and ``param_groups.FQN.ARGUMENT``.

    The groups themselves are not in such a file: parameters with equal arguments become one group.
    """
    flat = {key: key.split(".", 1)[0] for key in level if isinstance(key, str) and key.count(".") >= 2}
    if "param_groups" in level or "param_groups" not in flat.values():
        return level
    state: dict[str, dict[str, Any]] = {}
    arguments: dict[str, dict[str, Any]] = {}
    out: dict[Any, Any] = {}
    for key, value in level.items():
        kind = flat.get(key)
        if kind in ("state", "param_groups"):
            name, _, last = key.split(".", 1)[1].rpartition(".")
            (state if kind == "state" else arguments).setdefault(name, {})[last] = value
        else:
            out[key] = value
    groups: dict[Any, dict[str, Any]] = {}
    for name, given in arguments.items():
        alike = tuple((argument, _comparable(given[argument])) for argument in sorted(given))
        groups.setdefault(alike, {**given, "params": []})["params"].append(name)
    return {**out, "state": state, "param_groups": list(groups.values())}


def _comparable(value: Any) -> Any:
    if is_tensor(value):
        return as_array(value, "a group argument").tobytes()
    return repr(value)
