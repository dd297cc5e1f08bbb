"""Adamax and AdamaxW (``scale_by_adamax``): ε is inside the maximum, and so in the state."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _adamax(_: Arguments) -> dict[str, OptionValue]:
    return {"eps": "accumulated"}


_ARGUMENTS = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
_LINKS = {"beta1": Link("b1"), "beta2": Link("b2"), "eps": Link("eps")}
_SLOTS = (("mu", "exp_avg"), ("nu", "exp_inf"))

ROWS = (
    native(
        "adamax",
        "adamax",
        _ARGUMENTS,
        _adamax,
        state=lambda _: (fields("count mu nu"), EMPTY),
        links=_LINKS,
        slots=_SLOTS,
        transform="scale_by_adamax",
    ),
    native(
        "adamaxw",
        "adamax",
        {**_ARGUMENTS, "weight_decay": 1e-4, "mask": None},
        _adamax,
        state=lambda _: (fields("count mu nu"), EMPTY, EMPTY),
        links=_LINKS,
        slots=_SLOTS,
        transform="scale_by_adamax",
    ),
)
