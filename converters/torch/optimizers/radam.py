"""RAdam (``torch/optim/radam.py``): ε is added before the correction; rectified where ρ > 5."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common, variants

__all__ = ["ROWS"]


def _radam(a: Arguments) -> dict[str, OptionValue]:
    kind = "decoupled" if a["decoupled_weight_decay"] else "l2"
    return {
        "eps": "hat",
        "threshold": "five",
        "decay": kind if a["weight_decay"] != 0 else "none",
        **common(a),
    }


ROWS = (
    Native(
        "torch",
        "RAdam",
        "radam",
        arguments={
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "decoupled_weight_decay": False,
            "maximize": False,
        },
        options=_radam,
        links={
            "lr": Link("lr"),
            "beta1": Link("betas[0]"),
            "beta2": Link("betas[1]"),
            "eps": Link("eps"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq")),
        variants=variants({"decoupled_weight_decay": False}, {"decoupled_weight_decay": True}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=CAPTURABLE,
        inert=INERT,
    ),
)
