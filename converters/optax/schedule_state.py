"""Schedules in Optax' states: a count of updates, no more.

A learning rate that is a schedule has a state of its own, which counts; the function itself stands in the
program. So a file that is written for a schedule has that count, and what is read goes on at the number
that the caller gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from optexport.errors import VerdictError
from optexport.schedules.native_state import Followed
from optexport.schedules.natives import lower_schedule
from optexport.specs import Group
from optexport.state.native import NativeState

__all__ = ["SCHEDULED", "read_state", "write_state"]

# Among a native state's extras: the groups whose learning rate is a schedule, by number.
SCHEDULED = "scheduled"


def read_state(native: NativeState, clock: int | None) -> Followed:
    """No schedule: the file has none. ``arrange`` has said so where a rate counts."""
    return Followed([{} for _ in native.groups], clock)


def write_state(native: NativeState, groups: Sequence[Group], clock: int) -> None:
    """Let the state have the counts of schedules, and say which the program has to make."""
    native.extras[SCHEDULED] = tuple(i for i, g in enumerate(groups) if "lr" in g.schedules)
    for group in groups:
        for name, schedule in group.schedules.items():
            if name != "lr":
                native.warnings.append(
                    f"{name!r} follows the schedule {schedule.told()}, which Optax has through inject_hyperparams "
                    f"alone: the file is of the optimizer without it; set the number after {clock} updates"
                )
                continue
            try:
                call = lower_schedule(schedule, "optax")
                made = f"{call.native.replace(':', '.')}({dict(call.arguments)})"
            except VerdictError:
                made = f"a function that is {schedule.told()}"
            native.warnings.append(
                f"the state counts {clock} updates for a schedule: give learning_rate={made}"
            )
