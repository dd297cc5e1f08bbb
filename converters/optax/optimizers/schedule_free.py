"""Schedule-free SGD and AdamW (``contrib/_schedule_free.py``).

``weight_sum``, ``step_count`` and ``max_lr`` are one number for all parameters; ``step_count`` starts
at 1. A warmup is a schedule that the base reads at the update before.
"""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import EMPTY, NEXT_COUNT, Arguments, Shared, State, fields, native

__all__ = ["ROWS"]


def _options(base: str) -> object:
    def options(a: Arguments) -> dict[str, OptionValue]:
        return {
            "base": base,
            "weights": "lr",
            "warmup": "none" if a["warmup_steps"] is None else "late",
            "decay": "base" if a["weight_decay"] else "none",
        }

    return options


def _state(base: str) -> object:
    def state(a: Arguments) -> State:
        rate = EMPTY if a["warmup_steps"] is None else fields("count")
        if base == "adam":
            inner: State = (fields("count nu"), EMPTY, rate)
        else:
            # Plain SGD is a chain of nothing and the learning rate.
            inner = (EMPTY, rate)
            if a["weight_decay"] is not None:
                inner = (EMPTY, inner)
        return {
            "b1": a["b1"],
            "weight_sum": Shared("weight_sum"),
            "step_count": NEXT_COUNT,
            "max_lr": Shared("max_lr"),
            "base_optimizer_state": inner,
            "z": "z",
        }

    return state


def _check(name: str) -> object:
    def check(a: Arguments) -> None:
        if a["state_dtype"] is not None:
            raise HyperparameterError(
                f"optax:{name}: argument 'state_dtype' expected None, found {a['state_dtype']!r}; "
                "state is kept in the parameter's dtype"
            )

    return check


_ARGUMENTS = {"warmup_steps": None, "b1": 0.9, "weight_lr_power": 2.0, "state_dtype": None}
_LINKS = {
    "beta1": Link("b1"),
    "weight_lr_power": Link("weight_lr_power"),
    "warmup_steps": Link("warmup_steps", float, int),
}
_SLOTS = (("z", "z"), ("weight_sum", "weight_total"), ("max_lr", "max_lr"))
_VARIANTS = ({"warmup_steps": None}, {"warmup_steps": 1})

ROWS = (
    native(
        "schedule_free_sgd",
        "schedule_free",
        {"learning_rate": 1.0, "weight_decay": None, **_ARGUMENTS},
        _options("sgd"),  # type: ignore[arg-type]
        state=_state("sgd"),  # type: ignore[arg-type]
        links=_LINKS,
        slots=_SLOTS,
        variants=_VARIANTS,
        validate=_check("schedule_free_sgd"),
    ),
    native(
        "schedule_free_adamw",
        "schedule_free",
        {"learning_rate": 0.0025, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, **_ARGUMENTS},
        _options("adam"),  # type: ignore[arg-type]
        state=_state("adam"),  # type: ignore[arg-type]
        links={**_LINKS, "beta2": Link("b2"), "eps": Link("eps")},
        slots=(*_SLOTS, ("nu", "exp_avg_sq")),
        variants=_VARIANTS,
        validate=_check("schedule_free_adamw"),
    ),
)
