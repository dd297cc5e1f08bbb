"""sgd and nag (``optimizer/sgd.py``, ``nag.py``)."""

from __future__ import annotations

from typing import Any

from optexport.rules.base import OptionValue

from .common import MOMENTUM, Arguments, common, native

__all__ = ["ROWS"]


def _sgd(nesterov: str) -> Any:
    def options(a: Arguments) -> dict[str, OptionValue]:
        momentum = a["momentum"] != 0
        return {
            "momentum": "folded" if momentum else "none",
            "nesterov": nesterov if momentum else "none",
            "dampening": "none",
            "decay": "l2" if a["wd"] != 0 else "none",
            **common(a, "before_decay"),
        }

    return options


ROWS = (
    native(
        "sgd",
        "sgd",
        {"momentum": 0.0},
        class_name="SGD",
        options=_sgd("none"),
        links=MOMENTUM,
        slots=(("mom", "momentum_buffer"),),
        variants=({"momentum": 0.0}, {"momentum": 0.9}),
    ),
    native(
        "nag",
        "sgd",
        {"momentum": 0.0},
        class_name="NAG",
        options=_sgd("lookahead_reread"),
        links=MOMENTUM,
        slots=(("mom", "momentum_buffer"),),
        variants=({"momentum": 0.9},),
        note="the stored momentum decays the parameter that the same update has just written",
    ),
)
