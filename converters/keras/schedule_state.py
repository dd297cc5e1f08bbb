"""Keras' learning-rate schedule, which a file's configuration has in the place of the learning rate.

A schedule keeps no state: it is a function of ``iterations``, the optimizer's own count.
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

__all__ = ["SCHEDULE", "followed", "read_state", "write_state"]

# Key of `NativeState.extras`: ``class_name`` and ``config``.
SCHEDULE = "schedule"


def followed(native: NativeState) -> bool:
    """Whether the file has a schedule that is described."""
    try:
        return SCHEDULE in native.extras and _schedule(native.extras[SCHEDULE]) is not None
    except (OptexportError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return False


def read_state(native: NativeState, clock: int | None) -> Followed:
    """The schedule of the file's learning rate, on the run's updates."""
    out = Followed([{} for _ in native.groups], clock)
    held = native.extras.get(SCHEDULE)
    if held is None:
        return out
    try:
        schedule = _schedule(held)
    except (OptexportError, KeyError, TypeError, ValueError, ZeroDivisionError) as e:
        name = held.get("class_name") if isinstance(held, dict) else None
        out.warnings.append(f"the schedule {name} is not interpreted: {e}")
        return out
    out.groups = [{"lr": schedule} for _ in native.groups]
    return out


def _schedule(held: Mapping[str, Any]) -> Schedule:
    name = str(held["class_name"]).rpartition(">")[2]
    if held.get("registered_name") not in (None, name):
        raise ValueError("it is a class of the user's own")
    row = find_schedule(f"keras:{name}")
    return row.schedule({k: v for k, v in held["config"].items() if v is not None or k != "name"})


def write_state(native: NativeState, groups: Sequence[Group], clock: int) -> None:
    """Put the one schedule into ``native.extras``, in the place of the learning rate.

    Raises:
        VerdictError: Keras has no such schedule. CheckpointError: groups follow different ones, or
            something else than the learning rate is scheduled.
    """
    del clock
    schedules = {h: s for g in groups for h, s in g.schedules.items()}
    other = sorted(set(schedules) - {"lr"})
    if other or any(g.schedules != groups[0].schedules or g.lr_mult != groups[0].lr_mult for g in groups):
        found = f"a schedule of {other[0]!r}" if other else "several"
        raise CheckpointError(
            f"Keras: expected one schedule of the learning rate for all groups, found {found}"
        )
    if groups[0].lr_mult != 1:
        raise CheckpointError(
            f"Keras: expected a schedule of the learning rate itself, found one multiplied by {groups[0].lr_mult:g}"
        )
    call = lower_schedule(schedules["lr"], "keras")
    if call.every != 1:
        raise CheckpointError(
            f"Keras: expected a schedule that counts updates, found one that counts once in {call.every} of them"
        )
    name = call.native.partition(":")[2]
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in call.arguments.items()}
    native.extras[SCHEDULE] = {
        "module": "keras.optimizers.schedules",
        "class_name": name,
        "config": {**config, "name": config.get("name") or name},
        "registered_name": None,
    }
