"""One schedule seen as another: what the frameworks' tables ask before they give up.

Every function returns what it was asked for or raises `CannotError` with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from .base import Schedule, combine, plans

__all__ = [
    "CannotError",
    "Until",
    "as_cosine",
    "as_linear",
    "as_piecewise",
    "as_polynomial",
    "as_unlimited",
    "from_zero",
    "hyper",
    "made",
    "per_count",
    "whole",
]


class CannotError(Exception):
    """A schedule has no counterpart; the text is the reason."""


class Until(NamedTuple):
    """A condition: two schedules agree on the counts up to and including ``until``."""

    text: str
    until: float


def made(name: str, **arguments: object) -> Schedule:
    """A schedule by its exact name."""
    return plans()[name].schedule(arguments)


def hyper(s: Schedule, name: str, default: float = 0.0) -> float:
    """A value, or ``default`` where the schedule does not read it."""
    return s.values.get(name, default)


def whole(value: float, what: str) -> int:
    """``value`` as an int."""
    if not float(value).is_integer():
        raise CannotError(f"expected a whole number of {what}, found {value:g}")
    return int(value)


def per_count(s: Schedule) -> tuple[Schedule, int]:
    """``s`` with every update a count, and the updates of one of its counts."""
    every, first = s.every, s.first
    if first % every:
        raise CannotError(f"the counts of {every} updates begin {first} updates before the first one")
    return s.counted(every=1, first=first // every), every


def from_zero(s: Schedule) -> Schedule:
    """The same values with every update a count and the first of them 0."""
    every, first = s.every, s.first
    if every != 1:
        s, first = _spread(s, every, first), first
    return _shifted(s.counted(every=1, first=0), first) if first else s


def _spread(s: Schedule, every: int, first: int) -> Schedule:
    """Counts of ``every`` updates as counts of one; only where the values keep still in between."""
    values, options = dict(s.values), {k: v for k, v in s.options.items() if k not in ("every", "first")}
    if s.name == "joined":
        bounds = [b * every for b in s.numbers("boundaries")]
        parts = [from_zero(_slower(p, every)) for p in s.parts]
        return combine("joined", parts, boundaries=bounds, first=first)
    if s.name == "product":
        return combine("product", [from_zero(_slower(p, every)) for p in s.parts], first=first)
    if s.name == "multi_step":
        options["milestones"] = tuple(m * every for m in s.numbers("milestones"))
    elif s.name == "piecewise" and s.options["between"] == "constant":
        options["boundaries"] = tuple(b * every for b in s.numbers("boundaries"))
    elif s.name == "step" and values["period"].is_integer() and values["begin"].is_integer():
        values["period"] *= every
        values["begin"] *= every
    elif s.name == "exponential" and s.options["stop"] == "none" and values["begin"].is_integer():
        values = {"base": values["base"], "gamma": values["gamma"] ** (1 / values["period"])}
        values |= {"period": float(every), "begin": s.values["begin"] * every}
        return made("step", **values, first=first)
    elif s.name != "constant":
        raise CannotError(
            f"{s.name} changes once in {every} updates (an epoch), and no other schedule has such stairs"
        )
    return made(s.name, **values, **options, first=first)


def _slower(p: Schedule, every: int) -> Schedule:
    """A part whose own counts are each of ``every`` times as many updates."""
    own, first = p.every, p.first
    return p.counted(every=own * every, first=first * every)


def _shifted(s: Schedule, first: int) -> Schedule:
    """``s``, which counts from 0, read ``first`` counts later."""
    values, options = dict(s.values), dict(s.options)
    if s.name == "constant":
        return s
    if s.name == "multi_step":
        moved = [m - first for m in s.numbers("milestones")]
        values["base"] *= values["gamma"] ** sum(m <= 0 for m in moved)
        return made("multi_step", **values, milestones=[m for m in moved if m > 0])
    if s.name == "piecewise" and options["between"] == "constant":
        bounds = [b - first for b in s.numbers("boundaries")]
        gone = sum(b <= 0 for b in bounds)
        return made("piecewise", boundaries=bounds[gone:], values=s.numbers("values")[gone:])
    if "begin" in values and values["begin"] - first >= 0:
        values["begin"] -= first
        return made(s.name, **values, **options)
    if s.name == "linear" and first > 0 and values["begin"] == 0:
        start, end, total = values["start"], values["end"], values["total"]
        if first >= total:
            return made("constant", base=end)
        return made("linear", start=start + (end - start) * first / total, end=end, total=total - first)
    if s.name == "joined":
        old = s.numbers("boundaries")
        bounds = [b - first for b in old]
        gone = sum(b <= 0 for b in bounds)
        head = s.parts[gone]
        behind = first if not gone else -int(bounds[gone - 1])
        head = from_zero(head.counted(first=head.first + behind))
        return combine("joined", [head, *s.parts[gone + 1 :]], boundaries=bounds[gone:])
    return s.counted(first=first)


def as_linear(s: Schedule) -> tuple[float, float, float, float]:
    """(start, end, total, begin) of a straight line that holds at its end."""
    if s.name == "linear" and s.first == 0:
        return s.values["start"], s.values["end"], s.values["total"], s.values["begin"]
    if s.name == "polynomial" and s.values["power"] == 1 and s.options["after"] == "hold":
        return s.values["base"], s.values["end"], s.values["total"], s.values["begin"]
    raise CannotError(f"{s.name} is no straight line")


def as_polynomial(s: Schedule) -> Mapping[str, float]:
    """base, end, power, total, begin of a polynomial that holds at its end."""
    if s.name == "linear":
        v = s.values
        return {"base": v["start"], "end": v["end"], "power": 1.0, "total": v["total"], "begin": v["begin"]}
    if s.name == "polynomial" and s.options["after"] == "hold":
        return s.values
    raise CannotError(f"{s.name} is no polynomial that ends")


def as_cosine(s: Schedule) -> tuple[Mapping[str, float], tuple[Until, ...]]:
    """Values of a cosine that holds at its end, and the condition under which ``s`` is one."""
    if s.name != "cosine":
        raise CannotError(f"{s.name} is no cosine")
    if s.options["after"] == "hold":
        return s.values, ()
    total = s.values["total"]
    text = f"holds for {total:g} counts: then PyTorch's cosine rises again and the other stays at its end"
    return s.values, (Until(text, total),)


def as_unlimited(s: Schedule) -> tuple[Mapping[str, float], tuple[Until, ...]]:
    """Values of a decay that never stops, and how long ``s``, which may stop, is one."""
    v, stop = s.values, s.options["stop"]
    if stop == "none" or (stop == "decayed_below" and v["limit"] <= 0 <= v["base"]):
        return v, ()
    if stop == "decayed_below" and v["base"] > v["limit"] and 0 < v["gamma"] < 1:
        periods = math.floor(math.log(v["limit"] / v["base"]) / math.log(v["gamma"]))
        text = f"holds until the decayed value falls below {v['limit']:g}, where the other goes on"
        return v, (Until(text, v["begin"] + max(periods, 0) * v["period"]),)
    raise CannotError(f"never stops; this one stops at {v['limit']:g}")


def as_piecewise(s: Schedule) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(boundaries, values) of a schedule with finitely many constant values."""
    if s.name == "constant":
        return (), (s.values["base"],)
    if s.name == "piecewise" and s.options["between"] == "constant":
        return s.numbers("boundaries"), s.numbers("values")
    if s.name == "multi_step":
        milestones = s.numbers("milestones")
        bounds = tuple(sorted(set(milestones)))
        passed = [sum(m <= b for m in milestones) for b in bounds]
        values = tuple(s.values["base"] * s.values["gamma"] ** n for n in (0, *passed))
        # A milestone at 0 or before is passed from the start.
        gone = sum(b <= 0 for b in bounds)
        return bounds[gone:], values[gone:]
    raise CannotError(f"{s.name} has more than finitely many values")
