"""``Optimizer.state_dict()`` out of a native state, and the file of ``torch.save`` around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from optexport.converters.torch._flat import gather
from optexport.converters.torch._pack import Pack
from optexport.errors import CheckpointError
from optexport.state.native import NativeState
from optexport.state.pickles import Global, Reduce
from optexport.state.pickles.objects import brief

__all__ = ["state_dict", "write_zip"]

# Optimizers of torch.optim whose state has no step.
_STEPLESS = ("SGD", "Muon", "LBFGS")
# Those that keep it as a Python number, whose powers are then doubles.
_PLAIN_STEP = ("SparseAdam",)

# What a tensor becomes: (array, what it is called in messages) -> marker.
Leaf = Callable[[np.ndarray, str], Any]


def write_zip(file: BinaryIO, state: NativeState, *, combined: bool) -> None:
    """Write ``state`` as ``Optimizer.state_dict()``; combined: as {"model": …, "optimizer": …}.

    The state of a scheduler (extras ``lr_scheduler``) makes it {"optimizer": …, "lr_scheduler": …}: an
    optimizer's own dict has no place for it.

    Raises CheckpointError if a slot's parameter is in no group or in two, or a value has no
    counterpart in PyTorch.
    """
    pack = Pack()
    value: Any = state_dict(state, pack.tensor)
    scheduler = state.extras.get("lr_scheduler")
    if scheduler is not None and not combined:
        value = {"optimizer": value, "lr_scheduler": scheduler}
    if combined:
        weights = {name: pack.tensor(array, f"weight {name}") for name, array in state.weights.items()}
        value = {"model": Reduce(Global("collections", "OrderedDict"), items=weights), "optimizer": value}
        value |= {} if scheduler is None else {"lr_scheduler": scheduler}
    pack.write(file, value)


def state_dict(state: NativeState, leaf: Leaf, *, by_name: bool = False) -> dict[str, Any]:
    """The state as ``Optimizer.state_dict()`` has it, tensors through ``leaf``.

    by_name: parameters by their names instead of their numbers, as ``get_optimizer_state_dict`` has them.

    Raises CheckpointError if a slot's parameter is in no group or in two, a value has no counterpart in
    PyTorch, or there is no group.
    """
    ids: dict[str, int | str] = {}
    groups: list[dict[str, Any]] = []
    for index, group in enumerate(state.groups):
        for key in group.params:
            if key in ids:
                raise CheckpointError(f"parameter {brief(key)} is in two groups; PyTorch takes it in one")
            ids[key] = key if by_name else len(ids)
        arguments = {name: _argument(value, name, index) for name, value in group.arguments.items()}
        arguments["params"] = [ids[key] for key in group.params]
        if state.named:
            arguments["param_names"] = list(group.params)
        groups.append(arguments)
    if not groups:
        raise CheckpointError("there is no parameter group to write; PyTorch needs at least one")
    unknown = [key for key in state.slots if key not in ids]
    if unknown:
        raise CheckpointError(f"parameter {brief(unknown[0])} has state and is in no group")
    if state.optimizer == "LBFGS":
        return {"state": _one_state(state, list(ids), leaf), "param_groups": groups}
    entries: dict[int | str, dict[str, Any]] = {}
    for key, identity in ids.items():
        slots = dict(state.slots.get(key, {}))
        step = state.steps.get(key)
        if slots and "step" not in slots and step is not None and state.optimizer not in _STEPLESS:
            slots = {"step": np.asarray(step, np.float32), **slots}
        if slots:
            entries[identity] = {
                slot: leaf(array, f"parameter {key}, slot {slot}") for slot, array in slots.items()
            }
            if state.optimizer in _PLAIN_STEP and "step" in slots:
                entries[identity]["step"] = int(slots["step"])
    return {"state": entries, "param_groups": groups}


def _one_state(state: NativeState, order: list[str], leaf: Leaf) -> dict[int, dict[str, Any]]:
    """L-BFGS' state, one for all parameters, under the first."""
    if len(state.groups) != 1:
        raise CheckpointError(f"LBFGS has one parameter group, found {len(state.groups)}")
    if not state.slots:
        return {}
    missing = [k for k in order if k not in state.slots]
    if missing:
        raise CheckpointError(f"parameter {brief(missing[0])} has no state; LBFGS keeps one for all together")

    def packed(value: Any, slot: str) -> Any:
        if isinstance(value, list):
            return [packed(item, slot) for item in value]
        return leaf(value, f"slot {slot}") if isinstance(value, np.ndarray) else value

    held = gather({k: state.slots[k] for k in order})
    return {0: {slot: packed(value, slot) for slot, value in held.items()}}


def _argument(value: Any, name: str, group: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    items = value if isinstance(value, (tuple, list)) else (value,)
    if not all(item is None or type(item) in (bool, int, float, str) for item in items):
        raise CheckpointError(
            f"argument {brief(name)} of group {group} is {brief(value)}; expected a plain value"
        )
    return value
