"""ASGD (``torch/optim/asgd.py``)."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common, variants

__all__ = ["ROWS"]


def _asgd(a: Arguments) -> dict[str, OptionValue]:
    return {"decay": "l2" if a["weight_decay"] != 0 else "none", **common(a)}


ROWS = (
    Native(
        "torch",
        "ASGD",
        "asgd",
        arguments={
            "lr": 1e-2,
            "lambd": 1e-4,
            "alpha": 0.75,
            "t0": 1e6,
            "weight_decay": 0.0,
            "maximize": False,
        },
        options=_asgd,
        links={h: Link(h) for h in ("lr", "lambd", "alpha", "t0", "weight_decay")},
        slots=(("eta", "eta"), ("mu", "mu"), ("ax", "ax")),
        variants=variants({}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=CAPTURABLE,
        inert=INERT,
        note="a changed learning rate takes effect one update late; `ax` is the averaged parameter",
    ),
)
