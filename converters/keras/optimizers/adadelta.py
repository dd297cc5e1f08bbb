"""Adadelta (``keras/src/optimizers/adadelta.py``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _adadelta(a: Arguments) -> dict[str, OptionValue]:
    return {"rate": "lr"}


ROWS = (
    native(
        "Adadelta",
        "adadelta",
        {"rho": 0.95, "epsilon": 1e-7},
        _adadelta,
        links={"rho": Link("rho"), "eps": Link("epsilon")},
        slots=(("accumulated_grad", "square_avg"), ("accumulated_delta_var", "acc_delta")),
    ),
)
