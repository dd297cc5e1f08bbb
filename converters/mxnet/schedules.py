"""MXNet's ``lr_scheduler`` classes as schedules of the step.

MXNet reads a scheduler at ``num_update``, which counts the update in progress: 1 at the first. Its
comparisons are ``num_update > step``, so steps and milestones fall where PyTorch's do; the polynomial and
the cosine are one count ahead of everyone else's, and skip their value at 0.

``base_lr`` is the scheduler's. An optimizer that is given a learning rate, or has a default of its own
(Adam: 0.001), overwrites the attribute: argument ``learning_rate`` here. That moves FactorScheduler and
MultiFactorScheduler, and neither the end of a warm-up nor PolyScheduler and CosineScheduler, which
remember the number that their constructor got.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
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

_COMMON: Mapping[str, Any] = {
    "base_lr": 0.01,
    "warmup_steps": 0,
    "warmup_begin_lr": 0,
    "warmup_mode": "linear",
    "learning_rate": None,
}


def _whole(a: Arguments, name: str, low: int) -> int:
    value = a[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise HyperparameterError(
            f"argument {name!r} expected a whole number in [{low}, inf), found {value!r}"
        )
    return value


def _factor(a: Arguments) -> float:
    factor = float(a["factor"])
    if not 0 <= factor <= 1:
        raise HyperparameterError(f"argument 'factor' expected a number in [0, 1], found {a['factor']!r}")
    return factor


def _base(a: Arguments) -> float:
    return float(a["base_lr"] if a["learning_rate"] is None else a["learning_rate"])


def _warmed(a: Arguments, main: Schedule) -> Schedule:
    """``main``, which counts completed updates, after the warm-up, which ends with num_update = warmup_steps."""
    n, end, begin = _whole(a, "warmup_steps", 0), float(a["base_lr"]), float(a["warmup_begin_lr"])
    if a["warmup_mode"] not in ("linear", "constant"):
        raise HyperparameterError(
            f"argument 'warmup_mode' expected one of linear, constant, found {a['warmup_mode']!r}"
        )
    if begin > end:
        raise HyperparameterError(
            f"argument 'warmup_begin_lr' expected a number in (-inf, {end:g}], found {begin:g}"
        )
    if n <= 1:
        return main
    if a["warmup_mode"] == "constant":
        first = made("constant", base=begin)
    else:
        first = made("linear", start=begin, end=end, total=n, first=1)
    behind = main.first + n - 1
    return combine("joined", [first, main.counted(first=behind)], boundaries=[n - 1])


def _lift_factor(a: Arguments) -> Schedule:
    stop = {"stop": "decayed_below", "limit": a["stop_factor_lr"]}
    return _warmed(a, made("step", base=_base(a), gamma=_factor(a), period=_whole(a, "step", 1), **stop))


def _lift_multi_factor(a: Arguments) -> Schedule:
    steps = list(a["step"])
    if not steps or any(not isinstance(s, int) or s < 1 for s in steps) or sorted(set(steps)) != steps:
        raise HyperparameterError(
            f"argument 'step' expected rising whole numbers from 1, found {a['step']!r}"
        )
    return _warmed(a, made("multi_step", base=_base(a), gamma=_factor(a), milestones=steps))


def _ending(a: Arguments, name: str, **more: Any) -> Schedule:
    """The part between warm-up and ``max_update`` counts num_update − warmup_steps."""
    end, n = _whole(a, "max_update", 1), _whole(a, "warmup_steps", 0)
    if end <= n:
        raise HyperparameterError(
            f"argument 'max_update' expected a whole number in [{n + 1}, inf), found {end}"
        )
    main = made(name, base=a["base_lr"], end=a["final_lr"], total=end - n, first=1 - n, **more)
    return _warmed(a, main)


# -- a schedule as MXNet's --------------------------------------------------------------------------


def _split(s: Schedule) -> tuple[Schedule, Arguments, int]:
    """(what follows the warm-up, counted from the first update; the warm-up's arguments; updates in it)."""
    s = from_zero(s)
    if s.name != "joined":
        return s, {}, 0
    bounds = s.numbers("boundaries")
    if len(s.parts) != 2:
        raise CannotError(f"has a warm-up and one schedule after it, found {len(s.parts)} schedules")
    warm, main, n = s.parts[0], s.parts[1], int(bounds[0])
    main = main.counted(first=main.first - n)
    warm = from_zero(warm)
    if warm.name == "constant":
        return (
            main,
            {"warmup_mode": "constant", "warmup_begin_lr": warm.values["base"], "warmup_steps": n + 1},
            n,
        )
    start, end, total, begin = as_linear(warm)
    if begin or total < n:
        raise CannotError("its warm-up is one straight line")
    # MXNet's line goes through count 0 one update before the first, and ends at num_update = n + 1.
    slope = (end - start) / total
    told = {"warmup_begin_lr": start - slope, "warmup_steps": n + 1, "base_lr": start + slope * n}
    return main, told, n


def _finished(main: Mapping[str, Any], warm: Arguments) -> Arguments:
    """Arguments with the scheduler's ``base_lr`` where the warm-up ends."""
    out = {**main, **warm}
    if "base_lr" in warm and warm["base_lr"] != main["base_lr"]:
        out["learning_rate"] = main["base_lr"]
    if warm and out["warmup_begin_lr"] > out["base_lr"]:
        raise CannotError("warms up from below, not from above")
    return out


def _lower_factor(s: Schedule) -> Lowered:
    main, warm, n = _split(s)
    if main.name == "constant":
        out = {"step": 1, "factor": 1.0, "stop_factor_lr": 0.0, "base_lr": main.values["base"]}
        if out["base_lr"] < 0:
            raise CannotError("has no learning rate below 0")
        return _finished(out, warm), (), 1
    main = _uncounted(main, n)
    if main.name != "step" or main.values["begin"]:
        raise CannotError(f"counts its steps from the first update, found {main.name}")
    v, stop = main.values, main.options["stop"]
    if stop == "above" or (stop == "below" and v["base"] < v["limit"]) or v["base"] < 0:
        raise CannotError("stops where the decayed rate would fall below a value, and has no rate below 0")
    limit = 0.0 if stop == "none" else v["limit"]
    period = whole(v["period"], "updates")
    return (
        _finished(
            {"step": period, "factor": v["gamma"], "stop_factor_lr": limit, "base_lr": v["base"]}, warm
        ),
        (),
        1,
    )


def _uncounted(main: Schedule, n: int) -> Schedule:
    """A main part counted from the first update, or a refusal."""
    try:
        return from_zero(main)
    except CannotError as e:
        raise CannotError(f"counts from the first update: {e}") from None


def _lower_multi_factor(s: Schedule) -> Lowered:
    main, warm, n = _split(s)
    main = _uncounted(main, n)
    bounds, values = as_piecewise(main)
    ratios = [b / a for a, b in itertools.pairwise(values) if a]
    if not bounds or len(ratios) != len(bounds) or max(ratios) - min(ratios) > 1e-15 * max(ratios):
        raise CannotError("has one factor for all its steps")
    out = {"step": [int(b) for b in bounds], "factor": ratios[0], "base_lr": values[0]}
    return _finished(out, warm), (), 1


def _ended(main: Schedule, warm: Arguments, n: int, total: float, values: Mapping[str, float]) -> Arguments:
    """base_lr, final_lr, max_update and warm-up of a schedule that ends after ``total`` counts.

    Without a warm-up, one of a single count moves MXNet's count back to where everyone's is.
    """
    first = main.first
    if first != -n and (warm or first != 1):
        raise CannotError("begins when the warm-up ends")
    length = whole(total, "updates")
    base = values["base"]
    if first == 1 and not warm:
        return {"base_lr": base, "final_lr": values["end"], "max_update": length}
    if warm and "base_lr" in warm and abs(warm["base_lr"] - base) > 1e-12 * abs(base):
        raise CannotError(f"goes on from where its warm-up ends ({warm['base_lr']:g}), found {base:g}")
    lead = {"warmup_steps": n + 1, "warmup_begin_lr": min(0.0, base), **warm}
    out = {**lead, "base_lr": base, "final_lr": values["end"], "max_update": length + n + 1}
    if out["warmup_begin_lr"] > base:
        raise CannotError("warms up from below, not from above")
    return out


def _lower_poly(s: Schedule) -> Lowered:
    main, warm, n = _split(s)
    v = dict(as_polynomial(main))
    if v["begin"]:
        raise CannotError("begins at once, found a pause")
    return {**_ended(main, warm, n, v["total"], v), "pwr": v["power"]}, (), 1


def _lower_cosine(s: Schedule) -> Lowered:
    main, warm, n = _split(s)
    v, conditions = as_cosine(main)
    if v["power"] != 1:
        raise CannotError("has no power of its cosine")
    return _ended(main, warm, n, v["total"], v), tuple(Until(c.text, c.until + n) for c in conditions), 1


def _row(
    name: str, lift: Callable[[Arguments], Schedule], lower: Callable[[Schedule], Lowered], **arguments: Any
) -> NativeSchedule:
    aliases = {"lr": "learning_rate"}
    return NativeSchedule("mxnet", name, {**arguments, **_COMMON}, {"lr": lift}, lower, aliases=aliases)


SCHEDULES: tuple[NativeSchedule, ...] = (
    _row("FactorScheduler", _lift_factor, _lower_factor, step=REQUIRED, factor=1, stop_factor_lr=1e-8),
    _row("MultiFactorScheduler", _lift_multi_factor, _lower_multi_factor, step=REQUIRED, factor=1),
    _row(
        "PolyScheduler",
        lambda a: _ending(a, "polynomial", power=a["pwr"]),
        _lower_poly,
        max_update=REQUIRED,
        pwr=2,
        final_lr=0,
    ),
    _row("CosineScheduler", lambda a: _ending(a, "cosine"), _lower_cosine, max_update=REQUIRED, final_lr=0),
    NativeSchedule("mxnet", "LRScheduler", refused="is the base class; it gives no learning rate"),
)
