"""Keras 3 files without Keras: ``.weights.h5`` and ``.keras``, read by mapping; ``.weights.h5`` written.

    optimizer/vars/0      iteration
    optimizer/vars/1      learning_rate; absent where it is a schedule
    optimizer/vars/2 …    slots, by position (see ``optimizers/common.py``)
    layers/…/vars/0 …     weights, by position in their layer

A ``.keras`` file is a zip of that file and ``config.json``, which has the optimizer's class and
arguments; ``.weights.h5`` has neither, unless optexport wrote it: then the group ``optimizer/vars``
has the attribute ``optexport`` with the same JSON. Needs h5py.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.errors import CheckpointError, OptexportError
from optexport.rules import families
from optexport.state.files import map_file, tell_write, whole_or_nothing
from optexport.state.formats import Format
from optexport.state.native import NativeGroup, NativeState, Weights

from ._archive import Archive, is_archive
from ._emitted import emitted_order, is_emitted, place_emitted
from ._h5 import H5, SIGNATURE, import_h5py
from ._positions import placed
from .dialect import OPTIMIZERS
from .optimizers.common import variable_order

__all__ = ["FORMATS", "POSITIONS", "read", "read_weights", "sniff", "write"]

PathLike = str | os.PathLike[str]
VARIABLES = "optimizer/vars"
# Key of `NativeState.extras`: the slots are still variables by position.
POSITIONS = "positions"
_NOTE = "optexport"
# What a parameter has where its optimizer keeps something for others alone.
_NOTHING = np.zeros((), np.int32)
_WEIGHT = re.compile(r"(?:.+/)?vars/\d+")


def sniff(path: PathLike) -> bool:
    """Whether ``path`` looks like a ``.keras`` or an HDF5 file; False if it cannot be read."""
    if os.path.isdir(path):
        return False
    try:
        data = map_file(path)
    except CheckpointError:
        return False
    return bytes(data[:8]) == SIGNATURE or is_archive(data)


def read(path: PathLike) -> NativeState:
    """The optimizer in ``path``: arguments, slots (views on the mapped file), the step, weights.

    Where the file does not say which optimizer wrote it, every variable is a parameter of its own in
    ``slots``, called by its position, and ``extras["positions"]`` is true; the dialect arranges them
    once the optimizer is known.

    Raises:
        CheckpointError: h5py is missing, the file is damaged or points out of itself, or it holds no
            optimizer.
    """
    where = os.fspath(path)
    data, config = _open(path)
    with H5(data, where) as h5:
        if config is None:
            config = _noted(h5, where)
        if h5.names("optimizer/inner_optimizer"):
            raise CheckpointError(
                f"{where}: holds a LossScaleOptimizer; save its inner optimizer's state, which is the rule's"
            )
        variables = h5.variables(VARIABLES)
        weights, ordered = _weights(h5, config)
    compiled = (config or {}).get("compile_config") or {}
    optimizer = compiled.get("optimizer") if isinstance(compiled, dict) else None
    if not variables:
        raise CheckpointError(f"{where}: expected an optimizer's variables in {VARIABLES}, found none")
    out = NativeState("keras", "keras-zip" if config and "config" in config else "keras-weights-h5")
    out.weights, out.ordered = weights, ordered
    arguments = _class_and_arguments(optimizer, out, where)
    step, rest = _head(variables, arguments, where)
    _place(out, arguments, rest, where)
    out.groups = [NativeGroup(arguments, list(out.slots))]
    out.steps = out.steps or dict.fromkeys(out.slots, step)
    _name(out)
    return out


def read_weights(path: PathLike) -> Weights:
    """The weights in ``path`` under their places in the file (``layers/dense/vars/0``).

    In the model's order where ``config.json`` tells it.

    Raises:
        CheckpointError: as `read`, and where there are no weights.
    """
    data, config = _open(path)
    with H5(data, os.fspath(path)) as h5:
        tensors, ordered = _weights(h5, config)
    if not tensors:
        raise CheckpointError(f"{os.fspath(path)}: expected weights below layers/, found none")
    return Weights(tensors, ordered)


def write(state: NativeState, path: PathLike) -> None:
    """Write ``state`` as a ``.weights.h5`` file.

    Keras takes the optimizer's part with ``optimizer.load_own_variables``, and the whole with
    ``model.load_weights`` where the weights are named by their places in such a file, as `read`
    names them; weights with other names are left out.

    Raises:
        CheckpointError: h5py is missing, several groups, parameters with different step counts or
            without state, or ``path`` cannot be written; then ``path`` stays as it was.
    """
    where = os.fspath(path)
    h5py = import_h5py(where)
    if where.endswith(".keras"):
        raise CheckpointError(f"{where}: the model itself is not known; write a .weights.h5 file")
    variables = _variables(state, where)
    arguments = {k: v for k, v in state.groups[0].arguments.items() if _is_json(v)}
    note = {"compile_config": {"optimizer": {"class_name": state.optimizer, "config": arguments}}}
    # HDF5 writes by path; the name of the temporary file becomes `path` in the end.
    with whole_or_nothing(path) as file, h5py.File(file.name, "w") as h5:
        for name, array in state.weights.items():
            if _WEIGHT.fullmatch(name):
                _put(h5, name, array)
        group = h5.create_group(VARIABLES)
        group.attrs["name"] = (state.optimizer or "optimizer").lower()
        group.attrs[_NOTE] = json.dumps(note, sort_keys=True)
        for i, array in enumerate(variables):
            _put(h5, f"{VARIABLES}/{i}", array)


def _open(path: PathLike) -> tuple[memoryview, dict[str, Any] | None]:
    """The HDF5 bytes, and ``config.json`` where there is one."""
    where, data = os.fspath(path), map_file(path)
    if bytes(data[:8]) == SIGNATURE:
        return data, None
    if not is_archive(data):
        raise CheckpointError(f"{where}: expected a .keras or .weights.h5 file, found {bytes(data[:8])!r}")
    archive = Archive(data, where)
    return archive.weights(), archive.config()


def _noted(h5: H5, where: str) -> dict[str, Any] | None:
    """What optexport wrote beside the variables."""
    text = h5.attribute(VARIABLES, _NOTE)
    if text is None:
        return None
    try:
        note = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: attribute {_NOTE!r}: expected JSON: {error}") from None
    return note if isinstance(note, dict) else None


def _class_and_arguments(optimizer: Any, out: NativeState, where: str) -> dict[str, Any]:
    """Sets the optimizer's class; its arguments, lists being tuples, without a schedule."""
    if optimizer is None:
        return {}
    config = optimizer.get("config") if isinstance(optimizer, dict) else None
    if not isinstance(config, dict) or not isinstance(optimizer.get("class_name"), str):
        raise CheckpointError(
            f"{where}: expected the optimizer's class_name and config, found {optimizer!r:.80}"
        )
    out.optimizer = optimizer["class_name"]
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    if isinstance(arguments.get("learning_rate"), dict):
        out.extras["schedule"] = arguments.pop("learning_rate")
    return arguments


def _head(variables: list[np.ndarray], arguments: dict[str, Any], where: str) -> tuple[int, list[np.ndarray]]:
    """The step count, and the variables after it; the learning rate goes into ``arguments``."""
    first = variables[0]
    if first.shape != () or first.dtype.kind not in "iu" or int(first) < 0:
        raise CheckpointError(
            f"{where}: {VARIABLES}/0: expected the step count, a whole number ≥ 0, found {first.dtype} "
            f"{list(first.shape)}"
        )
    rest = variables[1:]
    scheduled = bool(arguments) and "learning_rate" not in arguments
    if rest and not scheduled and rest[0].shape == () and rest[0].dtype.kind == "f":
        arguments["learning_rate"] = float(rest[0])
        rest = rest[1:]
    return int(first), rest


def _place(out: NativeState, arguments: Mapping[str, Any], rest: list[np.ndarray], where: str) -> None:
    """Slots of each parameter where the optimizer is known, else variables by position."""
    entry = next((e for e in OPTIMIZERS if e.name == out.optimizer), None)
    try:
        if is_emitted(arguments) and place_emitted(out, arguments, rest):
            return
        if entry is not None:
            known = {k: v for k, v in arguments.items() if k in entry.arguments}
            out.slots = placed(entry, entry.complete(known), rest, where)
            return
    except OptexportError:
        pass  # what does not fit is said where somebody asks for its meaning
    out.slots = {str(i): {"vars": array} for i, array in enumerate(rest)}
    out.extras[POSITIONS] = True


def _weights(h5: H5, config: Mapping[str, Any] | None) -> tuple[dict[str, np.ndarray], bool]:
    """Weights by place, and whether their order is the model's own."""
    paths = [p for p in h5.groups_of_variables() if not p.startswith("optimizer/")]
    order = _layer_order(config)
    called = {p: h5.attribute(p, "name") or "" for p in paths}
    # "layers/NAME/vars": a layer without layers of its own, whose order in a nested one nothing tells.
    known = bool(order) and all(p.count("/") == 2 and called[p] in order for p in paths if h5.names(p))
    paths.sort(key=lambda p: order[called[p]] if known and p in called and called[p] in order else 0)
    if not known:
        paths.sort(key=_numbers_as_numbers)
    return {f"{p}/{i}": a for p in paths for i, a in enumerate(h5.variables(p))}, known


def _layer_order(config: Mapping[str, Any] | None) -> dict[str, int]:
    """Layer name -> place in the model, of Sequential and Functional models."""
    inner = (config or {}).get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    names = [(layer.get("config") or {}).get("name") for layer in layers or () if isinstance(layer, dict)]
    return {n: i for i, n in enumerate(names) if isinstance(n, str)}


def _numbers_as_numbers(path: str) -> list[tuple[int, str]]:
    """Sorts dense_10 behind dense_2."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path)]


def _name(out: NativeState) -> None:
    """Parameters by the places of their weights, where the model's order and every shape say the same.

    An optimizer's order is that of the model's trainable variables: with as many weights as
    parameters, all are trained.
    """
    slots, weights = list(out.slots.values()), list(out.weights.values())
    if POSITIONS in out.extras or not out.ordered or len(slots) != len(weights):
        return
    if not all(any(a.shape == w.shape for a in s.values()) for s, w in zip(slots, weights, strict=True)):
        return
    if out.named:  # by the configuration of an emitted optimizer
        out.weights = dict(zip(out.slots, out.weights.values(), strict=True))
        return
    names = dict(zip(out.slots, out.weights, strict=True))
    out.slots = {names[k]: v for k, v in out.slots.items()}
    out.steps = {names[k]: v for k, v in out.steps.items()}
    out.groups[0].params = list(out.slots)
    out.named = True


def _variables(state: NativeState, where: str) -> list[np.ndarray]:
    """Every variable in the optimizer's order."""
    if len(state.groups) != 1:
        raise CheckpointError(f"{where}: expected one group of parameters, found {len(state.groups)}")
    group = state.groups[0]
    rate = np.asarray(group.arguments["learning_rate"], np.float64)
    if is_emitted(group.arguments):
        count = max((state.steps.get(p) or 0 for p in group.params), default=0)
        places = emitted_order(group.arguments, group.params)
        return [np.asarray(count, np.int64), rate, *(state.slots[p][s] for p, s in places)]
    steps = {state.steps.get(p) or 0 for p in group.params}
    if len(steps) > 1:
        raise CheckpointError(
            f"{where}: parameters were updated {', '.join(map(str, sorted(steps)))} times; Keras has one count for all; "
            "emit an optimizer with --emit-optimizer FILE"
        )
    head = [np.asarray(max(steps, default=0), np.int64), rate]
    entry = next((e for e in OPTIMIZERS if e.name == state.optimizer), None)
    if entry is None:
        raise CheckpointError(f"{where}: expected an optimizer of Keras, found {state.optimizer!r}")
    known = {k: v for k, v in group.arguments.items() if k in entry.arguments}
    fitted = families()[entry.family].fit is not None
    held = {
        k: {**dict.fromkeys(entry.placeholders, _NOTHING), **state.slots.get(k, {})} for k in group.params
    }
    parameters = [tuple(held[k]) for k in group.params] if fitted else len(group.params)
    order = variable_order(entry, entry.complete(known), parameters)
    for place, slot in order:
        key = group.params[place or 0]
        if slot not in held[key]:
            raise CheckpointError(
                f"{where}: parameter {key!r}: expected the slot {slot}, found none; Keras' files hold the state of "
                "every parameter"
            )
    return head + [held[group.params[place or 0]][slot] for place, slot in order]


def _put(h5: Any, path: str, array: np.ndarray) -> None:
    """One dataset as Keras writes it: contiguous; bfloat16 as two opaque bytes with its name."""
    if array.dtype.name == "bfloat16":
        h5.create_dataset(path, data=np.ascontiguousarray(array).view("V2")).attrs["dtype"] = "bfloat16"
    else:
        h5.create_dataset(path, data=array)
    tell_write(array.nbytes)


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)


FORMATS = (
    Format(
        "keras",
        "keras",
        "a .weights.h5 file, or a .keras file to read",
        sniff,
        read,
        read_weights,
        write,
        (".h5",),
    ),
)
