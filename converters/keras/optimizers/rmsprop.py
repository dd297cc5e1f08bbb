"""RMSprop (``keras/src/optimizers/rmsprop.py``): the momentum holds what is to be subtracted."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _rmsprop(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "inside",
        "centered": bool(a["centered"]),
        "momentum": "folded_positive" if a["momentum"] > 0 else "none",
        "clip_weights": False,
    }


ROWS = (
    native(
        "RMSprop",
        "rmsprop",
        {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False},
        _rmsprop,
        links={"alpha": Link("rho"), "momentum": Link("momentum"), "eps": Link("epsilon")},
        slots=(
            ("velocity", "square_avg"),
            ("momentum", "momentum_buffer"),
            ("average_gradient", "grad_avg"),
        ),
        variants=tuple({"momentum": m, "centered": c} for m in (0.0, 0.9) for c in (False, True)),
        blocks=(("velocity",), ("momentum",), ("average_gradient",)),
    ),
)
