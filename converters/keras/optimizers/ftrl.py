"""Ftrl (``keras/src/optimizers/ftrl.py``): half the paper's λ2; the accumulator starts at 0.1."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _ftrl(a: Arguments) -> dict[str, OptionValue]:
    return {
        "power": "root" if a["learning_rate_power"] == -0.5 else "free",
        "shrinkage": a["l2_shrinkage_regularization_strength"] != 0,
    }


def _minus(x: float) -> float:
    return -x


def _twice(x: float) -> float:
    return 2 * x


def _half(x: float) -> float:
    return x / 2


ROWS = (
    native(
        "Ftrl",
        "ftrl",
        {
            "learning_rate_power": -0.5,
            "initial_accumulator_value": 0.1,
            "l1_regularization_strength": 0.0,
            "l2_regularization_strength": 0.0,
            "l2_shrinkage_regularization_strength": 0.0,
            "beta": 0.0,
        },
        _ftrl,
        links={
            "power": Link("learning_rate_power", _minus, _minus),
            "initial_accumulator_value": Link("initial_accumulator_value"),
            "l1": Link("l1_regularization_strength"),
            "l2": Link("l2_regularization_strength", _twice, _half),
            "shrinkage": Link("l2_shrinkage_regularization_strength"),
            "beta": Link("beta"),
        },
        slots=(("accumulator", "accumulator"), ("linear", "linear")),
        variants=tuple(
            {"learning_rate_power": p, "l2_shrinkage_regularization_strength": s}
            for p in (-0.5, -0.6)
            for s in (0.0, 1.0)
        ),
    ),
)
