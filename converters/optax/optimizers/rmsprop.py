"""RMSprop (``scale_by_rms``, ``scale_by_stddev``): the trace holds displacements, sign included."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import EMPTY, RATE, Arguments, State, fields, native

__all__ = ["ROWS"]


def _rmsprop(a: Arguments) -> dict[str, OptionValue]:
    momentum = a["momentum"] is not None
    return {
        "eps": "inside" if a["eps_in_sqrt"] else "outside",
        "centered": bool(a["centered"]),
        "momentum": "folded" if momentum else "none",
        "nesterov": bool(a["nesterov"]) and momentum,
        "bias_correction": bool(a["bias_correction"]),
        "clip_weights": False,
    }


def _check(a: Arguments) -> None:
    if a["initial_scale"] != 0:
        raise HyperparameterError(
            f"optax:rmsprop: argument 'initial_scale' expected 0.0, found {a['initial_scale']!r}; "
            "start from 0, or give the running mean as state"
        )


def _state(a: Arguments) -> State:
    names = ("count " if a["bias_correction"] else "") + ("mu nu" if a["centered"] else "nu")
    return (fields(names), RATE, EMPTY if a["momentum"] is None else fields("trace"))


ROWS = (
    native(
        "rmsprop",
        "rmsprop",
        {
            "decay": 0.9,
            "eps": 1e-8,
            "initial_scale": 0.0,
            "eps_in_sqrt": True,
            "centered": False,
            "momentum": None,
            "nesterov": False,
            "bias_correction": False,
        },
        _rmsprop,
        state=_state,
        links={"alpha": Link("decay"), "eps": Link("eps"), "momentum": Link("momentum")},
        slots=(("nu", "square_avg"), ("mu", "grad_avg"), ("trace", "momentum_buffer")),
        variants=tuple(
            {"eps_in_sqrt": e, "centered": c, "momentum": m, "nesterov": n, "bias_correction": b}
            for b in (False, True)
            for m, n in ((None, False), (0.9, False), (0.9, True))
            for c in (False, True)
            for e in (True, False)
        ),
        validate=_check,
        transform="scale_by_rms",
    ),
)
