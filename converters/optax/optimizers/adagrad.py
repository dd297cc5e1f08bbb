"""Adagrad (``scale_by_rss``): the sum starts at 0.1, and where it is 0 nothing moves."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {"eps": "inside", "lr_decay": "none", "empty": "zero"}


ROWS = (
    native(
        "adagrad",
        "adagrad",
        {"initial_accumulator_value": 0.1, "eps": 1e-7},
        _adagrad,
        state=lambda a: (fields("sum_of_squares"), EMPTY),
        links={h: Link(h) for h in ("eps", "initial_accumulator_value")},
        slots=(("sum_of_squares", "sum"),),
        transform="scale_by_rss",
    ),
)
