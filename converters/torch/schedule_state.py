"""``scheduler.state_dict()`` of PyTorch: read into schedules, and written.

The dict has a scheduler's attributes and not its class; which attributes there are tells the class. It
stands beside the optimizer's in training checkpoints, under one of `KEYS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optexport.errors import CheckpointError, OptexportError
from optexport.schedules.base import Schedule
from optexport.schedules.native_state import Followed
from optexport.schedules.natives import find_schedule, lower_schedule
from optexport.specs import Group
from optexport.state.native import NativeState

__all__ = ["KEYS", "class_of_state", "read_state", "scheduler_state", "write_state"]

KEYS = (
    "lr_scheduler", "scheduler", "lr_schedulers", "schedulers", "lr_scheduler_state_dict",
    "scheduler_state_dict", "sched",
)  # fmt: skip
WRITTEN = "lr_scheduler"

# Attributes that only this class has (the first that fits), and its arguments among them.
_CLASSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("SequentialLR", ("_schedulers", "_milestones")),
    ("ChainedScheduler", ("_schedulers",)),
    ("ReduceLROnPlateau", ("patience", "cooldown")),
    ("LambdaLR", ("lr_lambdas",)),
    ("OneCycleLR", ("_schedule_phases", "total_steps")),
    ("CosineAnnealingWarmRestarts", ("T_0", "T_mult", "eta_min")),
    ("CosineAnnealingLR", ("T_max", "eta_min")),
    ("StepLR", ("step_size", "gamma")),
    ("MultiStepLR", ("milestones", "gamma")),
    ("LinearLR", ("start_factor", "end_factor", "total_iters")),
    ("ConstantLR", ("factor", "total_iters")),
    ("PolynomialLR", ("total_iters", "power")),
    ("ExponentialLR", ("gamma",)),
)


def class_of_state(state: Mapping[str, Any]) -> str | None:
    """The scheduler class that a state_dict is of, None where nothing tells."""
    for name, attributes in _CLASSES:
        if all(a in state for a in attributes):
            return name
    return None


def read_state(native: NativeState, clock: int | None) -> Followed:
    """The schedule of every group, where the file has a scheduler that is a function of the step."""
    out = Followed([{} for _ in native.groups], clock)
    found = [(k, native.extras[k]) for k in KEYS if native.extras.get(k)]
    states = [(k, s) for k, v in found for s in (v if isinstance(v, list) else [v]) if isinstance(s, dict)]
    if not states:
        return out
    if len(states) > 1:
        out.warnings.append(
            f"the file holds {len(states)} scheduler states, under {', '.join(k for k, _ in states)}; none is "
            "interpreted, the learning rate stays what it is"
        )
        return out
    key, state = states[0]
    try:
        made, count = _schedules(native, state)
        every, out.clock = _updates_a_count(count, clock)
        made = [{h: s.counted(every=every) for h, s in g.items()} for g in made]
        _check_last(native, state, made, out.clock)
    except (OptexportError, ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as e:
        out.clock = clock
        out.warnings.append(f"{key}: its state is not interpreted, the learning rate stays what it is: {e}")
        return out
    out.groups = made
    if every > 1:
        out.warnings.append(
            f"{key}: stepped {count} times in {out.clock} updates; read as once in {every} updates (an epoch)"
        )
    return out


def _schedules(native: NativeState, state: Mapping[str, Any]) -> tuple[list[dict[str, Schedule]], int]:
    """(schedules of each group, steps of the scheduler)."""
    name = class_of_state(state)
    if name is None:
        raise ValueError(
            f"expected the attributes of a PyTorch scheduler, found {', '.join(map(str, state))}"
        )
    row = find_schedule(f"torch:{name}")
    out = []
    for i, group in enumerate(native.groups):
        arguments = _arguments(name, state, i, group.arguments)
        held = {"lr": row.schedule(arguments)}
        if name == "OneCycleLR" and state["cycle_momentum"]:
            hyper = "beta1" if state.get("use_beta1", "betas" in group.arguments) else "momentum"
            held[hyper] = row.schedule(arguments, of="momentum")
        out.append(held)
    return out, _count(state)


def _count(state: Mapping[str, Any]) -> int:
    """``last_epoch``; a ChainedScheduler has none but its parts'."""
    value = state["last_epoch"] if "last_epoch" in state else _count(state["_schedulers"][0])
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"last_epoch expected a whole number in [0, inf), found {value!r}")
    return value


def _base(state: Mapping[str, Any], index: int) -> float:
    if "base_lrs" in state:
        return float(state["base_lrs"][index])
    return _base(state["_schedulers"][0], index)


def _arguments(name: str, state: Mapping[str, Any], index: int, group: Mapping[str, Any]) -> dict[str, Any]:
    """The class's arguments out of its attributes."""
    if name in ("SequentialLR", "ChainedScheduler"):
        inner = []
        for part in state["_schedulers"]:
            kind = class_of_state(part)
            if kind is None:
                raise ValueError("expected schedulers of PyTorch's own classes inside")
            own = {k: v for k, v in _arguments(kind, part, index, group).items() if k != "lr"}
            inner.append((kind, own))
        out: dict[str, Any] = {"lr": _base(state, index), "schedulers": inner}
        return {**out, "milestones": list(state["_milestones"])} if name == "SequentialLR" else out
    if name == "OneCycleLR":
        return _one_cycle(state, group)
    row = find_schedule(f"torch:{name}")
    if row.refused:
        return {}
    out = {k: state[k] for k in row.arguments if k in state}
    if "milestones" in out and isinstance(out["milestones"], Mapping):
        # A Counter: milestone -> how often. File readers make its keys text.
        out["milestones"] = [int(m) for m, n in out["milestones"].items() for _ in range(int(n))]
    return {**out, "lr": _base(state, index)}


def _one_cycle(state: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    phases, total = state["_schedule_phases"], int(state["total_steps"])
    peak, initial, lowest = (float(group[k]) for k in ("max_lr", "initial_lr", "min_lr"))
    out = {
        "max_lr": peak,
        "total_steps": total,
        "pct_start": (phases[0]["end_step"] + 1) / total,
        "anneal_strategy": state["_anneal_func_type"],
        "div_factor": peak / initial,
        "final_div_factor": initial / lowest,
        "three_phase": len(phases) == 3,
        "cycle_momentum": bool(state["cycle_momentum"]),
    }
    if state["cycle_momentum"]:
        out |= {"base_momentum": group["base_momentum"], "max_momentum": group["max_momentum"]}
    return out


def _updates_a_count(count: int, clock: int | None) -> tuple[int, int]:
    """(updates of one step of the scheduler, completed updates)."""
    if clock is None or clock == count:
        return 1, count
    if count and clock % count == 0:
        return clock // count, clock
    raise ValueError(
        f"the scheduler was stepped {count} times in {clock} updates, which is neither each time nor once in "
        "a whole number of them; state the schedule with native_schedule(…, steps_per_epoch=N)"
    )


def _check_last(
    native: NativeState, state: Mapping[str, Any], made: Sequence[Mapping[str, Schedule]], clock: int
) -> None:
    """The file's own learning rate is the schedule's: nobody changed it by hand."""
    for i, (held, group) in enumerate(zip(made, native.groups, strict=True)):
        last = state["_last_lr"][i] if "_last_lr" in state else group.arguments.get("lr")
        now = held["lr"].at(clock)
        if last is not None and not math.isclose(now, float(last), rel_tol=1e-9, abs_tol=1e-15):
            raise ValueError(
                f"group {i}: its learning rate is {float(last):g}; the schedule's after {clock} updates is {now:g}"
            )


# -- writing ------------------------------------------------------------------------------------------


def write_state(native: NativeState, groups: Sequence[Group], clock: int) -> None:
    """Put the scheduler's state_dict into ``native.extras`` and what it needs into the groups.

    Raises:
        VerdictError: PyTorch has no such schedule. CheckpointError: groups follow different ones.
    """
    calls = []
    for g in groups:
        if "lr" not in g.schedules:
            raise CheckpointError(
                "PyTorch: one scheduler drives the learning rate of all groups; expected a schedule of 'lr' in each"
            )
        calls.append(lower_schedule(g.schedules["lr"], "torch"))
    first = calls[0]
    own = [{k: v for k, v in c.arguments.items() if k not in ("lr", "max_lr")} for c in calls]
    if any(
        c.native != first.native or c.every != first.every or o != own[0]
        for c, o in zip(calls, own, strict=True)
    ):
        raise CheckpointError(
            "PyTorch: one scheduler drives all groups, which may differ in their learning rate alone; found "
            + ", ".join(dict.fromkeys(f"{c.native} {o}" for c, o in zip(calls, own, strict=True)))
        )
    count = clock // first.every
    now = [g.schedules["lr"].at(clock) for g in groups]
    bases = [float(c.arguments.get("lr", 0.0)) * g.lr_mult for c, g in zip(calls, groups, strict=True)]
    now = [x * g.lr_mult for x, g in zip(now, groups, strict=True)]
    name = first.native.partition(":")[2]
    if name == "OneCycleLR":
        _write_one_cycle(native, [dict(c.arguments) for c in calls], groups)
        bases = [float(n.arguments["initial_lr"]) for n in native.groups]
    for n, base in zip(native.groups, bases, strict=True):
        n.arguments["initial_lr"] = base
    native.extras[WRITTEN] = scheduler_state(name, dict(first.arguments), bases, count, now)


def _write_one_cycle(
    native: NativeState, calls: Sequence[Mapping[str, Any]], groups: Sequence[Group]
) -> None:
    for n, a, g in zip(native.groups, calls, groups, strict=True):
        peak = float(a["max_lr"]) * g.lr_mult
        initial = peak / a["div_factor"]
        n.arguments |= {"initial_lr": initial, "max_lr": peak, "min_lr": initial / a["final_div_factor"]}
        if a["cycle_momentum"]:
            n.arguments |= {"max_momentum": a["max_momentum"], "base_momentum": a["base_momentum"]}


def scheduler_state(
    name: str, arguments: dict[str, Any], bases: Sequence[float], count: int, now: Sequence[float]
) -> dict[str, Any]:
    """``state_dict()`` of a scheduler of this class after ``count`` steps.

    bases, now: each group's learning rate at the start and at present.
    """
    own = {k: v for k, v in arguments.items() if k != "lr"}
    if name == "ChainedScheduler":
        inner = [scheduler_state(n, dict(a), bases, count, now) for n, a in own["schedulers"]]
        return {"_schedulers": inner, "_last_lr": list(now)}
    if name == "SequentialLR":
        starts = [0, *own["milestones"]]
        ends = [*own["milestones"], math.inf]
        # A part that is over stands where it was one step before the next began; one to come, at −1.
        at = [
            int(min(count, end - 1) - begin) if count >= begin else -1
            for begin, end in zip(starts, ends, strict=True)
        ]
        inner = [
            scheduler_state(n, dict(a), bases, k, now)
            for (n, a), k in zip(own["schedulers"], at, strict=True)
        ]
        rest = {"_milestones": list(own["milestones"]), "last_epoch": count, "_last_lr": list(now)}
        return {**rest, "_schedulers": inner}
    common = {
        "base_lrs": list(bases),
        "last_epoch": count,
        "_step_count": count + 1,
        "_is_initial": False,
        "_get_lr_called_within_step": False,
        "_last_lr": list(now),
    }
    if name == "OneCycleLR":
        return {**_one_cycle_state(own), **common}
    if name == "MultiStepLR":
        own["milestones"] = {m: own["milestones"].count(m) for m in own["milestones"]}
    if name == "CosineAnnealingWarmRestarts":
        current, length = max(count, 0), own["T_0"]
        while current >= length:
            current, length = current - length, length * own["T_mult"]
        own |= {"T_i": length, "T_cur": current if count >= 0 else -1}
    return {**own, **common}


def _one_cycle_state(a: Mapping[str, Any]) -> dict[str, Any]:
    total = a["total_steps"] or a["epochs"] * a["steps_per_epoch"]
    middle = float(a["pct_start"] * total) - 1
    words = [("initial_lr", "max_lr", "max_momentum", "base_momentum", middle)]
    if a["three_phase"]:
        words.append(
            ("max_lr", "initial_lr", "base_momentum", "max_momentum", float(2 * a["pct_start"] * total) - 2)
        )
        words.append(("initial_lr", "min_lr", "max_momentum", "max_momentum", total - 1))
    else:
        words.append(("max_lr", "min_lr", "base_momentum", "max_momentum", total - 1))
    keys = ("start_lr", "end_lr", "start_momentum", "end_momentum", "end_step")
    return {
        "total_steps": total,
        "_schedule_phases": [dict(zip(keys, w, strict=True)) for w in words],
        "_anneal_func_type": a["anneal_strategy"],
        "cycle_momentum": a["cycle_momentum"],
    }
