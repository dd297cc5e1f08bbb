"""SignSGD and Signum (``sign_sgd``, ``signum``: ``ema`` and ``scale_by_sign``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _sign(a: Arguments) -> dict[str, OptionValue]:
    return {"momentum": "average" if "beta" in a else "none"}


ROWS = (
    native(
        "sign_sgd",
        "signum",
        {},
        _sign,
        state=lambda a: (EMPTY, EMPTY),
        links={},
        transform="scale_by_sign",
    ),
    native(
        "signum",
        "signum",
        {"beta": 0.9, "accumulator_dtype": None},
        _sign,
        state=lambda a: (fields("count ema"), EMPTY, EMPTY),
        links={"momentum": Link("beta")},
        slots=(("ema", "momentum_buffer"),),
    ),
)
