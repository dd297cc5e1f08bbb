"""adam, and the contrib operator adamw_update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import BETAS, MOMENTS, Arguments, common, native, split

__all__ = ["ROWS"]


def _adam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "hat",
        "bias_correction": "both",
        "amsgrad": "none",
        "decay": "l2" if a["wd"] != 0 else "none",
        "post_decay": False,
        **common(a, "after_decay"),
    }


def _adamw(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "bias_correction": "none",
        "amsgrad": "none",
        "decay": "independent" if a["wd"] != 0 else "none",
        "post_decay": False,
        **common(a, "before_decay"),
    }


def _split_eta(
    a: Arguments, params: tuple[str, ...] | None
) -> Sequence[tuple[dict[str, Any], tuple[str, ...] | None, float]]:
    """``eta`` multiplies the whole update: the learning rate here, the decay through its link."""
    return [(args, names, lr_mult * a["eta"]) for args, names, lr_mult in split(a, params)]


ROWS = (
    native(
        "adam",
        "adam",
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        class_name="Adam",
        options=_adam,
        links=BETAS,
        slots=MOMENTS,
    ),
    native(
        "adamw_update",
        "adam",
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "eta": 1.0},
        options=_adamw,
        links={
            **BETAS,
            "weight_decay": Link("wd", times="eta"),
        },
        slots=MOMENTS,
        split=_split_eta,
        asked=True,
        note="an operator, not a class; it skips an update whose rescale tensor is 0, NaN or infinite",
    ),
)
