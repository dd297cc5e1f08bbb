"""NAdam (``torch/optim/nadam.py``): the product of momenta is a float32 scalar of each tensor."""

from __future__ import annotations

import numpy as np

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common, variants

__all__ = ["ROWS"]


def _nadam(a: Arguments) -> dict[str, OptionValue]:
    kind = "decoupled" if a["decoupled_weight_decay"] else "l2"
    return {
        "schedule": "float32",
        "momentum_decay": True,
        "decay": kind if a["weight_decay"] != 0 else "none",
        **common(a),
    }


ROWS = (
    Native(
        "torch",
        "NAdam",
        "nadam",
        arguments={
            "lr": 2e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum_decay": 4e-3,
            "decoupled_weight_decay": False,
            "maximize": False,
        },
        options=_nadam,
        links={
            "lr": Link("lr"),
            "beta1": Link("betas[0]"),
            "beta2": Link("betas[1]"),
            "eps": Link("eps"),
            "momentum_decay": Link("momentum_decay"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq"), ("mu_product", "mu_product")),
        layouts={
            "mu_product": (
                lambda p, _: np.asarray(p, np.float64),
                lambda p, _: np.asarray(p, np.float32),
            )
        },
        variants=variants({"decoupled_weight_decay": False}, {"decoupled_weight_decay": True}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=CAPTURABLE,
        inert=INERT,
    ),
)
