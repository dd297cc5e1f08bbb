"""rmsprop (``optimizer/rmsprop.py``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, common, native

__all__ = ["ROWS"]


def _rmsprop(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "inside",
        "centered": bool(a["centered"]),
        # Centered RMSProp always has momentum, plain RMSProp never.
        "momentum": "folded" if a["centered"] else "none",
        "decay": "l2" if a["wd"] != 0 else "none",
        "clip_weights": bool(a["clip_weights"]),
        **common(a, "after_decay"),
    }


ROWS = (
    native(
        "rmsprop",
        "rmsprop",
        {
            "learning_rate": 1e-3,
            "gamma1": 0.9,
            "gamma2": 0.9,
            "epsilon": 1e-8,
            "centered": False,
            "clip_weights": None,
        },
        class_name="RMSProp",
        options=_rmsprop,
        links={
            "alpha": Link("gamma1"),
            "momentum": Link("gamma2"),
            "eps": Link("epsilon"),
            "clip_weights": Link("clip_weights"),
        },
        slots=(("n", "square_avg"), ("g", "grad_avg"), ("delta", "momentum_buffer")),
        variants=tuple({"centered": c, "clip_weights": w} for c in (False, True) for w in (None, 1.0)),
    ),
)
