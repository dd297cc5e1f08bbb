"""Which optimizer variable is which: Keras' files know them by position alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.rules import Rule, families
from optexport.state.native import NativeState

from .optimizers.common import SCALE_ROLES, SHARED_ROLES, KerasNative, slots_of, variable_order

__all__ = ["COUNT", "POSITIONS", "SHARED", "TRAINED", "named_by", "placed"]

Slots = dict[str, dict[str, np.ndarray]]

# Keys of `NativeState.extras`: the slots are still variables by position; the names of the parameters in
# the optimizer's order; what a LossScaleOptimizer has once for all parameters; completed updates.
POSITIONS, TRAINED, SHARED, COUNT = "positions", "trained", "shared", "iterations"


def placed(
    entry: KerasNative,
    arguments: Mapping[str, Any],
    variables: Sequence[np.ndarray],
    where: str,
    shared: Mapping[str, np.ndarray] | None = None,
    parameters: int = 0,
) -> Slots:
    """Parameter's place as text -> slot -> array.

    arguments: complete. variables: those after ``iteration`` and ``learning_rate``. shared: slots that
        every parameter has the same, where the rule has them. parameters: how many there are, where no
        variable tells.

    Raises:
        CheckpointError: their number does not fit the optimizer.
    """
    rule = entry.rule(arguments)
    common = {s: a for s, a in (shared or {}).items() if entry.role(s) in rule.slot_names}
    found = _placed(entry, arguments, variables, where)
    if not found and not variables:
        found = {str(i): {} for i in range(parameters)}
    return {key: {**common, **slots} for key, slots in found.items()}


def named_by(native: NativeState, names: Sequence[str]) -> NativeState:
    """Parameters, until now called by their places, by ``names``; as they are where a shape says otherwise."""
    keys = list(native.slots)
    if len(names) != len(keys):
        return native
    pairs = [(native.slots[k], native.weights.get(n)) for k, n in zip(keys, names, strict=True)]
    if any(w is not None and s and not any(a.shape == w.shape for a in s.values()) for s, w in pairs):
        return native
    called = dict(zip(keys, names, strict=True))
    native.slots = {called[k]: v for k, v in native.slots.items()}
    native.steps = {called[k]: v for k, v in native.steps.items()}
    for group in native.groups:
        group.params = [called[k] for k in group.params]
    native.named = True
    return native


def _placed(
    entry: KerasNative, arguments: Mapping[str, Any], variables: Sequence[np.ndarray], where: str
) -> Slots:
    if families()[entry.family].fit is not None:
        return _by_shape(entry, arguments, variables, where)
    each = [slot for place, slot in variable_order(entry, arguments, 1) if place is not None]
    once = len(variable_order(entry, arguments, 0))
    count, rest = divmod(len(variables) - once, len(each)) if each else (0, len(variables) - once)
    if rest or count < 0:
        raise CheckpointError(
            f"{where}: expected variables of {entry.qualified} at these arguments, {', '.join(each) or 'none'} of each "
            f"parameter{f' and {once} more' if once else ''}; found {len(variables)}; was it another optimizer?"
        )
    out: Slots = {str(i): {} for i in range(count)}
    for (place, slot), array in zip(variable_order(entry, arguments, count), variables, strict=True):
        for key in out if place is None else [str(place)]:
            out[key][slot] = array
    return _in_order(entry, out)


def _in_order(entry: KerasNative, found: Slots) -> Slots:
    return {k: {slot: slots[slot] for slot, _ in entry.slots if slot in slots} for k, slots in found.items()}


def _by_shape(
    entry: KerasNative, arguments: Mapping[str, Any], variables: Sequence[np.ndarray], where: str
) -> Slots:
    """As `placed`, where a parameter's shape decides which slots it has."""
    shared = sum(role in SHARED_ROLES for role in entry.rule(arguments).slot_names)
    for count in range(1, len(variables) + 1):
        parts = _parts(entry, arguments, variables[count * shared :])
        if parts is None or len(parts) != count:
            continue
        order = variable_order(entry, arguments, parts)
        out: Slots = {str(i): {} for i in range(count)}
        for (place, slot), array in zip(order, variables, strict=True):
            out[str(place)][slot] = array
        return _in_order(
            entry, {k: {n: a for n, a in s.items() if a.dtype.kind != "i"} for k, s in out.items()}
        )
    raise CheckpointError(
        f"{where}: expected variables of {entry.qualified} at these arguments, found {len(variables)} of shapes "
        f"{', '.join(str(list(v.shape)) for v in variables)}; was it another optimizer?"
    )


def _parts(
    entry: KerasNative, arguments: Mapping[str, Any], variables: Sequence[np.ndarray]
) -> list[list[str]] | None:
    """The slots of each parameter, by the shapes that they have; None where they fit none."""
    family, options = families()[entry.family], entry.rule(arguments).options
    kinds = [family.rule(**{**options, **fit}) for fit in family.fits]
    parts: list[list[str]] = []
    at = 0
    while at < len(variables):
        for rule in sorted(kinds, key=lambda r: -len(r.slots)):
            names = [n for n in slots_of(entry, rule) if entry.role(n) not in SCALE_ROLES]
            own = [n for n in names if entry.role(n) not in SHARED_ROLES]
            if _fits(entry, rule, own, variables[at : at + len(own)]):
                parts.append(names)
                at += len(own)
                break
        else:
            return None
    return parts


def _fits(entry: KerasNative, rule: Rule, names: Sequence[str], arrays: Sequence[np.ndarray]) -> bool:
    """Whether these arrays are the slots of one parameter under this rule."""
    slots = {s.name: s for s in rule.slots}
    roles = [str(entry.role(n)) for n in names]
    shapes = [
        a.shape for r, a in zip(roles, arrays, strict=False) if r in slots and slots[r].shape == "param"
    ]
    if not names or len(arrays) != len(names) or not shapes:
        return False
    fit = families()[rule.family].fit
    if fit is None or fit(rule.options, shapes[0]) != rule.options:
        return False
    wanted = [
        entry.to_native(n, np.zeros(slots[r].shape_for(shapes[0])), rule).shape if r in slots else ()
        for n, r in zip(names, roles, strict=True)
    ]
    return wanted == [a.shape for a in arrays]
