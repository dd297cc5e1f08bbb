"""Adagrad (``keras/src/optimizers/adagrad.py``): the accumulator starts at 0.1."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {"eps": "inside", "lr_decay": "none"}


ROWS = (
    native(
        "Adagrad",
        "adagrad",
        {"initial_accumulator_value": 0.1, "epsilon": 1e-7},
        _adagrad,
        links={"eps": Link("epsilon"), "initial_accumulator_value": Link("initial_accumulator_value")},
        slots=(("accumulator", "sum"),),
    ),
)
