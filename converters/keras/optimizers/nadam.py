"""Nadam (``keras/src/optimizers/nadam.py``): ψ is 1; the product of momenta is one scalar, multiplied
once a step, in the dtype of the first parameter."""

from __future__ import annotations

import numpy as np

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _nadam(_: Arguments) -> dict[str, OptionValue]:
    return {"schedule": "own", "momentum_decay": False}


ROWS = (
    native(
        "Nadam",
        "nadam",
        {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        _nadam,
        links={"beta1": Link("beta_1"), "beta2": Link("beta_2"), "eps": Link("epsilon")},
        slots=(("momentum", "exp_avg"), ("velocity", "exp_avg_sq"), ("u_product", "mu_product")),
        # Its dtype is the parameters'; what reads a file casts it to its own variable's.
        layouts={"u_product": (lambda p, _: np.asarray(p, np.float64), lambda p, _: np.asarray(p))},
        blocks=(("momentum", "velocity"),),
        once=("u_product",),
    ),
)
