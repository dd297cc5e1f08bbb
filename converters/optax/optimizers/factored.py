"""Adafactor (``factorized.py``) and SM3 (``transform.py``): mean squares by row and column.

Adafactor factors over the two largest axes, where the smaller of them has ``min_dim_size_to_factor``
elements; ``v_row`` is the mean over the largest. What a parameter does not need is an array of one
element that never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue
from optexport.rules.sm3 import MOST_AXES

from .common import EMPTY, NUMBER, RATE, Arguments, Each, State, fields, native

__all__ = ["ROWS"]


def _adafactor(a: Arguments) -> dict[str, OptionValue]:
    return {
        "factoring": "largest_axes" if a["factored"] else "never",
        "axes": "-2,-1" if a["factored"] else "small",
        "min_size": int(a["min_dim_size_to_factor"]) if a["factored"] else 0,
        "eps1": "added",
        "rate": "plain",
        "scale": "rms" if a["multiply_by_parameter_scale"] else "none",
        "clipping": a["clipping_threshold"] is not None,
        "momentum": "none" if a["momentum"] is None else "folded",
        "keeps": "factors",
        "decay": "independent" if a["weight_decay_rate"] else "none",
    }


def _adafactor_state(a: Arguments) -> State:
    """The chain of what the arguments switch on."""
    own: list[State] = [fields("count v_row v_col v")]
    own += [EMPTY] if a["clipping_threshold"] is not None else []
    own += [RATE]
    own += [EMPTY] if a["multiply_by_parameter_scale"] else []
    own += [fields("count ema")] if a["momentum"] is not None else []
    own += [EMPTY] if a["weight_decay_rate"] is not None else []
    return (*own, EMPTY)


def _check(a: Arguments) -> None:
    for name, value in (("decay_offset", 0), ("weight_decay_mask", None)):
        if a[name] != value:
            raise HyperparameterError(
                f"optax:adafactor: argument {name!r} expected {value!r}, found {a[name]!r}"
            )
    if a["dtype_momentum"] is None or np.dtype(a["dtype_momentum"]) != np.float32:
        raise HyperparameterError(
            f"optax:adafactor: argument 'dtype_momentum' expected float32, found {a['dtype_momentum']!r}"
        )


def _axes(options: Mapping[str, OptionValue]) -> tuple[int, int]:
    second, largest = str(options["axes"]).split(",")
    return int(second), int(largest)


def _wide(place: int) -> Any:
    def to_rule(array: Any, options: Mapping[str, OptionValue]) -> Any:
        return np.expand_dims(array, _axes(options)[place])

    def to_native(array: Any, options: Mapping[str, OptionValue]) -> Any:
        return np.squeeze(array, _axes(options)[place])

    return to_rule, to_native


def _cover(axis: int) -> Any:
    def to_rule(array: Any, options: Mapping[str, OptionValue]) -> Any:
        rank = int(str(options["rank"]))
        return np.reshape(array, tuple(-1 if i == axis else 1 for i in range(rank)))

    def to_native(array: Any, options: Mapping[str, OptionValue]) -> Any:
        return np.reshape(array, -1)

    return to_rule, to_native


ROWS = (
    native(
        "adafactor",
        "adafactor",
        {
            "min_dim_size_to_factor": 128,
            "decay_rate": 0.8,
            "decay_offset": 0,
            "multiply_by_parameter_scale": True,
            "clipping_threshold": 1.0,
            "momentum": None,
            "dtype_momentum": "float32",
            "weight_decay_rate": None,
            "eps": 1e-30,
            "factored": True,
            "weight_decay_mask": None,
        },
        _adafactor,
        state=_adafactor_state,
        links={
            "beta2_decay": Link("decay_rate"),
            "eps1": Link("eps"),
            "clip_threshold": Link("clipping_threshold"),
            "beta1": Link("momentum"),
            "weight_decay": Link("weight_decay_rate"),
        },
        slots=(("v_row", "largest_var"), ("v_col", "second_var"), ("v", "variance"), ("ema", "step_avg")),
        variants=tuple(
            {
                "factored": factored,
                "min_dim_size_to_factor": 1,
                "multiply_by_parameter_scale": scale,
                "clipping_threshold": threshold,
                "momentum": momentum,
                "weight_decay_rate": decay,
            }
            for factored in (True, False)
            for scale in (True, False)
            for threshold in (1.0, None)
            for momentum in (None, 0.9)
            for decay in (None, 0.1)
        ),
        layouts={
            "v_row": _wide(1),
            "v_col": _wide(0),
            "ema": (lambda a, _: np.asarray(a), lambda a, _: np.asarray(a, np.float32)),
        },
        validate=_check,
        note="b is computed in float32; the mean of the steps is kept in float32",
    ),
    native(
        "sm3",
        "sm3",
        {"momentum": 0.9},
        lambda a: {"rank": "2"},
        state=lambda a: (fields("mu nu", mu=Each("mu")), NUMBER),
        links={"beta1": Link("momentum")},
        slots=(*((f"mu[{i}]", f"cover_{i}") for i in range(MOST_AXES)), ("nu", "exp_avg")),
        layouts={f"mu[{i}]": _cover(i) for i in range(MOST_AXES)},
    ),
)
