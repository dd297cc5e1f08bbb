"""Writing MXNet's ``.states`` and ``.params`` files; `checkpoint` offers these two functions."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.errors import CheckpointError, NamingError
from optexport.state.files import whole_or_nothing
from optexport.state.native import NativeState
from optexport.state.pickles import Bulk, Global, NewObj, Reduce, dump
from optexport.state.stream import byte_blocks

from . import _pickled as pickled
from .ndarray import needs_numpy_shape, record_head, write_list

__all__ = ["write", "write_weights"]

_MAX_INDEX = 64

# Constructor arguments that are stored under another name.
_STORED_AS = {"learning_rate": "lr", "param_idx2name": "idx2name"}

# With a float16 weight, MXNet gives these (master, None): a tuple whose end holds no array.
_STATELESS_BESIDE_MASTER = ("SGLD", "Signum", "LBSGD")


def write(
    state: NativeState,
    path: str | os.PathLike[str],
    *,
    dump_optimizer: bool = True,
    numpy_mode: bool | None = None,
) -> None:
    """Write ``state`` as a ``.states`` file that Trainer, Updater and Module load and go on from.

    An index is found by ``idx2name`` for a named parameter, is the key itself for ``"3"``, and else
    the position in the group. The group's arguments become the optimizer's attributes as they stand
    (constructor spellings such as ``learning_rate`` are accepted); what they lack comes from the
    class's defaults, the step counts from ``state.steps``. A parameter without slots gets no state:
    MXNet creates it at its first update. The optimizer is a class or the registry's name for it.

    Two things MXNet does on loading: a gluon Trainer uses its parameters' own multipliers instead of
    the file's ``lr_mult`` and ``wd_mult``; and an Updater keeps aggregating updates as the optimizer
    that it was made with did, so make it with one of the same class.

    dump_optimizer: False for the states alone. numpy_mode: whether the file is for MXNet's NumPy
    mode, which loads no other; None for what ``allow_np_array`` says.
    Raises CheckpointError for what MXNet has no place for, NamingError where idx2name does not have
    the parameters' names. The file appears whole or not at all.
    """
    file = os.fspath(path)
    if len(state.groups) != 1:
        raise CheckpointError(
            f"{file}: {len(state.groups)} parameter groups; expected one, as MXNet has no more; "
            "say what differs by lr_mult and wd_mult"
        )
    given = _stored_names(state.groups[0].arguments, state.optimizer)
    indexes = _indexes(state, given, file)
    own = {k: {s: a for s, a in slots.items() if s[0] != "."} for k, slots in state.slots.items()}
    if numpy_mode is None:
        numpy_mode = bool(given.get("allow_np_array")) or any(
            needs_numpy_shape(array) for slots in own.values() for array in slots.values()
        )
    states = {}
    for name, index in indexes.items():
        if slots := own.get(name):
            where = f"{file}: parameter {name!r}"
            places = {slot: _array(a, f"{where}, slot {slot}", numpy_mode) for slot, a in slots.items()}
            states[index] = _nested(places, where, state.optimizer)
    given.update(_of_optimizer(state, file))
    root: Any = states
    if dump_optimizer:
        root = states, _optimizer(state, given, indexes, file, numpy_mode)
    with whole_or_nothing(path) as out:
        dump(root, out, protocol=4)


def _of_optimizer(state: NativeState, file: str) -> dict[str, float]:
    """Attributes that stand as a slot ``.name`` beside every parameter's: one number for all."""
    out: dict[str, float] = {}
    for name, slots in state.slots.items():
        for slot, array in slots.items():
            if not slot.startswith("."):
                continue
            value = float(array)
            if out.setdefault(slot[1:], value) != value:
                raise CheckpointError(
                    f"{file}: parameter {name!r}, {slot[1:]}: expected one number for all parameters, found "
                    f"{out[slot[1:]]} and {value}; MXNet's optimizer has one, emit an optimizer with "
                    "--emit-optimizer FILE"
                )
    return out


def _stored_names(arguments: Mapping[str, Any], optimizer: str | None) -> dict[str, Any]:
    """Arguments by the names of attributes."""
    out = {k: v for k, v in arguments.items() if k not in ("param_dict", "sym")}
    stored_as = dict(_STORED_AS)
    if "float_stable_eps" in pickled.OPTIMIZERS.get(pickled.class_of(optimizer) or "", {}):
        stored_as["eps"] = "float_stable_eps"
    for name, stored in stored_as.items():
        if name in out:
            out.setdefault(stored, out.pop(name))
    for table in ("idx2name", "lr_mult", "wd_mult"):
        if table in out and out[table] is None:
            out[table] = {}
    return out


def _indexes(state: NativeState, given: Mapping[str, Any], file: str) -> dict[str, int | str]:
    """Parameter key -> its key in the file."""
    keys = state.groups[0].params
    for name in state.slots:
        if name not in keys:
            raise NamingError(f"{file}: parameter {name!r} has state and is in no group; put it into one")
    if len(set(keys)) != len(keys):
        raise NamingError(f"{file}: a parameter is in the group twice")
    if state.extras.get("keys") == "name":
        return {key: key for key in keys}
    if not state.named and all(key.isascii() and key.isdigit() and str(int(key)) == key for key in keys):
        return {key: int(key) for key in keys}
    idx2name = given.get("idx2name") or {}
    known = {name: index for index, name in idx2name.items()}
    if not known or len(known) != len(idx2name):
        return {key: index for index, key in enumerate(keys)}
    for key in keys:
        if key not in known:
            raise NamingError(
                f"{file}: parameter {key!r}: expected a name of idx2name, found only "
                f"{', '.join(map(repr, list(known)[:3]))}…; rename them there too, or leave idx2name out"
            )
    return {key: known[key] for key in keys}


def _array(array: np.ndarray, where: str, numpy_mode: bool) -> Reduce:
    """A pickled NDArray; its bytes are what MXNet's C library saves and loads."""
    head = record_head(array, where=where, numpy_shape=numpy_mode)
    # Taken from where it is, a block at a time, when the file is written.
    payload = Bulk(len(head) + array.nbytes, lambda: itertools.chain((head,), byte_blocks(array)))
    handle = Reduce(Global("builtins", "bytearray"), (payload,))
    return Reduce(Global("mxnet.ndarray.ndarray", "NDArray"), (None,), state={"handle": handle})


def _nested(places: Mapping[str, Any], where: str, optimizer: str | None) -> Any:
    """The tuple in which each value stands at its place; gaps are None."""
    if "[]" in places:
        if len(places) > 1:
            raise CheckpointError(f"{where}: slot [] is the whole state; found {', '.join(places)} as well")
        return places["[]"]
    tree: dict[int, Any] = {}
    for place, value in places.items():
        if not re.fullmatch(r"(\[[0-9]{1,3}\])+", place):
            raise CheckpointError(f"{where}: slot {place!r}: expected a place in a state: [], [0], [1][0], …")
        path = [int(i) for i in place[1:-1].split("][")]
        node = tree
        for i in path[:-1]:
            node = node.setdefault(i, {})
            if not isinstance(node, dict):
                raise CheckpointError(f"{where}: slot {place} is inside a slot that is an array")
        if path[-1] in node or max(path) > _MAX_INDEX:
            raise CheckpointError(f"{where}: slot {place} is taken or beyond [{_MAX_INDEX}]")
        node[path[-1]] = value
    if pickled.class_of(optimizer) in _STATELESS_BESIDE_MASTER and list(tree) == [0]:
        tree[1] = None
    return _tuple(tree)


def _tuple(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return tuple(_tuple(tree.get(i)) for i in range(max(tree) + 1))


def _optimizer(
    state: NativeState,
    given: Mapping[str, Any],
    indexes: Mapping[str, int | str],
    file: str,
    numpy_mode: bool,
) -> NewObj:
    name, module = state.optimizer or "", given.get("__module__")
    if module is not None:
        if not isinstance(module, str) or not pickled.is_emitted(module, name):
            raise CheckpointError(
                f"{file}: {module}.{name} is not an optimizer that optexport emitted; expected a class name "
                "that starts with Optexport"
            )
        attributes = pickled.attributes(None)
    else:
        known = pickled.class_of(name)
        if known is None:
            raise CheckpointError(
                f"{file}: MXNet has no optimizer {name!r}; expected one of {', '.join(pickled.OPTIMIZERS)}; "
                "emit one, or write the states alone"
            )
        name, module, attributes = known, pickled.module_of(known), pickled.attributes(known)
    attributes["allow_np_array"] = numpy_mode
    for key, value in {**given, **state.extras.get("attributes", {})}.items():
        if key != "__module__":
            attributes[key] = _storable(value, f"{file}: optimizer attribute {key!r}", numpy_mode)
    attributes.update(_counts(state, given, indexes))
    if "num_update" not in given:
        counts = [n for table in attributes[pickled.ALL_COUNTS].values() for n in table.values()]
        attributes["num_update"] = max([attributes["begin_num_update"], *counts])
    scheduler = state.extras.get("lr_scheduler")
    if scheduler is not None:
        attributes["lr_scheduler"] = _scheduler(scheduler, file)
    return NewObj(Global(module, name), state=attributes)


def _storable(value: Any, where: str, numpy_mode: bool) -> Any:
    """``value`` with NumPy's numbers as Python's and arrays as MXNet's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _array(value, where, numpy_mode)
    if isinstance(value, dict):
        return {_storable(k, where, numpy_mode): _storable(v, where, numpy_mode) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        kind = list if isinstance(value, list) else tuple
        return kind(_storable(v, where, numpy_mode) for v in value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise CheckpointError(f"{where}: expected a plain value, found a {type(value).__name__}; leave it out")


def _counts(state: NativeState, given: Mapping[str, Any], indexes: Mapping[str, int | str]) -> dict[str, Any]:
    """The two attributes that count updates; MXNet keeps one dict a device and goes on in the last used."""
    last = given.get(pickled.COUNTS)
    devices = {d: dict(c) for d, c in (given.get(pickled.ALL_COUNTS) or {0: last or {}}).items()}
    current = next((d for d, c in devices.items() if c == last), min(devices))
    for name, step in state.steps.items():
        if step is None or name not in indexes:
            continue
        index = indexes[name]
        tables = [c for c in devices.values() if index in c] or [devices[current]]
        if all(table.get(index) != step for table in tables):
            for table in tables:
                table[index] = step
    return {pickled.ALL_COUNTS: devices, pickled.COUNTS: devices[current]}


def _scheduler(kept: Mapping[str, Any], file: str) -> NewObj:
    name = kept["class"]
    if name not in pickled.SCHEDULERS:
        raise CheckpointError(
            f"{file}: MXNet has no scheduler {name}; expected one of {', '.join(pickled.SCHEDULERS)}; "
            "leave it out"
        )
    attributes = _storable(dict(kept["state"]), f"{file}: scheduler", False)
    return NewObj(Global("mxnet.lr_scheduler", name), state=attributes)


def write_weights(
    tensors: Mapping[str, np.ndarray], path: str | os.PathLike[str], *, numpy_mode: bool | None = None
) -> None:
    """Write a ``.params`` file with the names as given (Module wants ``arg:`` before them).

    numpy_mode: as for `write`; None for False unless a tensor needs it.
    Raises CheckpointError for a dtype that MXNet has not. The file appears whole or not at all.
    """
    if numpy_mode is None:
        numpy_mode = any(needs_numpy_shape(array) for array in tensors.values())
    with whole_or_nothing(path) as out:
        write_list(out, tensors, where=os.fspath(path), numpy_shape=numpy_mode)
