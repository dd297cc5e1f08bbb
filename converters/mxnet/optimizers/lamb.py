"""lamb (``optimizer/optimizer.py``, ``src/operator/contrib/multi_lamb.cc``).

MXNet's updater hands LAMB's tensors over in lists, so that the multi-tensor kernel computes: u and
both norms are float32 whatever the parameter's dtype.
"""

from __future__ import annotations

from typing import Any

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import BETAS, MOMENTS, Arguments, common, native

__all__ = ["ROWS"]

INF = float("inf")


def _lamb(a: Arguments) -> dict[str, OptionValue]:
    return {
        "bias_correction": "both" if a["bias_correction"] else "none",
        # A bound of 0 is none, as None is.
        "bounds": "norm" if a["lower_bound"] or a["upper_bound"] else "none",
        "decay": "in_update" if a["wd"] != 0 else "none",
        **common(a, "before_decay"),
    }


def _bound(argument: str, none: float) -> Link:
    def to_rule(x: Any) -> float:
        return float(x) if x else none

    def to_native(x: float) -> Any:
        return None if x == none else x

    return Link(argument, to_rule, to_native)


ROWS = (
    native(
        "lamb",
        "lamb",
        {
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-6,
            "lower_bound": None,
            "upper_bound": None,
            "bias_correction": True,
        },
        class_name="LAMB",
        options=_lamb,
        links={
            **BETAS,
            "lower_bound": _bound("lower_bound", 0.0),
            "upper_bound": _bound("upper_bound", INF),
        },
        slots=MOMENTS,
        variants=tuple(
            {"bias_correction": c, "upper_bound": bound} for c in (True, False) for bound in (None, 1.0)
        ),
        note="u and both norms are float32 whatever the parameter; with multi_precision the norm of the weights "
        "is of the float16 parameters and their squares in float16, which vanish below 2⁻¹²",
    ),
)
