"""Lamb (``keras/src/optimizers/lamb.py``): the decay stands before everything, outside the trust ratio."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _lamb(_: Arguments) -> dict[str, OptionValue]:
    return {"bias_correction": "both", "bounds": "none"}


ROWS = (
    native(
        "Lamb",
        "lamb",
        {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        _lamb,
        links={"beta1": Link("beta_1"), "beta2": Link("beta_2"), "eps": Link("epsilon")},
        slots=(("momentum", "exp_avg"), ("velocity", "exp_avg_sq")),
    ),
)
