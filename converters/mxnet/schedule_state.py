"""The scheduler object inside a pickled MXNet optimizer: read into a schedule, and written.

MXNet's schedulers change while they run: FactorScheduler and MultiFactorScheduler multiply ``base_lr`` in
place and remember how far they came. What they were made with is found by undoing that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optexport.errors import CheckpointError, OptexportError
from optexport.schedules.base import Schedule
from optexport.schedules.native_state import Followed
from optexport.schedules.natives import find_schedule, lower_schedule
from optexport.specs import Group
from optexport.state.native import NativeState

__all__ = ["read_state", "scheduler_attributes", "write_state"]


def read_state(native: NativeState, clock: int | None) -> Followed:
    """The schedule of the file's ``lr_scheduler``, on the run's updates."""
    out = Followed([{} for _ in native.groups], clock)
    held = native.extras.get("lr_scheduler")
    if held is None:
        return out
    name, state = str(held["class"]), held["state"]
    try:
        schedule = _schedule(name, state)
    except (OptexportError, KeyError, TypeError, ValueError, ZeroDivisionError) as e:
        out.warnings.append(
            f"the scheduler {name} is not interpreted, the learning rate stays what it is: "
            + (f"expected its attribute {e}" if isinstance(e, KeyError) else str(e))
        )
        return out
    out.groups = [{"lr": schedule} for _ in native.groups]
    return out


def _schedule(name: str, state: Mapping[str, Any]) -> Schedule:
    arguments = {k: state[k] for k in ("warmup_steps", "warmup_begin_lr", "warmup_mode")}
    arguments["base_lr"] = state["warmup_final_lr"]
    if name in ("PolyScheduler", "CosineScheduler"):
        arguments |= {
            "base_lr": state["base_lr_orig"],
            "max_update": state["max_update"],
            "final_lr": state["final_lr"],
        }
        if state["warmup_steps"] > 1 and state["warmup_final_lr"] != state["base_lr_orig"]:
            raise ValueError(
                f"its warm-up ends at {state['warmup_final_lr']:g} and it goes on from {state['base_lr_orig']:g}; "
                "MXNet's constructor makes them equal"
            )
        if name == "PolyScheduler":
            arguments["pwr"] = state["power"]
        return find_schedule(f"mxnet:{name}").schedule(arguments)
    factor = float(state["factor"])
    arguments |= {"factor": factor, "step": state["step"]}
    if name == "FactorScheduler":
        passed = state["count"] // state["step"]
        arguments["stop_factor_lr"] = state["stop_factor_lr"]
    else:
        passed = state["cur_step_ind"]
    if passed and factor == 0:
        raise ValueError("it multiplied its base_lr by 0; what it began with is lost")
    began = float(state["base_lr"]) / factor**passed
    if began != arguments["base_lr"]:
        # Undoing a product of floats may miss the constructor's number by rounding.
        close = abs(began - arguments["base_lr"]) <= 1e-13 * (1 + passed) * abs(began)
        arguments["learning_rate"] = None if close else began
    return find_schedule(f"mxnet:{name}").schedule(arguments)


def write_state(native: NativeState, groups: Sequence[Group], clock: int) -> None:
    """Put the one scheduler into ``native.extras``, and groups' factors into ``lr_mult``.

    Raises:
        VerdictError: MXNet has no such schedule. CheckpointError: groups follow different ones, or
            something else than the learning rate is scheduled.
    """
    schedules = {h: s for g in groups for h, s in g.schedules.items()}
    other = sorted(set(schedules) - {"lr"})
    if other or any(g.schedules != groups[0].schedules for g in groups):
        found = f"a schedule of {other[0]!r}" if other else "several"
        raise CheckpointError(
            f"MXNet: expected one schedule of the learning rate for all groups, found {found}"
        )
    call = lower_schedule(schedules["lr"], "mxnet")
    arguments = dict(call.arguments)
    name = call.native.partition(":")[2]
    native.extras["lr_scheduler"] = {"class": name, "state": scheduler_attributes(name, arguments, clock)}
    attributes = native.groups[0].arguments
    index = {n: i for i, n in enumerate(native.groups[0].params)}
    attributes["lr_mult"] = {index[p]: g.lr_mult for g in groups for p in g.params or () if g.lr_mult != 1}


def scheduler_attributes(name: str, arguments: Mapping[str, Any], num_update: int) -> dict[str, Any]:
    """What a scheduler of this class holds after it was last called with ``num_update`` (0: never)."""
    a = find_schedule(f"mxnet:{name}").complete(arguments)
    began = a["base_lr"] if a["learning_rate"] is None else a["learning_rate"]
    out: dict[str, Any] = {
        "base_lr": began,
        "warmup_steps": a["warmup_steps"],
        "warmup_final_lr": a["base_lr"],
        "warmup_begin_lr": a["warmup_begin_lr"],
        "warmup_mode": a["warmup_mode"],
    }
    running = num_update >= a["warmup_steps"] and num_update > 0
    if name in ("PolyScheduler", "CosineScheduler"):
        out |= {"base_lr_orig": a["base_lr"], "max_update": a["max_update"], "final_lr": a["final_lr"]}
        out |= {"max_steps": a["max_update"] - a["warmup_steps"]}
        out |= {"power": a["pwr"]} if name == "PolyScheduler" else {}
        if running:
            # After max_update MXNet returns what it left in base_lr.
            schedule = find_schedule(f"mxnet:{name}").schedule(arguments)
            out["base_lr"] = schedule.at(num_update - 1)
        return out
    out |= {"step": a["step"], "factor": a["factor"], "count": 0}
    if name == "FactorScheduler":
        out["stop_factor_lr"] = a["stop_factor_lr"]
        while running and num_update > out["count"] + a["step"]:
            out["count"] += a["step"]
            out["base_lr"] = max(out["base_lr"] * a["factor"], a["stop_factor_lr"])
        return out
    out["cur_step_ind"] = sum(num_update > s for s in a["step"]) if running else 0
    for k in range(out["cur_step_ind"]):
        out["count"] = a["step"][k]
        out["base_lr"] *= a["factor"]
    return out
