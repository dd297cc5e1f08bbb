"""ftrl (class Ftrl in ``optimizer/optimizer.py``, operator ``ftrl_update``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, common, native

__all__ = ["ROWS"]


def _ftrl(a: Arguments) -> dict[str, OptionValue]:
    return {"power": "root", "shrinkage": False, "decay": "none", **common(a, "before_decay")}


ROWS = (
    native(
        "ftrl",
        "ftrl",
        {"learning_rate": 0.1, "lamda1": 0.01, "beta": 1.0},
        class_name="Ftrl",
        options=_ftrl,
        # wd is the penalty λ2 of the method, no decay of the parameter.
        links={"l1": Link("lamda1"), "l2": Link("wd"), "beta": Link("beta")},
        slots=(("z", "linear"), ("n", "accumulator")),
        note="state is float32 whatever the parameter; float64 parameters fail",
    ),
)
