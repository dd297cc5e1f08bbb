"""Adagrad (``torch/optim/adagrad.py``)."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, INERT, SWITCHES, Arguments, common, variants

__all__ = ["ROWS"]


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "lr_decay": "from_zero" if a["lr_decay"] != 0 else "none",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        **common(a),
    }


ROWS = (
    Native(
        "torch",
        "Adagrad",
        "adagrad",
        arguments={
            "lr": 1e-2,
            "lr_decay": 0.0,
            "weight_decay": 0.0,
            "initial_accumulator_value": 0.0,
            "eps": 1e-10,
            "maximize": False,
        },
        options=_adagrad,
        links={h: Link(h) for h in ("lr", "eps", "lr_decay", "weight_decay", "initial_accumulator_value")},
        slots=(("sum", "sum"),),
        variants=variants({"lr_decay": 0.0}, {"lr_decay": 0.1}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=SWITCHES,
        inert=INERT,
    ),
)
