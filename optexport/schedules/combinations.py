"""Schedules made of schedules: one after the other, or multiplied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import HyperparameterError
from ..ir import Value, where
from .base import Clock, Numbers, Schedule, Static

__all__ = ["COMBINATIONS", "Combination"]

Values = Callable[[int, Value], Value]


@dataclass(frozen=True)
class Combination:
    """function: clock, (part, count) -> its value, number of parts, options -> the value."""

    options: tuple[Numbers, ...]
    function: Callable[[Clock, Values, int, Mapping[str, Static]], Value]
    validate: Callable[[str, tuple[Schedule, ...], Mapping[str, Static]], None]


def _numbers(options: Mapping[str, Static], name: str) -> tuple[float, ...]:
    value = options[name]
    assert isinstance(value, tuple)
    return value


def _joined(s: Clock, value: Values, n: int, options: Mapping[str, Static]) -> Value:
    """The first part until the first boundary, then the next, which counts from there."""
    bounds = _numbers(options, "boundaries")
    out = value(0, s.k)
    for i in range(1, n):
        out = where(s.k < bounds[i - 1], out, value(i, s.k - bounds[i - 1]))
    return out


def _check_joined(name: str, parts: tuple[Schedule, ...], options: Mapping[str, Static]) -> None:
    bounds = _numbers(options, "boundaries")
    if len(bounds) != len(parts) - 1:
        raise HyperparameterError(
            f"{name}: expected {len(parts) - 1} boundaries between {len(parts)} schedules, found {len(bounds)}"
        )


def _product(s: Clock, value: Values, n: int, options: Mapping[str, Static]) -> Value:
    """Every part at the same count, multiplied."""
    out = value(0, s.k)
    for i in range(1, n):
        out = out * value(i, s.k)
    return out


COMBINATIONS: Mapping[str, Combination] = {
    "joined": Combination(
        (Numbers("boundaries", "counts at which the next schedule begins", whole=True, rising="weakly"),),
        _joined,
        _check_joined,
    ),
    "product": Combination((), _product, lambda *_: None),
}
