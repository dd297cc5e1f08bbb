"""Adafactor (``torch/optim/_adafactor.py``): the last two axes of everything that has two."""

from __future__ import annotations

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, INERT, Arguments, common, variants

__all__ = ["ROWS"]

# `eps[0]` None is the machine epsilon of the parameter's dtype; parameters are float32 unless they say.
_FLOAT32_EPS = 2.0**-23


def _adafactor(a: Arguments) -> dict[str, OptionValue]:
    return {
        "factoring": "last_axes",
        "eps1": "clamped",
        "rate": "capped",
        "scale": "rms",
        "clipping": True,
        "momentum": "none",
        "keeps": "factors",
        "decay": "decoupled" if a["weight_decay"] != 0 else "none",
        **common(a),
    }


def _negative(x: float) -> float:
    return -float(x)


ROWS = (
    Native(
        "torch",
        "Adafactor",
        "adafactor",
        arguments={
            "lr": 1e-2,
            "beta2_decay": -0.8,
            "eps": (None, 1e-3),
            "d": 1.0,
            "weight_decay": 0.0,
            "maximize": False,
        },
        options=_adafactor,
        links={
            "lr": Link("lr"),
            "beta2_decay": Link("beta2_decay", _negative, _negative),
            "eps1": Link("eps[0]", lambda x: _FLOAT32_EPS if x is None else float(x)),
            "eps2": Link("eps[1]"),
            "clip_threshold": Link("d"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("row_var", "row_var"), ("col_var", "col_var"), ("variance", "variance")),
        variants=variants({}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults={"foreach": None},
        inert=INERT,
        note="eps[0] = None, the default, is the machine epsilon of the parameter's dtype; float32's is taken",
    ),
)
