"""L-BFGS (``optax.lbfgs``, ``optax/_src/transform.py``) without line search."""

from __future__ import annotations

from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import EMPTY, RATE, Arguments, Curvatures, Ring, State, fields, native

__all__ = ["ROWS"]


def _lbfgs(a: Arguments) -> dict[str, OptionValue]:
    scaled = bool(a["scale_init_precond"])
    return {
        "history": a["memory_size"],
        "pairs": "every",
        "scale": "newest" if scaled else "one",
        "first": "l2" if scaled else "gradient",
        "stop": "never",
        "last": "param",
    }


def _state(a: Arguments) -> State:
    held = fields(
        "count params updates diff_params_memory diff_updates_memory weights_memory",
        diff_params_memory=Ring("diff_params_memory"),
        diff_updates_memory=Ring("diff_updates_memory"),
        weights_memory=Curvatures("diff_updates_memory", "diff_params_memory"),
    )
    return (held, RATE, EMPTY)


def _check(a: Arguments) -> None:
    if a["linesearch"] is not None:
        raise HyperparameterError(
            f"optax:lbfgs: argument 'linesearch' expected None, found {a['linesearch']!r:.80}; a line search "
            "evaluates the loss, which no rule does"
        )


ROWS = (
    native(
        "lbfgs",
        "lbfgs",
        {"learning_rate": 1.0, "memory_size": 10, "scale_init_precond": True, "linesearch": None},
        _lbfgs,
        state=_state,
        links={},
        slots=(
            ("diff_updates_memory", "gradient_differences"),
            ("diff_params_memory", "parameter_differences"),
            ("updates", "last_grad"),
            ("params", "last_param"),
        ),
        variants=({"scale_init_precond": True}, {"scale_init_precond": False}),
        counts={"history": "memory_size"},
        validate=_check,
        note="Optax' own default is a zoom line search, which no rule has: linesearch=None is meant",
    ),
)
