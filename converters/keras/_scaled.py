"""``LossScaleOptimizer``: the wrapper's configuration and variables, and those of the optimizer inside.

The wrapper's list of variables is its own four, of which its step count and learning rate stay 0, and
then everything of the optimizer inside, which `optimizer/inner_optimizer/vars` holds a second time:

    0  iteration = 0    1  learning_rate = 0    2  step_counter    3  dynamic_scale    4 …  the inner ones

Here the wrapper is two arguments of the optimizer inside, ``initial_scale`` and
``dynamic_growth_steps`` (`optimizers/common.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optexport.errors import CheckpointError

__all__ = [
    "WRAPPER",
    "first_scale",
    "is_scaled",
    "split_arguments",
    "split_scaled",
    "unwrapped",
    "wrapped",
    "wrapped_variables",
]

WRAPPER = "LossScaleOptimizer"
_SCALED = ("initial_scale", "dynamic_growth_steps")
_OWN = 4


def is_scaled(arguments: Mapping[str, Any]) -> bool:
    """Whether the optimizer with these arguments is inside a LossScaleOptimizer."""
    return arguments.get("initial_scale") is not None


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inner optimizer's own arguments, and those of the wrapper around it, none where there is no wrapper."""
    inner = {k: v for k, v in arguments.items() if k not in _SCALED}
    if not is_scaled(arguments):
        return inner, {}
    told = {k: arguments[k] for k in _SCALED if k in arguments}
    if "dynamic_growth_steps" in told:
        told["dynamic_growth_steps"] = int(told["dynamic_growth_steps"])
    return inner, told


def unwrapped(optimizer: Any, where: str) -> Any:
    """``class_name`` and ``config`` of the optimizer inside, with the wrapper's arguments in its own.

    What is no wrapper is returned as it is.

    Raises:
        CheckpointError: it is a wrapper that this cannot describe.
    """
    name = optimizer.get("class_name") if isinstance(optimizer, dict) else None
    if not isinstance(name, str) or not name.rpartition(">")[2].startswith(WRAPPER):
        return optimizer
    config = optimizer.get("config")
    inner = config.get("inner_optimizer") if isinstance(config, dict) else None
    if name != WRAPPER or not isinstance(inner, dict) or not isinstance(inner.get("config"), dict):
        raise CheckpointError(
            f"{where}: expected a {WRAPPER} of Keras 3 around one optimizer, found {name}; load it with the framework "
            "and save its inner optimizer's state"
        )
    if str(inner.get("class_name")).startswith(WRAPPER):
        raise CheckpointError(f"{where}: expected one {WRAPPER}, found one inside another")
    defaults = {"initial_scale": 2.0**15, "dynamic_growth_steps": 2000}
    told = {k: config.get(k, default) for k, default in defaults.items()}
    return {**inner, "config": {**inner["config"], **told}}


def wrapped(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The other way: as Keras serializes it."""
    config, told = split_arguments(optimizer["config"])
    inner = {**optimizer, "config": config}
    if not told:
        return inner
    outer = {"name": "loss_scale_optimizer", "inner_optimizer": inner, **told}
    return {"module": "keras.optimizers", "class_name": WRAPPER, "config": outer, "registered_name": None}


def split_scaled(
    variables: Sequence[np.ndarray], arguments: Mapping[str, Any], where: str
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """The inner optimizer's variables, and what all parameters have in common by slot.

    Raises:
        CheckpointError: the wrapper's variables are not what they should be.
    """
    if not is_scaled(arguments):
        return list(variables), {}
    own = _own(variables, where)
    inner = list(variables[_OWN:])
    return inner, {"step_counter": own[2], "dynamic_scale": own[3], "iteration": inner[0]}


def first_scale(variables: Sequence[np.ndarray], where: str) -> float:
    """The loss scale of now, for want of the one that it began with.

    Raises:
        CheckpointError: as `split_scaled`.
    """
    return float(_own(variables, where)[3])


def _own(variables: Sequence[np.ndarray], where: str) -> list[np.ndarray]:
    own = list(variables[:_OWN])
    kinds = ["iu", "f", "iu", "f"]
    if len(variables) <= _OWN or any(
        v.shape or v.dtype.kind not in k for v, k in zip(own, kinds, strict=True)
    ):
        raise CheckpointError(
            f"{where}: expected the four numbers of a {WRAPPER} and its inner optimizer's variables, found "
            f"{len(variables)} variables of shapes {', '.join(str(list(v.shape)) for v in own)}; the file is damaged"
        )
    return own


def wrapped_variables(inner: Sequence[np.ndarray], slots: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The wrapper's list. slots: of any one parameter."""
    head = [np.asarray(0, np.int64), np.asarray(0.0), slots["step_counter"], slots["dynamic_scale"]]
    return [*head, *inner]
