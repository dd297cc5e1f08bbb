"""adagrad (``optimizer/adagrad.py``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, common, native

__all__ = ["ROWS"]


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "inside",
        "lr_decay": "none",
        # −η(g/√(h+ε) + λw): the step does not see w, so this is decoupled decay.
        "decay": "decoupled" if a["wd"] != 0 else "none",
        **common(a, "before_decay", scalars="float64"),
    }


ROWS = (
    native(
        "adagrad",
        "adagrad",
        {"eps": 1e-7},
        class_name="AdaGrad",
        options=_adagrad,
        links={"eps": Link("eps")},
        slots=(("history", "sum"),),
        aliases={"float_stable_eps": "eps"},
        note="state is float32 whatever the parameter; float64 parameters fail",
    ),
)
