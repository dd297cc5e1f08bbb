"""RMSprop (``torch/optim/rmsprop.py``)."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common, variants

__all__ = ["ROWS"]


def _rmsprop(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "centered": bool(a["centered"]),
        "momentum": "unfolded" if a["momentum"] > 0 else "none",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        "clip_weights": False,
        **common(a),
    }


ROWS = (
    Native(
        "torch",
        "RMSprop",
        "rmsprop",
        arguments={
            "lr": 1e-2,
            "alpha": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum": 0.0,
            "centered": False,
            "maximize": False,
        },
        options=_rmsprop,
        links={h: Link(h) for h in ("lr", "alpha", "eps", "momentum", "weight_decay")},
        slots=(
            ("square_avg", "square_avg"),
            ("momentum_buffer", "momentum_buffer"),
            ("grad_avg", "grad_avg"),
        ),
        variants=variants(*({"momentum": m, "centered": c} for m in (0.0, 0.9) for c in (False, True))),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=CAPTURABLE,
        inert=INERT,
    ),
)
