"""Lion (``keras/src/optimizers/lion.py``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _lion(_: Arguments) -> dict[str, OptionValue]:
    return {}


def _check(a: Arguments) -> None:
    if a["beta_1"] <= 0:
        raise HyperparameterError(
            f"keras:Lion: argument 'beta_1' expected a number above 0, found {a['beta_1']!r}; Keras refuses it"
        )


ROWS = (
    native(
        "Lion",
        "lion",
        {"beta_1": 0.9, "beta_2": 0.99},
        _lion,
        links={"beta1": Link("beta_1"), "beta2": Link("beta_2")},
        slots=(("momentum", "exp_avg"),),
        validate=_check,
    ),
)
