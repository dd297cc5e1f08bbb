"""lion (``scale_by_lion``, mode ``hard``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _lion(_: Arguments) -> dict[str, OptionValue]:
    return {}


ROWS = (
    native(
        "lion",
        "lion",
        {"b1": 0.9, "b2": 0.99, "mu_dtype": None, "weight_decay": 1e-3, "mask": None},
        _lion,
        state=lambda _: (fields("count mu"), EMPTY, EMPTY),
        links={"beta1": Link("b1"), "beta2": Link("b2")},
        slots=(("mu", "exp_avg"),),
        transform="scale_by_lion",
    ),
)
