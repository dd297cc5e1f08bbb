"""The state of an emitted optimizer, as its configuration and its variables hold it.

A parameter has ``step`` (its completed updates) and then its rule's slots, parameter by parameter.
The configuration has ``rule`` and that rule's hyperparameters; where groups differ it has ``names``,
the parameters in the optimizer's order, and ``groups``, whose rows have ``params`` (None: every
other parameter), ``rule``, ``lr_mult`` and hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optexport import source
from optexport.errors import CheckpointError
from optexport.rules import Rule
from optexport.specs import Group
from optexport.state import TrainingState
from optexport.state.native import NativeGroup, NativeState

__all__ = [
    "configuration",
    "emitted_groups",
    "emitted_order",
    "emitted_paths",
    "emitted_state",
    "is_emitted",
    "place_emitted",
    "rates",
]

STEP = "step"


def is_emitted(arguments: Mapping[str, Any]) -> bool:
    """Whether a configuration is of an optimizer that optexport emitted."""
    return isinstance(arguments.get("rule"), str) or isinstance(arguments.get("groups"), list | tuple)


def rates(groups: Sequence[Group]) -> tuple[float | None, list[float]]:
    """The optimizer's learning rate, and what each group multiplies it by.

    A group whose rule computes the rate from the step, a schedule inside it, has none: it multiplies
    by 1. The optimizer's is None where no group has one.
    """
    driven = [g for g in groups if "lr" in g.hyperparameters]
    if not driven:
        return None, [1.0] * len(groups)
    if len(groups) == 1:
        return groups[0].values()["lr"], [1.0]
    lrs = {g.hyperparameters["lr"] for g in driven}
    if len(lrs) == 1:
        return lrs.pop(), [g.lr_mult for g in groups]
    largest = max((g.values()["lr"] for g in driven), key=abs)
    return largest, [g.values()["lr"] / largest if g in driven else 1.0 for g in groups]


def configuration(groups: Sequence[Group], names: Sequence[str] | None) -> dict[str, Any]:
    """The configuration of the optimizer for these groups."""
    lr, factors = rates(groups)
    own = [{h: v for h, v in g.values().items() if h != "lr"} for g in groups]
    rate = {} if lr is None else {"learning_rate": lr}
    if len(groups) == 1:
        return {**rate, **own[0], "rule": source.rule_name(groups[0].rule)}
    rows = [
        {
            "params": None if g.params is None else list(g.params),
            "rule": source.rule_name(g.rule),
            "lr_mult": factor,
            **values,
        }
        for g, factor, values in zip(groups, factors, own, strict=True)
    ]
    return {**rate, "names": None if names is None else list(names), "groups": rows}


def emitted_state(state: TrainingState, module: str) -> NativeState:
    """What the optimizer that `emit` writes for ``state.spec`` holds. module: unused."""
    del module
    names = state.ordered_names
    out = NativeState(
        "keras", "", source.class_name(state.spec, None), named=True, weights=dict(state.params)
    )
    out.groups = [NativeGroup(configuration(state.spec.groups, names), names)]
    for name in names:
        out.steps[name] = state.steps[name]
        out.slots[name] = {STEP: np.asarray(state.steps[name], np.int32), **state.full_slots(name)}
    return out


def emitted_groups(native: NativeState) -> list[Group] | None:
    """Groups of a file that an emitted optimizer saved, None where another wrote it.

    Raises:
        UnknownNameError: its rule is not one that this optexport can emit.
    """
    if not native.groups or not is_emitted(native.groups[0].arguments):
        return None
    arguments, keys = native.groups[0].arguments, native.groups[0].params
    out = []
    for row in _rows(arguments):
        rule = source.rule_named(row["rule"])
        given = {**row, "lr": arguments.get("learning_rate", 0.0) * row.get("lr_mult", 1.0)}
        values = {h.name: h.check(f"rule {row['rule']}", given.get(h.name)) for h in rule.hyperparameters}
        own = tuple(k for k in keys if _row_of(arguments, k) is row)
        if own:
            out.append(Group(rule, values, own))
    return out


def emitted_paths(rule: Rule, master: bool) -> dict[str, str]:
    """Name of a variable -> slot, for an emitted optimizer."""
    del master
    return {**{s: s for s in rule.slot_names}, STEP: STEP}


def emitted_order(arguments: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[str, str]]:
    """(parameter, slot) of every variable after ``iteration`` and ``learning_rate``."""
    return [
        (key, slot)
        for key in keys
        for slot in (STEP, *source.rule_named(_row_of(arguments, key)["rule"]).slot_names)
    ]


def place_emitted(out: NativeState, arguments: Mapping[str, Any], variables: Sequence[np.ndarray]) -> bool:
    """Fill ``out.slots`` and ``out.steps``; False where the variables do not fit."""
    names = arguments.get("names")
    if names is None:
        per = len(emitted_order(arguments, ["0"]))
        names = [str(i) for i in range(len(variables) // per)]
    else:
        out.named = True
    order = emitted_order(arguments, names)
    if len(order) != len(variables):
        return False
    out.slots = {n: {} for n in names}
    for (key, slot), array in zip(order, variables, strict=True):
        out.slots[key][slot] = array
    out.steps = {n: int(s[STEP]) for n, s in out.slots.items()}
    return True


def _rows(arguments: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = arguments.get("groups") or (arguments,)
    if not all(isinstance(r, dict) and isinstance(r.get("rule"), str) for r in rows):
        raise CheckpointError("keras: groups expected rows with a rule, found others; the file is damaged")
    return list(rows)


def _row_of(arguments: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The row that a parameter is in."""
    rows = _rows(arguments)
    listed = next((r for r in rows if key in (r.get("params") or ())), None)
    row = listed or next((r for r in rows if r.get("params") is None), None)
    if row is None:
        raise CheckpointError(f"keras: parameter {key!r} is in none of the groups; the file is damaged")
    return row
