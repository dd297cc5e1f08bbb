"""MXNet's ``.states`` (a pickle around arrays) and ``.params`` files, without MXNet.

A ``.states`` file is ``{index: state}`` or ``({index: state}, optimizer)``. A state is None, an array
or a nested tuple of them; an array's slot name is its place in there: ``[]`` the state itself, ``[0]``
its first item, ``[1][0]`` the first item of its second item.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.formats import Format
from optexport.state.native import NativeGroup, NativeState, Weights
from optexport.state.pickles import Record, loads
from optexport.state.pickles.objects import brief

from . import _pickled as pickled
from ._write import write, write_weights
from .ndarray import LIST_MAGIC, DenseBudget, read_list, read_record

__all__ = ["FORMATS", "read", "read_weights", "sniff", "write", "write_weights"]

FORMAT = "mxnet-updater-pickle"
STATES_ONLY = "mxnet-updater-pickle-states-only"

_SNIFFED = 1 << 16


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` looks like MXNet's: a ``.states`` pickle that names it early, or an array list.

    A states file without a single array and without an optimizer names nothing, and is not recognized.
    """
    if os.path.isdir(path):
        return False
    head = bytes(map_file(path)[:_SNIFFED])
    if head[:8] == LIST_MAGIC.to_bytes(8, "little"):
        return True
    return head[:1] == b"\x80" and any(
        word in head for word in (b"mxnet.ndarray", b"mxnet.numpy", b"mxnet.optimizer", b"Optexport")
    )


def read(path: str | os.PathLike[str]) -> NativeState:
    """The state in a ``.states`` file, of `Updater.get_states` with or without the optimizer.

    Arrays are read-only, views of the mapped file where their bytes are aligned. ``arguments`` are
    the plain attributes of the pickled optimizer; ``__module__`` among them says that the optimizer
    is one that optexport emitted. Extras: ``lr_scheduler`` (class and attributes), ``attributes``
    (those of the optimizer that hold arrays), ``keys`` = ``"name"`` where the file is keyed by
    names rather than indexes (a Module that updates on its kvstore).
    Raises CheckpointError if the file is damaged, unsafe, or not such a file.
    """
    file = os.fspath(path)
    view = map_file(path)
    if bytes(view[:8]) == LIST_MAGIC.to_bytes(8, "little"):
        raise CheckpointError(
            f"{file}: is an array list (.params); expected optimizer states; pass it as weights"
        )
    root = loads(view, file=file, constructors=pickled.CLOSED, views=True)
    states, optimizer = _split_root(root, file)
    arrays = _Arrays(file, len(view))
    out = NativeState("mxnet", STATES_ONLY if optimizer is None else FORMAT)
    attributes: dict[str, Any] = {}
    if optimizer is None:
        out.warnings.append(
            "the file holds no optimizer: its hyperparameters, step counts and parameter names must be given"
        )
    else:
        attributes = _read_optimizer(optimizer, out, arrays)
    names, counted = _names(states, attributes, out, file)
    out.groups = [NativeGroup(attributes, list(names.values()))]
    for index, name in names.items():
        fresh = None if optimizer is None else attributes.get("begin_num_update", 0)
        out.steps[name] = counted.get(index, fresh)
        slots = dict(arrays.of_state(states.get(index), f"index {brief(index)}"))
        if slots:
            out.slots[name] = slots
    if arrays.budget.made_dense:
        out.warnings.append(
            f"{arrays.budget.made_dense} sparse arrays were made dense: rows without an entry are zeros"
        )
    return out


def _split_root(root: Any, file: str) -> tuple[dict[Any, Any], Record | None]:
    optimizer = None
    if isinstance(root, tuple) and len(root) == 2:
        root, optimizer = root
        if not isinstance(optimizer, Record) or not pickled.is_optimizer(optimizer.module, optimizer.name):
            raise CheckpointError(
                f"{file}: the second item of the pickle is {_kind(optimizer)}; expected an MXNet optimizer"
            )
        if not isinstance(optimizer.state, dict) or not all(isinstance(k, str) for k in optimizer.state):
            raise CheckpointError(
                f"{file}: optimizer {optimizer.name} has no attributes; the file is damaged"
            )
    if not isinstance(root, dict):
        raise CheckpointError(
            f"{file}: the pickle holds {_kind(root)}; expected MXNet's states, {{index: state}}"
        )
    kinds = {type(key) for key in root}
    if kinds - {int, str} or len(kinds) > 1 or any(isinstance(key, int) and key < 0 for key in root):
        raise CheckpointError(f"{file}: the states are not keyed by indexes; expected numbers from 0")
    return root, optimizer


def _kind(value: Any) -> str:
    return brief(value) if isinstance(value, Record) else f"a {type(value).__name__}"


class _Arrays:
    """Decodes the arrays of one file, each only once however often the pickle refers to it."""

    def __init__(self, file: str, size: int) -> None:
        self.file = file
        self.budget = DenseBudget(size)
        # Keyed by identity; the payload is kept alive beside the array so that no id is used twice.
        self.done: dict[int, tuple[Any, np.ndarray | None]] = {}

    def decode(self, value: Record, where: str) -> np.ndarray | None:
        where = f"{self.file}: {where}"
        payload = value.state.get("handle", value) if isinstance(value.state, dict) else value
        if payload is None:
            return None
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise CheckpointError(f"{where}: an array without bytes; the file is damaged")
        if id(payload) not in self.done:
            view = memoryview(payload).toreadonly()
            array, end = read_record(view, 0, where=where, budget=self.budget)
            if end != len(view):
                raise CheckpointError(
                    f"{where}: {len(view) - end} bytes follow the array; the file is damaged"
                )
            self.done[id(payload)] = payload, array
        return self.done[id(payload)][1]

    def of_state(self, state: Any, where: str, place: str = "") -> Iterable[tuple[str, np.ndarray]]:
        """(slot, array) pairs of one index's state."""
        if state is None:
            return
        if isinstance(state, (tuple, list)):
            for i, item in enumerate(state):
                yield from self.of_state(item, where, f"{place}[{i}]")
            return
        slot = place or "[]"
        if not isinstance(state, Record) or not pickled.is_array(state.module, state.name):
            raise CheckpointError(
                f"{self.file}: {where}, slot {slot}: expected an array, a tuple or None, found {_kind(state)}"
            )
        array = self.decode(state, f"{where}, slot {slot}")
        if array is not None:
            yield slot, array

    def in_attribute(self, value: Any, where: str) -> Any:
        """``value`` with arrays in place of records; raises _NotKeptError for other objects."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, dict):
            if not all(map(_is_plain, value)):
                raise _NotKeptError
            return {k: self.in_attribute(v, where) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(self.in_attribute(v, where) for v in value)
        if isinstance(value, Record) and pickled.is_array(value.module, value.name):
            return self.decode(value, where)
        raise _NotKeptError


class _NotKeptError(Exception):
    """A value in an optimizer's attribute that is neither plain nor an array."""


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _read_optimizer(optimizer: Record, out: NativeState, arrays: _Arrays) -> dict[str, Any]:
    """The plain attributes; the others go to ``out`` with a warning."""
    out.optimizer = optimizer.name
    assert isinstance(optimizer.state, dict)
    plain: dict[str, Any] = {}
    if pickled.is_emitted(optimizer.module, optimizer.name):
        plain["__module__"] = optimizer.module
    for key, value in optimizer.state.items():
        if key in ("param_dict", "__module__"):
            continue
        if _is_plain(value):
            plain[key] = value
        elif key == "lr_scheduler" and isinstance(value, Record) and value.module == "mxnet.lr_scheduler":
            held = value.state if isinstance(value.state, dict) else {}
            state = {k: v for k, v in held.items() if _is_plain(v)}
            out.extras["lr_scheduler"] = {"class": value.name, "state": state}
        else:
            try:
                kept = arrays.in_attribute(value, f"optimizer attribute {brief(key)}")
            except _NotKeptError:
                out.warnings.append(
                    f"the optimizer's attribute {brief(key)} is no plain value and is not kept"
                )
            else:
                out.extras.setdefault("attributes", {})[key] = kept
                out.warnings.append(
                    f"the optimizer's attribute {brief(key)} holds arrays; only MXNet files keep it"
                )
    return plain


def _names(
    states: dict[Any, Any], attributes: dict[str, Any], out: NativeState, file: str
) -> tuple[dict[Any, str], dict[Any, int]]:
    """Index -> parameter key for every index in order, and index -> completed updates."""
    counted = _read_counts(attributes, out, file)
    idx2name = attributes.get("idx2name", {})
    if not isinstance(idx2name, dict):
        raise CheckpointError(f"{file}: idx2name is {_kind(idx2name)}; expected a dict; the file is damaged")
    found = dict.fromkeys((*states, *counted))
    if found and all(isinstance(index, str) for index in found):
        out.named = True
        out.extras["keys"] = "name"
        return {name: name for name in found}, counted
    if not all(type(index) is int for index in found):
        raise CheckpointError(f"{file}: update counts and states are not keyed alike; the file is damaged")
    usable = all(type(i) is int and isinstance(n, str) for i, n in idx2name.items())
    if usable and idx2name and set(found) <= set(idx2name):
        if len(set(idx2name.values())) == len(idx2name):
            out.named = True
            return {index: idx2name[index] for index in sorted(idx2name)}, counted
        out.warnings.append(
            "idx2name gives several indexes one name, as a Module on several devices does: each index is a "
            "device's own copy, and the parameters keep their indexes for names"
        )
    return {index: str(index) for index in sorted(found)}, counted


def _read_counts(attributes: dict[str, Any], out: NativeState, file: str) -> dict[Any, int]:
    """Index -> completed updates over all devices, that of the device used last where they differ."""
    last = attributes.get(pickled.COUNTS, {})
    devices = attributes.get(pickled.ALL_COUNTS, {})
    tables = list(devices.values()) if isinstance(devices, dict) else [devices]
    start = {None: attributes.get("begin_num_update", 0)}
    for table in (*tables, last, start):
        if not isinstance(table, dict) or not all(type(n) is int and n >= 0 for n in table.values()):
            raise CheckpointError(f"{file}: the update counts are not numbers from 0; the file is damaged")
    counted: dict[Any, int] = {}
    for table in tables:
        for index, count in table.items():
            if counted.setdefault(index, count) != count:
                out.warnings.append(
                    f"index {brief(index)} has {counted[index]} updates on one device and {count} on another"
                )
    return {**counted, **last}


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Parameter values of a ``.params`` file, in its order.

    The prefix ``arg:`` of Module files is taken off; ``aux:`` entries (running statistics) are no
    parameters of an optimizer and are left out: `ndarray.read_list` has them. A list without names
    gets ``"0"``, ``"1"``, …
    Raises CheckpointError if the file is damaged, not such a file, or has a name twice.
    """
    file = os.fspath(path)
    tensors: dict[str, np.ndarray] = {}
    for name, array in read_list(map_file(path), file=file).items():
        if name.startswith("aux:"):
            continue
        name = name.removeprefix("arg:")
        if name in tensors:
            raise CheckpointError(
                f"{file}: {name!r} occurs both with and without the prefix 'arg:'; rename one"
            )
        tensors[name] = array
    return Weights(tensors, ordered=True)


FORMATS = (
    Format(
        "mxnet",
        "mxnet",
        "a .states file; weights are .params files",
        sniff,
        read,
        read_weights,
        write,
        (".states", ".params"),
    ),
)
