"""SGD (``optax.sgd``): the learning rate multiplies the trace."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, State, fields, native

__all__ = ["ROWS"]


def _sgd(a: Arguments) -> dict[str, OptionValue]:
    momentum = a["momentum"] is not None
    return {
        "momentum": "unfolded" if momentum else "none",
        "nesterov": "lookahead" if a["nesterov"] and momentum else "none",
        "dampening": "none",
    }


def _state(a: Arguments) -> State:
    return (EMPTY if a["momentum"] is None else fields("trace"), EMPTY)


ROWS = (
    native(
        "sgd",
        "sgd",
        {"momentum": None, "nesterov": False, "accumulator_dtype": None},
        _sgd,
        state=_state,
        links={"momentum": Link("momentum")},
        slots=(("trace", "momentum_buffer"),),
        variants=(
            {"momentum": None, "nesterov": False},
            {"momentum": 0.9, "nesterov": False},
            {"momentum": 0.9, "nesterov": True},
        ),
        # In a chain plain SGD is no link at all, and with momentum it is this one.
        transform="trace",
    ),
)
