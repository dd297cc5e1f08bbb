"""Keras' learning-rate schedules: functions of ``iterations``, the completed updates.

PiecewiseConstantDecay takes a boundary with the value before it (``step <= boundary``); everywhere else
a boundary belongs to the value after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optexport.errors import HyperparameterError
from optexport.schedules.base import Schedule, combine
from optexport.schedules.natives import REQUIRED, Lowered, NativeSchedule
from optexport.schedules.views import (
    CannotError,
    Until,
    as_cosine,
    as_linear,
    as_piecewise,
    as_polynomial,
    as_unlimited,
    from_zero,
    made,
    whole,
)

__all__ = ["SCHEDULES"]

Arguments = dict[str, Any]


def _exponential(a: Arguments) -> Schedule:
    name = "step" if a["staircase"] else "exponential"
    return made(name, base=a["initial_learning_rate"], gamma=a["decay_rate"], period=a["decay_steps"])


def _inverse_time(a: Arguments) -> Schedule:
    return made(
        "inverse_time",
        staircase=bool(a["staircase"]),
        base=a["initial_learning_rate"],
        rate=a["decay_rate"],
        period=a["decay_steps"],
    )


def _piecewise(a: Arguments) -> Schedule:
    bounds = [b + 1 for b in a["boundaries"]]
    gone = sum(b <= 0 for b in bounds)
    if len(a["values"]) != len(bounds) + 1:
        raise HyperparameterError(
            f"argument 'values' expected {len(bounds) + 1} numbers, one more than boundaries, found {len(a['values'])}"
        )
    return made("piecewise", boundaries=bounds[gone:], values=a["values"][gone:])


def _polynomial(a: Arguments) -> Schedule:
    return made(
        "polynomial",
        after="cycle" if a["cycle"] else "hold",
        base=a["initial_learning_rate"],
        end=a["end_learning_rate"],
        power=a["power"],
        total=a["decay_steps"],
    )


def _cosine(a: Arguments) -> Schedule:
    warm = a["warmup_target"] is not None
    base = a["warmup_target"] if warm else a["initial_learning_rate"]
    main = made("cosine", base=base, end=base * a["alpha"], total=a["decay_steps"])
    if not warm or a["warmup_steps"] <= 0:
        return main
    rise = made("linear", start=a["initial_learning_rate"], end=base, total=a["warmup_steps"])
    return combine("joined", [rise, main], boundaries=[a["warmup_steps"]])


def _restarts(a: Arguments) -> Schedule:
    base = a["initial_learning_rate"]
    values = {"base": base, "end": base * a["alpha"], "cycle": a["first_decay_steps"], "shrink": a["m_mul"]}
    if a["t_mul"] == 1:
        return made("cosine_restarts", growth="none", **values)
    return made("cosine_restarts", growth="geometric", **values, stretch=a["t_mul"])


# -- a schedule as Keras' ---------------------------------------------------------------------------


def _lowering(
    how: Callable[[Schedule], tuple[Arguments, tuple[Until, ...]]],
) -> Callable[[Schedule], Lowered]:
    def lower(s: Schedule) -> Lowered:
        s = from_zero(s)
        if s.first != 0:
            raise CannotError("counts from 0 at the first update")
        return (*how(s), 1)

    return lower


def _lower_exponential(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    if s.name not in ("step", "exponential"):
        raise CannotError(f"is no {s.name}")
    v, conditions = as_unlimited(s)
    if v["begin"]:
        raise CannotError("begins at once, found a pause")
    return {
        "initial_learning_rate": v["base"],
        "decay_steps": whole(v["period"], "steps"),
        "decay_rate": v["gamma"],
        "staircase": s.name == "step",
    }, conditions


def _lower_inverse_time(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    if s.name != "inverse_time":
        raise CannotError(f"is no {s.name}")
    v = s.values
    return {
        "initial_learning_rate": v["base"],
        "decay_steps": whole(v["period"], "steps"),
        "decay_rate": v["rate"],
        "staircase": s.options["staircase"],
    }, ()


def _lower_piecewise(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    bounds, values = as_piecewise(s)
    # A list without a boundary is refused by Keras' comparison with its last one.
    if not bounds:
        bounds, values = (1.0,), (*values, *values)
    return {"boundaries": [int(b) - 1 for b in bounds], "values": list(values)}, ()


def _lower_polynomial(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    cycle = s.name == "polynomial" and s.options["after"] == "cycle"
    v = s.values if cycle else as_polynomial(s)
    if v["begin"]:
        raise CannotError("begins at once, found a pause")
    return {
        "initial_learning_rate": v["base"],
        "decay_steps": whole(v["total"], "steps"),
        "end_learning_rate": v["end"],
        "power": v["power"],
        "cycle": cycle,
    }, ()


def _lower_cosine(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    warm: Arguments = {}
    if s.name == "joined" and len(s.parts) == 2:
        rise, s, at = from_zero(s.parts[0]), from_zero(s.parts[1]), s.numbers("boundaries")[0]
        start, end, total, begin = as_linear(rise)
        if begin or total != at or end != s.values.get("base") or s.first != 0:
            raise CannotError("goes on from the top of its warm-up")
        warm = {"initial_learning_rate": start, "warmup_target": end, "warmup_steps": whole(total, "steps")}
    v, conditions = as_cosine(s)
    if v["power"] != 1 or v["base"] == 0:
        raise CannotError("has no power, and states its end as a part of its start, which must not be 0")
    arguments = {"initial_learning_rate": v["base"], "decay_steps": whole(v["total"], "steps")}
    at = float(warm.get("warmup_steps", 0))
    until = tuple(Until(c.text, c.until + at) for c in conditions)
    return {**arguments, "alpha": v["end"] / v["base"], **warm}, until


def _lower_restarts(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    if s.name != "cosine_restarts":
        raise CannotError(f"is no {s.name}")
    v = s.values
    if v["base"] == 0:
        raise CannotError("states its end as a part of its start, which is 0")
    return {
        "initial_learning_rate": v["base"],
        "first_decay_steps": whole(v["cycle"], "steps"),
        "t_mul": v.get("stretch", 1.0),
        "m_mul": v["shrink"],
        "alpha": v["end"] / v["base"],
    }, ()


def _row(
    name: str,
    lift: Callable[[Arguments], Schedule],
    lower: Callable[[Schedule], tuple[Arguments, tuple[Until, ...]]],
    **arguments: Any,
) -> NativeSchedule:
    aliases = {"lr": "initial_learning_rate"} if "initial_learning_rate" in arguments else {}
    return NativeSchedule(
        "keras", name, {**arguments, "name": name}, {"lr": lift}, _lowering(lower), aliases=aliases
    )


_LR = {"initial_learning_rate": REQUIRED}

SCHEDULES: tuple[NativeSchedule, ...] = (
    _row(
        "ExponentialDecay",
        _exponential,
        _lower_exponential,
        **_LR,
        decay_steps=REQUIRED,
        decay_rate=REQUIRED,
        staircase=False,
    ),
    _row(
        "InverseTimeDecay",
        _inverse_time,
        _lower_inverse_time,
        **_LR,
        decay_steps=REQUIRED,
        decay_rate=REQUIRED,
        staircase=False,
    ),
    _row("PiecewiseConstantDecay", _piecewise, _lower_piecewise, boundaries=REQUIRED, values=REQUIRED),
    _row(
        "PolynomialDecay",
        _polynomial,
        _lower_polynomial,
        **_LR,
        decay_steps=REQUIRED,
        end_learning_rate=0.0001,
        power=1.0,
        cycle=False,
    ),
    _row(
        "CosineDecay",
        _cosine,
        _lower_cosine,
        **_LR,
        decay_steps=REQUIRED,
        alpha=0.0,
        warmup_target=None,
        warmup_steps=0,
    ),
    _row(
        "CosineDecayRestarts",
        _restarts,
        _lower_restarts,
        **_LR,
        first_decay_steps=REQUIRED,
        t_mul=2.0,
        m_mul=1.0,
        alpha=0.0,
    ),
)
