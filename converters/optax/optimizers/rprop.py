"""Rprop (``scale_by_rprop``): it makes the step of the gradient before."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import NUMBER, Arguments, fields, native

__all__ = ["ROWS"]


def _rprop(a: Arguments) -> dict[str, OptionValue]:
    return {"step": "late"}


ROWS = (
    native(
        "rprop",
        "rprop",
        {"eta_minus": 0.5, "eta_plus": 1.2, "min_step_size": 1e-6, "max_step_size": 50.0},
        _rprop,
        state=lambda a: (fields("step_sizes prev_updates"), NUMBER),
        links={
            "etaminus": Link("eta_minus"),
            "etaplus": Link("eta_plus"),
            "step_size_min": Link("min_step_size"),
            "step_size_max": Link("max_step_size"),
        },
        slots=(("step_sizes", "step_length"), ("prev_updates", "prev")),
        note="the first update moves nothing, each later one makes the step of the gradient before; the learning "
        "rate is what every step length starts at, and has no effect afterwards",
    ),
)
