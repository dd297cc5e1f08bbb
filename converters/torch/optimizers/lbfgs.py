"""L-BFGS (``torch/optim/lbfgs.py``) without line search."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import ALIASES, INERT, Arguments

__all__ = ["ROWS"]


def _lbfgs(a: Arguments) -> dict[str, OptionValue]:
    return {
        "history": a["history_size"],
        "pairs": "curved",
        "scale": "newest",
        "first": "l1",
        "stop": "tolerance",
        "last": "step",
        "maximize": False,
        "rescale": False,
        "clip": "none",
        "scalars": "float64",
    }


def _check(a: Arguments) -> None:
    if a["line_search_fn"] is not None:
        raise HyperparameterError(
            "torch:LBFGS: argument 'line_search_fn' expected None, found "
            f"{a['line_search_fn']!r}; a line search evaluates the loss, which no rule does"
        )


ROWS = (
    Native(
        "torch",
        "LBFGS",
        "lbfgs",
        arguments={
            "lr": 1.0,
            "max_iter": 20,
            "max_eval": None,
            "tolerance_grad": 1e-7,
            "tolerance_change": 1e-9,
            "history_size": 100,
            "line_search_fn": None,
        },
        options=_lbfgs,
        links={h: Link(h) for h in ("lr", "tolerance_grad", "tolerance_change")},
        slots=(
            ("old_dirs", "gradient_differences"),
            ("old_stps", "parameter_differences"),
            ("prev_flat_grad", "last_grad"),
            ("d", "last_step"),
            ("n_iter", "iterations"),
        ),
        counts={"history": "history_size"},
        aliases=ALIASES,
        inert=INERT,
        validate=_check,
        note="one update is one iteration: a call of step with max_iter > 1 makes several, each with the "
        "gradient that its closure gives; d stands for t·d",
    ),
)
