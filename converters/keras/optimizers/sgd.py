"""SGD (``keras/src/optimizers/sgd.py``): the learning rate is folded into the momentum."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _sgd(a: Arguments) -> dict[str, OptionValue]:
    momentum = a["momentum"] != 0
    return {
        "momentum": "folded" if momentum else "none",
        "nesterov": "lookahead" if a["nesterov"] and momentum else "none",
        "dampening": "none",
    }


ROWS = (
    native(
        "SGD",
        "sgd",
        {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
        _sgd,
        links={"momentum": Link("momentum")},
        slots=(("momentum", "momentum_buffer"),),
        variants=(
            {"momentum": 0.0, "nesterov": False},
            {"momentum": 0.9, "nesterov": False},
            {"momentum": 0.9, "nesterov": True},
        ),
    ),
)
