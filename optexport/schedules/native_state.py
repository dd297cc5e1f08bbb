"""Schedules in native files: read into groups, written back.

A converter that has a ``schedule_state.py`` says how its framework keeps a scheduler's state there.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .base import Schedule

if TYPE_CHECKING:
    from ..specs import Group
    from ..state.native import NativeState

__all__ = ["Followed", "read_schedules", "write_schedules"]


@dataclass
class Followed:
    """What a file says about schedules.

    groups: for each native group, hyperparameter -> schedule on the run's updates.
    clock: completed updates, where the scheduler's state tells and nothing else does.
    """

    groups: list[dict[str, Schedule]]
    clock: int | None = None
    warnings: list[str] = field(default_factory=list)

    def numbers(self, index: int, clock: int | None) -> dict[str, float]:
        """The scheduled hyperparameters of a native group as numbers, after ``clock`` updates."""
        return {h: s.at(clock or 0) for h, s in self.groups[index].items()}


def _module(framework: str) -> Any:
    from ..dialects import frameworks

    package = frameworks().get(framework)
    if package is None or importlib.util.find_spec(f"{package}.schedule_state") is None:
        return None
    return importlib.import_module(f"{package}.schedule_state")


def read_schedules(native: NativeState, clock: int | None) -> Followed:
    """The schedules of a native state; clock: completed updates, None where the file does not say."""
    module = _module(native.framework)
    nothing = Followed([{} for _ in native.groups], clock)
    found: Followed = nothing if module is None else module.read_state(native, clock)
    return found


def write_schedules(
    native: NativeState,
    groups: Sequence[Group],
    clock: int,
) -> None:
    """Put the groups' schedules into ``native`` as its framework keeps them.

    Raises:
        VerdictError: the framework has no such schedule. CheckpointError: groups differ where its file
            has one place.
    """
    if not any(g.schedules for g in groups):
        return
    module = _module(native.framework)
    if module is None:
        native.warnings.append(
            f"{native.framework} keeps no schedule in this file: it holds the learning rate after {clock} "
            "updates; make the schedule again in the program that goes on"
        )
        return
    module.write_state(native, groups, clock)
