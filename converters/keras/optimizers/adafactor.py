"""Adafactor (``keras/src/optimizers/adafactor.py``).

The last two axes of everything that has two; ``velocity`` then holds the product of the factors,
which nothing reads. Vectors have integers 0 for ``r`` and ``c``. ``relative_step`` changes nothing
where the learning rate is a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _adafactor(_: Arguments) -> dict[str, OptionValue]:
    return {
        "factoring": "last_axes",
        "eps1": "added",
        "rate": "capped",
        "scale": "rms_decayed",
        "clipping": True,
        "momentum": "none",
        "keeps": "factors_and_product",
    }


def _negative(x: float) -> float:
    return -float(x)


def _lacking(axis: int) -> Any:
    return lambda a, _: np.expand_dims(a, axis), lambda a, _: np.squeeze(a, axis)


ROWS = (
    native(
        "Adafactor",
        "adafactor",
        {
            "beta_2_decay": -0.8,
            "epsilon_1": 1e-30,
            "epsilon_2": 1e-3,
            "clip_threshold": 1.0,
            "relative_step": True,
        },
        _adafactor,
        links={
            "beta2_decay": Link("beta_2_decay", _negative, _negative),
            "eps1": Link("epsilon_1"),
            "eps2": Link("epsilon_2"),
            "clip_threshold": Link("clip_threshold"),
        },
        slots=(("r", "row_var"), ("c", "col_var"), ("velocity", "variance")),
        placeholders=frozenset({"r", "c"}),
        layouts={"r": _lacking(-1), "c": _lacking(-2)},
        note="relative_step changes nothing: the learning rate is capped at 1/√t either way",
    ),
)
