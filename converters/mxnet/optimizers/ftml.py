"""ftml (class FTML in ``optimizer/optimizer.py``, operator ``ftml_update``)."""

from __future__ import annotations

from optexport.rules.base import OptionValue

from .common import BETAS, Arguments, common, native

__all__ = ["ROWS"]


def _ftml(a: Arguments) -> dict[str, OptionValue]:
    return {"decay": "l2" if a["wd"] != 0 else "none", **common(a, "after_decay")}


ROWS = (
    native(
        "ftml",
        "ftml",
        {"beta1": 0.6, "beta2": 0.999, "epsilon": 1e-8},
        class_name="FTML",
        options=_ftml,
        links=BETAS,
        slots=(("d", "weight_sum"), ("v", "exp_avg_sq"), ("z", "linear")),
    ),
)
