"""SGD (``torch/optim/sgd.py``)."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import ALIASES, INERT, SWITCHES, Arguments, common, variants

__all__ = ["ROWS"]


def _sgd(a: Arguments) -> dict[str, OptionValue]:
    momentum = "unfolded" if a["momentum"] != 0 else "none"
    return {
        "momentum": momentum,
        "nesterov": "lookahead" if a["nesterov"] and momentum != "none" else "none",
        # The first update makes the buffer a copy of the gradient, whatever the dampening.
        "dampening": "not_first" if a["dampening"] != 0 and momentum != "none" else "none",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        **common(a),
    }


def _check_sgd(a: Arguments) -> None:
    if a["nesterov"] and (not a["momentum"] or a["dampening"]):
        raise HyperparameterError(
            "torch:SGD: nesterov expected momentum > 0 and dampening 0, found "
            f"momentum {a['momentum']!r}, dampening {a['dampening']!r}"
        )


ROWS = (
    Native(
        "torch",
        "SGD",
        "sgd",
        arguments={
            "lr": 1e-3,
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            "maximize": False,
        },
        options=_sgd,
        links={
            "lr": Link("lr"),
            "momentum": Link("momentum"),
            "dampening": Link("dampening"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("momentum_buffer", "momentum_buffer"),),
        variants=variants(
            {"momentum": 0.0, "nesterov": False, "dampening": 0.0},
            {"momentum": 0.9, "nesterov": False, "dampening": 0.0},
            {"momentum": 0.9, "nesterov": False, "dampening": 0.5},
            {"momentum": 0.9, "nesterov": True, "dampening": 0.0},
        ),
        aliases=ALIASES,
        file_defaults=SWITCHES,
        inert=INERT,
        validate=_check_sgd,
    ),
)
