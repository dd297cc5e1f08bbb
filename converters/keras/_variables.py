"""An optimizer's variables, which Keras keeps in one list, as native state.

    0     iteration
    1     learning_rate; absent where it is a schedule
    2 …   slots, by position (see ``optimizers/common.py``)

Whatever file they come from: ``.keras`` and ``.weights.h5``, the older whole-model HDF5, TensorFlow's
checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optexport.errors import CheckpointError, OptexportError
from optexport.state.native import NativeGroup, NativeState

from ._emitted import is_emitted, place_emitted
from ._positions import COUNT, POSITIONS, SHARED, TRAINED, named_by, placed
from ._scaled import WRAPPER, first_scale, split_scaled, unwrapped
from .dialect import OPTIMIZERS

__all__ = ["Held", "class_and_arguments", "native_state"]


@dataclass
class Held:
    """What a file holds.

    variables: of the optimizer, in its order. optimizer: its ``class_name`` and ``config``, None where the
        file does not say. weights: by name. ordered: whether their order is the model's. trained: names
        of those that the optimizer updates, in its order, None where nothing tells.
    place: what to call the variables in messages. scaled: whether a LossScaleOptimizer is around it, whatever
        ``optimizer`` says.
    """

    variables: list[np.ndarray]
    optimizer: Any
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    ordered: bool = False
    trained: list[str] | None = None
    place: str = "optimizer/vars"
    scaled: bool = False


def native_state(held: Held, fmt: str, where: str) -> NativeState:
    """Arguments, slots, the step and weights.

    Where the file does not say which optimizer wrote it, every variable is a parameter of its own in
    ``slots``, called by its position, and ``extras["positions"]`` is true; the dialect arranges them
    once the optimizer is known.

    Raises:
        CheckpointError: there are no variables, or the first is no step count.
    """
    if not held.variables:
        raise CheckpointError(f"{where}: expected an optimizer's variables in {held.place}, found none")
    out = NativeState("keras", fmt)
    out.weights, out.ordered = held.weights, held.ordered
    arguments = class_and_arguments(unwrapped(held.optimizer, where), out, where)
    if held.scaled and held.optimizer is None:
        arguments["initial_scale"] = first_scale(held.variables, f"{where}: {held.place}")
        out.warnings.append(
            f"the file holds a {WRAPPER} and not its arguments; assumed dynamic_growth_steps=2000 (--hyper names another)"
        )
    variables, shared = split_scaled(held.variables, arguments, f"{where}: {held.place}")
    step, rest = _head(variables, arguments, held.optimizer is not None, f"{where}: {held.place}")
    if shared:
        out.extras[SHARED] = shared
    _place(out, arguments, rest, len(_trained(held) or ()), where)
    out.groups = [NativeGroup(arguments, list(out.slots))]
    out.steps = out.steps or dict.fromkeys(out.slots, step)
    if POSITIONS in out.extras:
        out.extras[COUNT] = step
        if held.trained is not None:
            out.extras[TRAINED] = held.trained
    return _named(out, held)


def class_and_arguments(optimizer: Any, out: NativeState, where: str) -> dict[str, Any]:
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


def _head(
    variables: list[np.ndarray], arguments: dict[str, Any], told: bool, where: str
) -> tuple[int, list[np.ndarray]]:
    """The step count, and the variables after it; the learning rate goes into ``arguments``.

    told: whether ``arguments`` are all there are, so that without a learning rate it is a schedule.
    """
    first = variables[0]
    if first.shape != () or first.dtype.kind not in "iu" or int(first) < 0:
        raise CheckpointError(
            f"{where}/0: expected the step count, a whole number ≥ 0, found {first.dtype} {list(first.shape)}"
        )
    rest = variables[1:]
    scheduled = told and "learning_rate" not in arguments
    if rest and not scheduled and rest[0].shape == () and rest[0].dtype.kind == "f":
        arguments["learning_rate"] = float(rest[0])
        rest = rest[1:]
    return int(first), rest


def _place(
    out: NativeState,
    arguments: Mapping[str, Any],
    rest: Sequence[np.ndarray],
    parameters: int,
    where: str,
) -> None:
    """Slots of each parameter where the optimizer is known, else variables by position."""
    entry = next((e for e in OPTIMIZERS if e.name == out.optimizer), None)
    try:
        if is_emitted(arguments) and place_emitted(out, arguments, rest):
            return
        if entry is not None:
            known = {k: v for k, v in arguments.items() if k in entry.arguments}
            complete, shared = entry.complete(known), out.extras.get(SHARED)
            out.slots = placed(entry, complete, rest, where, shared, parameters)
            return
    except OptexportError:
        pass  # what does not fit is said where somebody asks for its meaning
    out.slots = {str(i): {"vars": array} for i, array in enumerate(rest)}
    out.extras[POSITIONS] = True


def _trained(held: Held) -> list[str] | None:
    if held.trained is not None:
        return held.trained
    return list(held.weights) if held.ordered else None


def _named(out: NativeState, held: Held) -> NativeState:
    """Parameters by the names of their weights, where order and every shape say the same.

    An optimizer's order is that of the model's trainable variables: with as many weights as
    parameters, all are trained.
    """
    trained = _trained(held)
    if POSITIONS in out.extras or trained is None or len(trained) != len(out.slots):
        return out
    if out.named:  # by the configuration of an emitted optimizer
        own = dict(zip(out.slots, (out.weights.get(n) for n in trained), strict=True))
        if all(a is not None for a in own.values()):
            out.weights = {n: a for n, a in own.items() if a is not None}
        return out
    return named_by(out, trained)
