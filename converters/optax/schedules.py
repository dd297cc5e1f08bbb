"""Optax' schedules: functions of ``count``, the completed updates, as optexport's are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    from_zero,
    made,
    whole,
)

__all__ = ["SCHEDULES"]

Arguments = dict[str, Any]


def _polynomial(a: Arguments) -> Schedule:
    if a["transition_steps"] <= 0:
        return made("constant", base=a["init_value"])
    return made(
        "polynomial",
        base=a["init_value"],
        end=a["end_value"],
        power=a["power"],
        total=a["transition_steps"],
        begin=max(a["transition_begin"], 0),
    )


def _linear(a: Arguments) -> Schedule:
    if a["transition_steps"] <= 0:
        return made("constant", base=a["init_value"])
    begin = max(a["transition_begin"], 0)
    return made("linear", start=a["init_value"], end=a["end_value"], total=a["transition_steps"], begin=begin)


def _exponential(a: Arguments) -> Schedule:
    if a["transition_steps"] <= 0 or a["decay_rate"] == 0:
        return made("constant", base=a["init_value"])
    stop: dict[str, Any] = {}
    if a["end_value"] is not None:
        stop = {"stop": "below" if a["decay_rate"] < 1 else "above", "limit": a["end_value"]}
    return made(
        "step" if a["staircase"] else "exponential",
        base=a["init_value"],
        gamma=a["decay_rate"],
        period=a["transition_steps"],
        begin=max(a["transition_begin"], 0),
        **stop,
    )


def _cosine(a: Arguments) -> Schedule:
    base = a["init_value"]
    return made("cosine", base=base, end=base * a["alpha"], total=a["decay_steps"], power=a["exponent"])


def _breakpoints(a: Arguments) -> tuple[list[int], list[float]]:
    """(boundaries, values) of an initial value and factors on it."""
    bounds, values = [], [a["init_value"]]
    for at, factor in sorted((a["boundaries_and_scales"] or {}).items()):
        if factor < 0:
            raise HyperparameterError(
                f"argument 'boundaries_and_scales' expected factors in [0, inf), found {factor!r}"
            )
        bounds.append(at)
        values.append(values[-1] * factor)
    return bounds, values


def _piecewise(a: Arguments) -> Schedule:
    bounds, values = _breakpoints(a)
    gone = sum(b <= 0 for b in bounds)
    return made("piecewise", boundaries=bounds[gone:], values=values[gone:])


def _interpolated(a: Arguments) -> Schedule:
    if a["interpolate_type"] not in ("linear", "cosine"):
        raise HyperparameterError(
            f"argument 'interpolate_type' expected one of linear, cosine, found {a['interpolate_type']!r}"
        )
    bounds, values = _breakpoints(a)
    return made("piecewise", boundaries=bounds, values=values, between=a["interpolate_type"])


def _onecycle(kind: str) -> Callable[[Arguments], Schedule]:
    def lift(a: Arguments) -> Schedule:
        n, div = a["transition_steps"], a["div_factor"]
        scales = {int(a["pct_start"] * n): div}
        if kind == "linear":
            scales |= {int(a["pct_final"] * n): 1.0 / div, int(n): 1.0 / a["final_div_factor"]}
        else:
            scales |= {int(n): 1.0 / (div * a["final_div_factor"])}
        start = a["peak_value"] / div
        return _interpolated({"interpolate_type": kind, "init_value": start, "boundaries_and_scales": scales})

    return lift


def _warmup(a: Arguments) -> Schedule:
    return _linear(
        {
            "init_value": a["init_value"],
            "end_value": a["peak_value"],
            "transition_steps": a["warmup_steps"],
            "transition_begin": 0,
        }
    )


def _warmup_cosine(a: Arguments) -> Schedule:
    alpha = 0.0 if a["peak_value"] == 0 else a["end_value"] / a["peak_value"]
    rest = {
        "init_value": a["peak_value"],
        "decay_steps": a["decay_steps"] - a["warmup_steps"],
        "alpha": alpha,
    }
    parts = [_warmup(a), _cosine({**rest, "exponent": a["exponent"]})]
    return combine("joined", parts, boundaries=[a["warmup_steps"]])


def _warmup_exponential(a: Arguments) -> Schedule:
    parts = [_warmup(a), _exponential({**a, "init_value": a["peak_value"]})]
    return combine("joined", parts, boundaries=[a["warmup_steps"]])


def _sgdr(a: Arguments) -> Schedule:
    row = next(r for r in SCHEDULES if r.name == "warmup_cosine_decay_schedule")
    parts, ends, at = [], [], 0
    for arguments in a["cosine_kwargs"]:
        parts.append(row.schedule(arguments))
        at += int(arguments["decay_steps"])
        ends.append(at)
    return combine("joined", parts, boundaries=ends[:-1])


def _joined(a: Arguments) -> Schedule:
    parts = []
    for item in a["schedules"]:
        if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
            raise HyperparameterError(f"'schedules' expected pairs (name, arguments), found {item!r}")
        name, arguments = str(item[0]).removeprefix("optax:"), item[1]
        row = next((r for r in SCHEDULES if r.name == name), None)
        if row is None:
            known = ", ".join(r.name for r in SCHEDULES)
            raise HyperparameterError(f"unknown schedule {name!r} inside; expected one of {known}")
        parts.append(row.schedule(arguments))
    return combine("joined", parts, boundaries=a["boundaries"])


# -- a schedule as Optax' ---------------------------------------------------------------------------


def _lowering(
    how: Callable[[Schedule], tuple[Arguments, tuple[Until, ...]] | Arguments],
) -> Callable[[Schedule], Lowered]:
    def lower(s: Schedule) -> Lowered:
        s = from_zero(s)
        if s.first != 0 and s.name != "joined" and how is not _lower_joined:
            raise CannotError("counts from 0 at the first update")
        found = how(s)
        arguments, conditions = found if isinstance(found, tuple) else (found, ())
        return arguments, conditions, 1

    return lower


def _lower_constant(s: Schedule) -> Arguments:
    if s.name != "constant":
        raise CannotError(f"is no {s.name}")
    return {"value": s.values["base"]}


def _lower_exponential(s: Schedule) -> Arguments:
    if s.name not in ("step", "exponential"):
        raise CannotError(f"is no {s.name}")
    v, stop = s.values, s.options["stop"]
    if v["gamma"] == 0:
        raise CannotError("takes a factor 0 for no decay at all")
    limit = None
    if stop != "none":
        limit = v["limit"]
        if (stop == "above") != (v["gamma"] >= 1):
            raise CannotError("stops below where it falls and above where it rises")
        if stop == "decayed_below" and v["base"] < limit:
            raise CannotError("holds the value before the decay to the limit as well")
    return {
        "init_value": v["base"],
        "transition_steps": whole(v["period"], "steps"),
        "decay_rate": v["gamma"],
        "transition_begin": whole(v["begin"], "steps"),
        "staircase": s.name == "step",
        "end_value": limit,
    }


def _lower_linear(s: Schedule) -> Arguments:
    start, end, total, begin = as_linear(s)
    steps = {"transition_steps": whole(total, "steps"), "transition_begin": whole(begin, "steps")}
    return {"init_value": start, "end_value": end, **steps}


def _lower_polynomial(s: Schedule) -> Arguments:
    v = as_polynomial(s)
    steps = {"transition_steps": whole(v["total"], "steps"), "transition_begin": whole(v["begin"], "steps")}
    return {"init_value": v["base"], "end_value": v["end"], "power": v["power"], **steps}


def _lower_cosine(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    v, conditions = as_cosine(s)
    if v["base"] == 0:
        raise CannotError("states its end as a part of its start, which is 0")
    arguments = {
        "init_value": v["base"],
        "decay_steps": whole(v["total"], "steps"),
        "alpha": v["end"] / v["base"],
    }
    return {**arguments, "exponent": v["power"]}, conditions


def _scales(bounds: Sequence[float], values: Sequence[float]) -> dict[int, float]:
    out = {}
    for at, a, b in zip(bounds, values, values[1:], strict=False):
        if (a == 0 and b != 0) or (a != 0 and b / a < 0):
            raise CannotError("states each value as a factor ≥ 0 on the one before")
        out[int(at)] = b / a if a else 1.0
    return out


def _lower_piecewise(s: Schedule) -> Arguments:
    bounds, values = as_piecewise(s)
    return {"init_value": values[0], "boundaries_and_scales": _scales(bounds, values)}


def _lower_interpolated(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    until: tuple[Until, ...] = ()
    if s.name == "piecewise" and s.options["between"] != "constant":
        bounds, values = s.numbers("boundaries"), s.numbers("values")
        kind = s.options["between"]
    elif s.name == "one_cycle":
        v, kind = s.values, s.options["anneal"]
        initial = v["base"] / v["div"]
        three = s.options["phases"] == "three"
        middle = [2 * v["rise"] * v["total"] - 2] if three else []
        ends = [v["rise"] * v["total"] - 1, *middle, v["total"] - 1]
        bounds = tuple(float(whole(round(e, 9), "steps in each phase")) for e in ends)
        values = (initial, v["base"], *([initial] if three else []), initial / v["final_div"])
        text = f"holds for the {v['total']:g} updates of the cycle: PyTorch's next value is extrapolated"
        until = (Until(text, v["total"] - 1),)
    else:
        raise CannotError(f"is no {s.name}")
    arguments = {"interpolate_type": kind, "init_value": values[0]}
    return {**arguments, "boundaries_and_scales": _scales(bounds, values)}, until


def _lower_warmup_cosine(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    if s.name != "joined" or len(s.parts) != 2:
        raise CannotError("is a warm-up and a cosine")
    warm, main = map(from_zero, s.parts)
    start, end, total, begin = as_linear(warm)
    v, conditions = as_cosine(main)
    at = s.numbers("boundaries")[0]
    if begin or total != at or end != v["base"] or main.first != 0:
        raise CannotError("goes on from the top of its warm-up")
    return {
        "init_value": start,
        "peak_value": end,
        "warmup_steps": whole(total, "steps"),
        "decay_steps": whole(total + v["total"], "steps"),
        "end_value": v["end"],
        "exponent": v["power"],
    }, tuple(Until(c.text, c.until + at) for c in conditions)


def _lower_joined(s: Schedule) -> tuple[Arguments, tuple[Until, ...]]:
    """Parts one after the other; a single schedule on a shifted count is one after an empty one."""
    first = s.first
    if s.name != "joined":
        if first <= 0:
            raise CannotError(f"is made of several schedules, {s.name} is one")
        name, arguments, conditions = _single(s.counted(first=0))
        empty = ("constant_schedule", {"value": 0.0})
        sooner = tuple(Until(c.text, c.until - first) for c in conditions)
        return {"schedules": [empty, (name, arguments)], "boundaries": [-first]}, sooner
    if first:
        raise CannotError("counts from 0 at the first update")
    found: list[tuple[str, Arguments]] = []
    until: list[Until] = []
    bounds = [int(b) for b in s.numbers("boundaries")]
    for part, begin, end in zip(s.parts, (0, *bounds), (*bounds, math.inf), strict=True):
        name, arguments, conditions = _single(part)
        found.append((name, arguments))
        # A condition that outlives its part is none.
        until += [Until(c.text, begin + c.until) for c in conditions if begin + c.until < end - 1]
    return {"schedules": found, "boundaries": bounds}, tuple(until)


def _single(s: Schedule) -> tuple[str, Arguments, tuple[Until, ...]]:
    reasons = []
    for row in SCHEDULES:
        if row.lower is not None:
            try:
                arguments, conditions, _ = row.lower(s)
                return row.name, arguments, conditions
            except CannotError as e:
                reasons.append(f"{row.name} {e}")
    raise CannotError(f"{s.name} inside: " + "; ".join(reasons))


def _row(
    name: str,
    lift: Callable[[Arguments], Schedule],
    lower: Callable[[Schedule], Any] | None = None,
    **arguments: Any,
) -> NativeSchedule:
    down = None if lower is None else _lowering(lower)
    return NativeSchedule("optax", name, arguments, {"lr": lift}, down)


_DECAY: Mapping[str, Any] = {
    "transition_steps": REQUIRED,
    "decay_rate": REQUIRED,
    "transition_begin": 0,
    "staircase": False,
    "end_value": None,
}
_CYCLE: Mapping[str, Any] = {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}
_WARM: Mapping[str, Any] = {"init_value": REQUIRED, "peak_value": REQUIRED, "warmup_steps": REQUIRED}

SCHEDULES: tuple[NativeSchedule, ...] = (
    _row("constant_schedule", lambda a: made("constant", base=a["value"]), _lower_constant, value=REQUIRED),
    _row("exponential_decay", _exponential, _lower_exponential, init_value=REQUIRED, **_DECAY),
    _row(
        "linear_schedule",
        _linear,
        _lower_linear,
        init_value=REQUIRED,
        end_value=REQUIRED,
        transition_steps=REQUIRED,
        transition_begin=0,
    ),
    _row(
        "polynomial_schedule",
        _polynomial,
        _lower_polynomial,
        init_value=REQUIRED,
        end_value=REQUIRED,
        power=REQUIRED,
        transition_steps=REQUIRED,
        transition_begin=0,
    ),
    _row(
        "cosine_decay_schedule",
        _cosine,
        _lower_cosine,
        init_value=REQUIRED,
        decay_steps=REQUIRED,
        alpha=0.0,
        exponent=1.0,
    ),
    _row(
        "piecewise_constant_schedule",
        _piecewise,
        _lower_piecewise,
        init_value=REQUIRED,
        boundaries_and_scales=None,
    ),
    _row(
        "piecewise_interpolate_schedule",
        _interpolated,
        _lower_interpolated,
        interpolate_type=REQUIRED,
        init_value=REQUIRED,
        boundaries_and_scales=None,
    ),
    _row(
        "cosine_onecycle_schedule",
        _onecycle("cosine"),
        transition_steps=REQUIRED,
        peak_value=REQUIRED,
        **_CYCLE,
    ),
    _row(
        "linear_onecycle_schedule",
        _onecycle("linear"),
        transition_steps=REQUIRED,
        peak_value=REQUIRED,
        pct_final=0.85,
        **_CYCLE,
    ),
    _row("warmup_constant_schedule", _warmup, **_WARM),
    _row(
        "warmup_cosine_decay_schedule",
        _warmup_cosine,
        _lower_warmup_cosine,
        **_WARM,
        decay_steps=REQUIRED,
        end_value=0.0,
        exponent=1.0,
    ),
    _row("warmup_exponential_decay_schedule", _warmup_exponential, **_WARM, **_DECAY),
    _row("sgdr_schedule", _sgdr, cosine_kwargs=REQUIRED),
    _row("join_schedules", _joined, _lower_joined, schedules=REQUIRED, boundaries=REQUIRED),
)
