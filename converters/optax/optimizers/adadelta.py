"""Adadelta (``scale_by_adadelta``): its weight decay stands before it; without a learning rate it ascends."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _adadelta(a: Arguments) -> dict[str, OptionValue]:
    return {
        # The last link, which scales by −η, is no link at all for None: nothing turns the sign.
        "rate": "ascent" if a["learning_rate"] is None else "lr",
        "decay": "l2" if a["weight_decay"] else "none",
    }


def _rate(given: float | None) -> float:
    return 1.0 if given is None else float(given)


ROWS = (
    native(
        "adadelta",
        "adadelta",
        {
            "learning_rate": None,
            "rho": 0.9,
            "eps": 1e-6,
            "weight_decay": 0.0,
            "weight_decay_mask": None,
        },
        _adadelta,
        state=lambda a: (EMPTY, fields("e_g e_x"), EMPTY),
        links={"lr": Link("learning_rate", _rate), "rho": Link("rho"), "eps": Link("eps")},
        slots=(("e_g", "square_avg"), ("e_x", "acc_delta")),
        variants=({"learning_rate": 1.0},),
        note="without learning_rate it adds its step instead of subtracting it: give a number",
    ),
)
