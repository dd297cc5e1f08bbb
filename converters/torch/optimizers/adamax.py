"""Adamax (``torch/optim/adamax.py``): ε is inside the maximum, and so in the state."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common, variants

__all__ = ["ROWS"]


def _adamax(a: Arguments) -> dict[str, OptionValue]:
    return {"eps": "accumulated", "decay": "l2" if a["weight_decay"] != 0 else "none", **common(a)}


ROWS = (
    Native(
        "torch",
        "Adamax",
        "adamax",
        arguments={"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "maximize": False},
        options=_adamax,
        links={
            "lr": Link("lr"),
            "beta1": Link("betas[0]"),
            "beta2": Link("betas[1]"),
            "eps": Link("eps"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("exp_avg", "exp_avg"), ("exp_inf", "exp_inf")),
        variants=variants({}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=CAPTURABLE,
        inert=INERT,
    ),
)
