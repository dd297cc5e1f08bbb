"""Adadelta (``torch/optim/adadelta.py``)."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common, variants

__all__ = ["ROWS"]


def _adadelta(a: Arguments) -> dict[str, OptionValue]:
    return {"rate": "lr", "decay": "l2" if a["weight_decay"] != 0 else "none", **common(a)}


ROWS = (
    Native(
        "torch",
        "Adadelta",
        "adadelta",
        arguments={"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False},
        options=_adadelta,
        links={h: Link(h) for h in ("lr", "rho", "eps", "weight_decay")},
        slots=(("square_avg", "square_avg"), ("acc_delta", "acc_delta")),
        variants=variants({}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=CAPTURABLE,
        inert=INERT,
    ),
)
