"""Adamax (``keras/src/optimizers/adamax.py``): ε joins where it divides, and is not in the state."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _adamax(_: Arguments) -> dict[str, OptionValue]:
    return {"eps": "outside"}


ROWS = (
    native(
        "Adamax",
        "adamax",
        {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        _adamax,
        links={"beta1": Link("beta_1"), "beta2": Link("beta_2"), "eps": Link("epsilon")},
        slots=(("momentum", "exp_avg"), ("norm", "exp_inf")),
        blocks=(("momentum", "norm"),),
    ),
)
