"""PyTorch's ``lr_scheduler`` classes as schedules of the step.

A scheduler's ``last_epoch`` is the number of ``scheduler.step()`` calls. Where that is called after every
``optimizer.step()`` the count of the update in progress is the number of completed updates, as everywhere
in optexport; called once an epoch, a count is ``steps_per_epoch`` updates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optexport.errors import HyperparameterError
from optexport.schedules.base import Schedule, combine
from optexport.schedules.natives import REQUIRED, Lowered, NativeSchedule
from optexport.schedules.views import (
    CannotError,
    Until,
    as_linear,
    as_piecewise,
    as_polynomial,
    as_unlimited,
    from_zero,
    hyper,
    made,
    per_count,
    whole,
)

__all__ = ["SCHEDULES"]

Arguments = dict[str, Any]
# How long a constant stands that stands for ever.
_FOREVER = 10**15


def _within(a: Arguments, name: str, low: float, high: float, above: bool = False) -> float:
    value = float(a[name])
    if not low <= value <= high or (above and value == low):
        raise HyperparameterError(
            f"argument {name!r} expected a number in {'(' if above else '['}{low:g}, {high:g}], found {a[name]!r}"
        )
    return value


def _count(a: Arguments, name: str) -> int:
    value = a[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise HyperparameterError(f"argument {name!r} expected a whole number in [1, inf), found {value!r}")
    return value


def _constant(a: Arguments) -> Schedule:
    factor, lr = _within(a, "factor", 0, 1), a["lr"]
    return made("piecewise", boundaries=[_count(a, "total_iters")], values=[lr * factor, lr])


def _linear(a: Arguments) -> Schedule:
    start, end = _within(a, "start_factor", 0, 1, above=True), _within(a, "end_factor", 0, 1)
    return made("linear", start=a["lr"] * start, end=a["lr"] * end, total=_count(a, "total_iters"))


def _restarts(a: Arguments) -> Schedule:
    cycle, stretch = _count(a, "T_0"), _count(a, "T_mult")
    if stretch == 1:
        return made("cosine_restarts", growth="none", base=a["lr"], end=a["eta_min"], cycle=cycle)
    return made(
        "cosine_restarts", growth="geometric", base=a["lr"], end=a["eta_min"], cycle=cycle, stretch=stretch
    )


def _one_cycle(a: Arguments) -> dict[str, Any]:
    total = a["total_steps"]
    if total is None:
        if a["epochs"] is None or a["steps_per_epoch"] is None:
            raise HyperparameterError(
                "expected total_steps, or both epochs and steps_per_epoch; found neither"
            )
        total = _count(a, "epochs") * _count(a, "steps_per_epoch")
    if a["anneal_strategy"] not in ("cos", "linear"):
        raise HyperparameterError(
            f"argument 'anneal_strategy' expected one of cos, linear, found {a['anneal_strategy']!r}"
        )
    return {
        "total": total,
        "rise": _within(a, "pct_start", 0, 1),
        "anneal": {"cos": "cosine"}.get(a["anneal_strategy"], "linear"),
        "phases": "three" if a["three_phase"] else "two",
    }


def _one_cycle_lr(a: Arguments) -> Schedule:
    return made(
        "one_cycle", base=a["max_lr"], div=a["div_factor"], final_div=a["final_div_factor"], **_one_cycle(a)
    )


def _one_cycle_momentum(a: Arguments) -> Schedule:
    if not a["cycle_momentum"]:
        raise HyperparameterError("cycle_momentum is False: the momentum is not scheduled")
    return made("one_cycle_momentum", top=a["max_momentum"], bottom=a["base_momentum"], **_one_cycle(a))


# -- combinations -----------------------------------------------------------------------------------


# Schedulers whose every step multiplies what is there, so that they may be chained.
_FACTORS = ("ConstantLR", "ExponentialLR", "LinearLR", "MultiStepLR", "PolynomialLR", "StepLR")


def _parts(a: Arguments) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, arguments) of every inner scheduler."""
    out = []
    for item in a["schedulers"]:
        if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
            raise HyperparameterError(f"'schedulers' expected pairs (name, arguments), found {item!r}")
        out.append((str(item[0]).removeprefix("torch:"), item[1]))
    return out


def _inner(name: str, arguments: Mapping[str, Any], lr: float) -> Schedule:
    row = next((r for r in SCHEDULES if r.name == name), None)
    if row is None:
        raise HyperparameterError(f"unknown scheduler {name!r} inside; expected one of {', '.join(_NAMES)}")
    return row.schedule({**({"lr": lr} if "lr" in row.arguments else {}), **arguments})


def _sequential(a: Arguments) -> Schedule:
    parts = [_inner(n, rest, a["lr"]) for n, rest in _parts(a)]
    return combine("joined", parts, boundaries=a["milestones"])


def _chained(a: Arguments) -> Schedule:
    parts: list[Schedule] = []
    for n, rest in _parts(a):
        if n not in _FACTORS:
            raise HyperparameterError(
                f"{n} inside a ChainedScheduler adds to the learning rate that the others left, which is no "
                f"function of the step alone; expected schedulers that multiply: {', '.join(_FACTORS)}"
            )
        parts.append(_inner(n, rest, a["lr"] if not parts else 1.0))
    return combine("product", parts)


# -- a schedule as PyTorch's ------------------------------------------------------------------------


Found = Arguments | tuple[Arguments, tuple[Until, ...]]


def _lowering(how: Callable[[Schedule], Found]) -> Callable[[Schedule], Lowered]:
    def lower(s: Schedule) -> Lowered:
        s, every = per_count(s)
        if s.first != 0:
            raise CannotError("its counts do not begin at 0 with the first update, PyTorch's do")
        found = how(s)
        return (*found, every) if isinstance(found, tuple) else (found, (), every)

    return lower


def _needs(s: Schedule, name: str, **neutral: Any) -> Mapping[str, float]:
    """Values of a schedule of this name whose other values and options are as PyTorch has them."""
    if s.name != name:
        raise CannotError(f"is no {s.name}")
    for key, value in neutral.items():
        found = s.options[key] if key in s.options else s.values.get(key, value)
        if found != value:
            raise CannotError(f"has no {key} ({found}; expected {value})")
    return s.values


def _lower_constant(s: Schedule) -> Arguments:
    bounds, values = as_piecewise(s)
    if not bounds:
        return {"lr": values[0], "factor": 1.0, "total_iters": 1}
    if len(bounds) > 1 or values[1] == 0 or not 0 <= values[0] / values[1] <= 1:
        raise CannotError("has one factor in [0, 1] and then the learning rate")
    return {"lr": values[1], "factor": values[0] / values[1], "total_iters": whole(bounds[0], "steps")}


def _lower_step(s: Schedule) -> Found:
    _needs(s, "step", begin=0.0)
    v, until = as_unlimited(s)
    return {"lr": v["base"], "step_size": whole(v["period"], "steps"), "gamma": v["gamma"]}, until


def _lower_multi_step(s: Schedule) -> Arguments:
    if s.name == "multi_step":
        v = s.values
        return {"lr": v["base"], "milestones": list(map(int, s.numbers("milestones"))), "gamma": v["gamma"]}
    bounds, values = as_piecewise(s)
    ratios = {b / a for a, b in itertools.pairwise(values) if a}
    if len(ratios) != 1 or 0 in values[:-1]:
        raise CannotError("has one factor for all milestones")
    return {"lr": values[0], "milestones": [int(b) for b in bounds], "gamma": ratios.pop()}


def _lower_exponential(s: Schedule) -> Arguments:
    v = _needs(s, "exponential", stop="none", begin=0.0)
    return {"lr": v["base"], "gamma": v["gamma"] ** (1 / v["period"])}


def _lower_linear(s: Schedule, lr: float | None = None) -> Arguments:
    start, end, total, begin = as_linear(s)
    lr = max(start, end) if lr is None else lr
    if begin or lr <= 0 or not 0 < start <= lr or not 0 <= end <= lr:
        raise CannotError(
            f"goes from a factor in (0, 1] to one in [0, 1] of {lr:g}, from count 0 on; found {start:g} to {end:g}"
        )
    return {
        "lr": lr,
        "start_factor": start / lr,
        "end_factor": end / lr,
        "total_iters": whole(total, "steps"),
    }


def _lower_polynomial(s: Schedule) -> Arguments:
    v = as_polynomial(s)
    if v["end"] or v["begin"]:
        raise CannotError("ends at 0 and begins at count 0")
    return {"lr": v["base"], "total_iters": whole(v["total"], "steps"), "power": v["power"]}


def _lower_cosine(s: Schedule) -> Arguments:
    v = _needs(s, "cosine", after="mirror", power=1.0)
    return {"lr": v["base"], "T_max": whole(v["total"], "steps"), "eta_min": v["end"]}


def _lower_restarts(s: Schedule) -> Arguments:
    v = _needs(s, "cosine_restarts", shrink=1.0)
    stretch = whole(hyper(s, "stretch", 1.0), "times the length")
    return {"lr": v["base"], "T_0": whole(v["cycle"], "steps"), "T_mult": stretch, "eta_min": v["end"]}


def _lower_one_cycle(s: Schedule) -> Arguments:
    v = _needs(s, "one_cycle")
    return {
        "max_lr": v["base"],
        "total_steps": whole(v["total"], "steps"),
        "pct_start": v["rise"],
        "anneal_strategy": "cos" if s.options["anneal"] == "cosine" else "linear",
        "div_factor": v["div"],
        "final_div_factor": v["final_div"],
        "three_phase": s.options["phases"] == "three",
        "cycle_momentum": False,
    }


def _single(s: Schedule, rows: tuple[str, ...]) -> tuple[str, Arguments]:
    """The first of these schedulers that a part is, its learning rate among the arguments."""
    reasons = []
    for row in SCHEDULES:
        if row.name in rows and row.lower is not None:
            try:
                arguments, until, every = row.lower(s)
            except CannotError as e:
                reasons.append(f"{row.name} {e}")
                continue
            if every != 1 or until:
                raise CannotError("its parts count differently, or agree only for a while")
            return row.name, arguments
    raise CannotError(f"{s.name} inside: " + "; ".join(reasons))


def _lower_sequential(s: Schedule) -> Arguments:
    s = _cosine_then_end(s)
    if s.name != "joined":
        raise CannotError(f"is made of several schedules, {s.name} is one")
    parts = [from_zero(p) for p in s.parts]
    lr = _shared_lr(parts)
    found = []
    for part in parts:
        if part.name == "linear":
            name, arguments = "LinearLR", _lower_linear(part, lr)
        elif part.name == "constant":
            if not 0 <= part.values["base"] <= lr:
                raise CannotError(
                    f"a constant inside is a factor in [0, 1] of {lr:g}, found {part.values['base']:g}"
                )
            name, arguments = "ConstantLR", {"factor": part.values["base"] / lr, "total_iters": _FOREVER}
        else:
            name, arguments = _single(part, _NAMES)
        arguments.pop("lr", None)
        found.append((name, arguments))
    return {"lr": lr, "schedulers": found, "milestones": [int(b) for b in s.numbers("boundaries")]}


def _cosine_then_end(s: Schedule) -> Schedule:
    """A cosine that holds, as one that would rise again and a constant that takes over."""
    if s.name == "joined":
        *head, last = s.parts
        bounds = s.numbers("boundaries")
        tail = _cosine_then_end(last)
        if tail is last:
            return s
        at = bounds[-1] + tail.numbers("boundaries")[0]
        return combine("joined", [*head, *tail.parts], boundaries=[*bounds, at])
    if s.name == "cosine" and s.options["after"] == "hold" and s.values["total"].is_integer():
        v = s.values
        if v["power"] == 1 and s.first == 0:
            falling = made("cosine", after="mirror", **v)
            return combine("joined", [falling, made("constant", base=v["end"])], boundaries=[int(v["total"])])
    return s


def _shared_lr(parts: list[Schedule]) -> float:
    """The optimizer's learning rate, which all parts of a SequentialLR begin from."""
    fixed = {p.values["base"] for p in parts if "base" in p.values and p.name != "constant"}
    if len(fixed) > 1:
        raise CannotError(
            f"all parts begin from one learning rate, found {', '.join(f'{b:g}' for b in sorted(fixed))}"
        )
    if fixed:
        return fixed.pop()
    return max(
        [p.values["base"] for p in parts if p.name == "constant"]
        + [x for p in parts if p.name == "linear" for x in (p.values["start"], p.values["end"])],
        default=0.0,
    )


def _lower_chained(s: Schedule) -> Arguments:
    if s.name != "product":
        raise CannotError(f"is several schedules multiplied, {s.name} is one")
    found, lr = [], 1.0
    for part in s.parts:
        name, arguments = _single(part, _FACTORS)
        lr *= arguments.pop("lr")
        found.append((name, arguments))
    return {"lr": lr, "schedulers": found}


def _row(
    name: str,
    lift: Callable[[Arguments], Schedule],
    lower: Callable[[Schedule], Found],
    momentum: Callable[[Arguments], Schedule] | None = None,
    **arguments: Any,
) -> NativeSchedule:
    lifts = {"lr": lift, **({"momentum": momentum} if momentum else {})}
    own = "steps_per_epoch" not in arguments
    return NativeSchedule("torch", name, arguments, lifts, _lowering(lower), own)


def _refused(name: str, why: str) -> NativeSchedule:
    return NativeSchedule("torch", name, refused=why)


_CODE = "is the user's own Python function, which no file holds; state it with optexport.schedule(…)"

# `lr` is the optimizer's own argument.
SCHEDULES: tuple[NativeSchedule, ...] = (
    _row("ConstantLR", _constant, _lower_constant, lr=REQUIRED, factor=1.0 / 3, total_iters=5),
    _row(
        "StepLR",
        lambda a: made("step", base=a["lr"], gamma=a["gamma"], period=_count(a, "step_size")),
        _lower_step,
        lr=REQUIRED,
        step_size=REQUIRED,
        gamma=0.1,
    ),
    _row(
        "MultiStepLR",
        lambda a: made("multi_step", base=a["lr"], gamma=a["gamma"], milestones=sorted(a["milestones"])),
        _lower_multi_step,
        lr=REQUIRED,
        milestones=REQUIRED,
        gamma=0.1,
    ),
    _row(
        "ExponentialLR",
        lambda a: made("exponential", base=a["lr"], gamma=a["gamma"]),
        _lower_exponential,
        lr=REQUIRED,
        gamma=REQUIRED,
    ),
    _row(
        "LinearLR", _linear, _lower_linear, lr=REQUIRED, start_factor=1.0 / 3, end_factor=1.0, total_iters=5
    ),
    _row(
        "PolynomialLR",
        lambda a: made("polynomial", base=a["lr"], total=_count(a, "total_iters"), power=a["power"]),
        _lower_polynomial,
        lr=REQUIRED,
        total_iters=5,
        power=1.0,
    ),
    _row(
        "CosineAnnealingLR",
        lambda a: made("cosine", after="mirror", base=a["lr"], end=a["eta_min"], total=_count(a, "T_max")),
        _lower_cosine,
        lr=REQUIRED,
        T_max=REQUIRED,
        eta_min=0.0,
    ),
    _row(
        "CosineAnnealingWarmRestarts",
        _restarts,
        _lower_restarts,
        lr=REQUIRED,
        T_0=REQUIRED,
        T_mult=1,
        eta_min=0.0,
    ),
    _row(
        "OneCycleLR",
        _one_cycle_lr,
        _lower_one_cycle,
        _one_cycle_momentum,
        max_lr=REQUIRED,
        total_steps=None,
        epochs=None,
        steps_per_epoch=None,
        pct_start=0.3,
        anneal_strategy="cos",
        cycle_momentum=True,
        base_momentum=0.85,
        max_momentum=0.95,
        div_factor=25.0,
        final_div_factor=1e4,
        three_phase=False,
    ),
    _row(
        "SequentialLR", _sequential, _lower_sequential, lr=REQUIRED, schedulers=REQUIRED, milestones=REQUIRED
    ),
    _row("ChainedScheduler", _chained, _lower_chained, lr=REQUIRED, schedulers=REQUIRED),
    _refused(
        "ReduceLROnPlateau",
        "depends on a metric of the training, not on the step alone; carry its current learning rate as a number",
    ),
    _refused("LambdaLR", _CODE),
    _refused("MultiplicativeLR", _CODE),
    _refused("CyclicLR", "has no schedule here: its triangle is none of the catalogue's"),
    _refused("SWALR", "goes on from whatever the learning rate is, which is no function of the step alone"),
)
_NAMES = tuple(r.name for r in SCHEDULES if not r.refused)
