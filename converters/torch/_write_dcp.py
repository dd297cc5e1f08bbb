"""Directories of ``torch.distributed.checkpoint``, written without torch, one tensor after another.

The keys are those of ``get_state_dict(model, optimizer)`` under ``{"model": …, "optim": …}``; parameters
without names are written as ``{"optimizer": optimizer.state_dict()}`` is. One rank, one data file: a run on
any number of ranks takes its pieces from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optexport.converters.torch._pack import Pack, dtype_name
from optexport.converters.torch._write import state_dict
from optexport.errors import CheckpointError
from optexport.state.files import whole_or_nothing
from optexport.state.native import NativeState
from optexport.state.pickles import Global, NewObj, Reduce, dumps

__all__ = ["write_dcp"]

_METADATA = "torch.distributed.checkpoint.metadata"
_FILESYSTEM = "torch.distributed.checkpoint.filesystem"
_DATA = "__0_0.distcp"
_VERSION = "1.0.0"

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class _Leaf:
    """A tensor that is written as an item of its own."""

    array: np.ndarray
    what: str


def write_dcp(folder: Path, state: NativeState) -> None:
    """Fill ``folder`` with the data file and its ``.metadata``. The bytes depend on ``state`` alone.

    Raises CheckpointError if the state is inconsistent, is L-BFGS' (no FQN has its vectors), or a name
    makes two keys one.
    """
    if state.optimizer == "LBFGS":
        raise CheckpointError(
            "LBFGS keeps one vector for all parameters, which no parameter's key of a DCP directory holds; "
            "write the format torch"
        )
    held = state_dict(state, _Leaf, by_name=state.named)
    root: dict[str, Any] = {"model": {n: _Leaf(a, f"weight {n}") for n, a in state.weights.items()}}
    root["optim" if state.named else "optimizer"] = held
    if "lr_scheduler" in state.extras:
        root["lr_scheduler"] = state.extras["lr_scheduler"]
    index = _Index()
    with whole_or_nothing(folder / _DATA) as file:
        for place, value in _leaves(root, ()):
            index.add(file, place, value)
    (folder / ".metadata").write_bytes(index.pickled())


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Every item with its path, as DCP takes a nested dict apart: a dict always, its keys as text; a list
    only if a tensor or a dict is in it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*place, str(key)))
    elif isinstance(value, list) and _holds_more(value):
        for position, item in enumerate(value):
            yield from _leaves(item, (*place, position))
    else:
        yield place, value


def _holds_more(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_more, value))
    return isinstance(value, (dict, _Leaf))


class _Index:
    """The contents of ``.metadata``, gathered as items are written."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.stored: list[tuple[Any, Any]] = []
        self.paths: dict[str, Place] = {}
        self.at = 0

    def add(self, file: BinaryIO, path: Place, value: Any) -> None:
        key = ".".join(map(str, path))
        if key in self.entries:
            raise CheckpointError(f"two items have the key {key!r} in a DCP directory; rename a parameter")
        self.paths[key] = path
        place: dict[str, Any] = {"fqn": key, "index": None}
        pack = Pack()
        if isinstance(value, _Leaf):
            self.entries[key] = _tensor_entry(value)
            offset = _size((0,) * value.array.ndim)
            place = {"fqn": key, "index": 0, "offset": offset}
            length = pack.write(file, pack.tensor(value.array, value.what))
        else:
            self.entries[key] = _made("BytesStorageMetadata")
            length = pack.write(file, value)
        info: dict[str, Any] = {"relative_path": _DATA, "offset": self.at, "length": length}
        self.stored.append((_made("MetadataIndex", **place), _made("_StorageInfo", _FILESYSTEM, **info)))
        self.at += length

    def pickled(self) -> bytes:
        # Torch puts a random one here to tell saves apart; equal states give equal bytes.
        said = hashlib.sha256(repr([*self.entries]).encode()).hexdigest()[:32]
        meta = _made("StorageMeta", checkpoint_id=None, save_id=said, load_id=None, modules=[])
        fields: dict[str, Any] = {
            "state_dict_metadata": self.entries,
            "planner_data": self.paths,
            "storage_data": dict(self.stored),
            "storage_meta": meta,
            "version": _VERSION,
        }
        return dumps(_made("Metadata", **fields), 4)


def _tensor_entry(leaf: _Leaf) -> NewObj:
    array = leaf.array
    layout = Reduce(Global("torch.serialization", "_get_layout"), ("torch.strided",))
    memory = Reduce(Global(_METADATA, "_MEM_FORMAT_ENCODING"), (0,))
    dtype = Global("torch", dtype_name(array, leaf.what))
    size = _size(array.shape)
    chunk = _made("ChunkStorageMetadata", offsets=_size((0,) * array.ndim), sizes=size)
    properties = NewObj(Global(_METADATA, "TensorProperties"), state=(dtype, layout, False, memory, False))
    return _made("TensorStorageMetadata", properties=properties, size=size, chunks=[chunk])


def _size(dims: tuple[int, ...]) -> Reduce:
    return Reduce(Global("torch", "Size"), (tuple(int(n) for n in dims),))


def _made(name: str, module: str = _METADATA, **fields: Any) -> NewObj:
    """An instance of one of DCP's dataclasses."""
    return NewObj(Global(module, name), state=fields or None)
