"""Rprop (``torch/optim/rprop.py``)."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common

__all__ = ["ROWS"]


def _rprop(a: Arguments) -> dict[str, OptionValue]:
    return {"step": "at_once", "decay": "none", **common(a)}


ROWS = (
    Native(
        "torch",
        "Rprop",
        "rprop",
        arguments={"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), "maximize": False},
        options=_rprop,
        links={
            "lr": Link("lr"),
            "etaminus": Link("etas[0]"),
            "etaplus": Link("etas[1]"),
            "step_size_min": Link("step_sizes[0]"),
            "step_size_max": Link("step_sizes[1]"),
        },
        slots=(("prev", "prev"), ("step_size", "step_length")),
        variants=({"maximize": False}, {"maximize": True}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults=CAPTURABLE,
        inert=INERT,
        note="the learning rate is what every step length starts at; it has no effect after the first update",
    ),
)
