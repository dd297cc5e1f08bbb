"""What Optax alone has of Adam's relatives: yogi, adabelief, novograd (``scale_by_yogi``,
``scale_by_belief``, ``scale_by_novograd``)."""

from __future__ import annotations

import numpy as np

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]

# ``scale_by_yogi`` starts both averages at this; the alias has no argument for it.
YOGI_START = 1e-6


def _yogi(_: Arguments) -> dict[str, OptionValue]:
    return {}


def _adabelief(a: Arguments) -> dict[str, OptionValue]:
    return {"nesterov": bool(a["nesterov"])}


def _novograd(a: Arguments) -> dict[str, OptionValue]:
    return {"decay": "normalized" if a["weight_decay"] else "none"}


_LINKS = {"beta1": Link("b1"), "beta2": Link("b2"), "eps": Link("eps")}

ROWS = (
    native(
        "yogi",
        "yogi",
        {"b1": 0.9, "b2": 0.999, "eps": 1e-3},
        _yogi,
        state=lambda _: (fields("count mu nu"), EMPTY),
        links=_LINKS,
        slots=(("mu", "exp_avg"), ("nu", "exp_avg_sq")),
        note=f"both averages start at {YOGI_START:g}",
    ),
    native(
        "adabelief",
        "adabelief",
        {"b1": 0.9, "b2": 0.999, "eps": 1e-16, "eps_root": 1e-16, "nesterov": False},
        _adabelief,
        state=lambda _: (fields("count mu nu"), EMPTY),
        links={**_LINKS, "eps_root": Link("eps_root")},
        slots=(("mu", "exp_avg"), ("nu", "exp_avg_var")),
        variants=({"nesterov": False}, {"nesterov": True}),
        transform="scale_by_belief",
    ),
    native(
        "novograd",
        "novograd",
        {"b1": 0.9, "b2": 0.25, "eps": 1e-6, "eps_root": 0.0, "weight_decay": 0.0},
        _novograd,
        state=lambda _: (fields("count mu nu"), EMPTY),
        links={**_LINKS, "eps_root": Link("eps_root")},
        slots=(("mu", "exp_avg"), ("nu", "norm_sq")),
        # A float64 scalar in the rule, of the parameters' dtype in Optax.
        layouts={"nu": (lambda n, _: np.asarray(n, np.float64), lambda n, _: np.asarray(n))},
    ),
)
