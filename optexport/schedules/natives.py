"""The frameworks' own schedules: a table in each converter's ``schedules.py``, found and applied here.

A row says which schedule a native one is at its arguments, and at which arguments it is a given one.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from ..errors import HyperparameterError, OptexportError, UnknownNameError, VerdictError
from .base import Schedule
from .views import CannotError, Until

__all__ = [
    "REQUIRED",
    "Lowered",
    "NativeCall",
    "NativeSchedule",
    "find_schedule",
    "lower_schedule",
    "native_schedule",
    "native_schedules",
    "translate_schedule",
]

REQUIRED: Any = type("Required", (), {"__repr__": lambda _: "required"})()
Arguments = Mapping[str, Any]
# Arguments, the conditions under which they are the schedule, updates of one native count.
Lowered = tuple[dict[str, Any], tuple[Until, ...], int]


@dataclass(frozen=True)
class NativeSchedule:
    """One native schedule.

    arguments: its own with their defaults (`REQUIRED` where it has none), the optimizer's learning
        rate among them where the framework takes it from there.
    lift: arguments -> the schedule of what is scheduled (``lr``, ``momentum``), on the optimizer's steps.
    lower: a schedule -> `Lowered`; raises `CannotError`.
    per_epoch: whether it is usually stepped once an epoch, so ``steps_per_epoch`` is accepted.
    aliases: other spellings of arguments. refused: why it cannot be stated as a function of the step.
    """

    framework: str
    name: str
    arguments: Arguments = field(default_factory=dict)
    lift: Mapping[str, Callable[[dict[str, Any]], Schedule]] = field(default_factory=dict)
    lower: Callable[[Schedule], Lowered] | None = None
    per_epoch: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""

    @property
    def qualified(self) -> str:
        return f"{self.framework}:{self.name}"

    def complete(self, given: Arguments) -> dict[str, Any]:
        """Every argument, defaults for those not given."""
        out = dict(self.arguments)
        for key, value in given.items():
            name = self.aliases.get(key, key)
            if name not in out:
                near = difflib.get_close_matches(key, [*out, *self.aliases], n=2)
                raise UnknownNameError(
                    f"{self.qualified}: unknown argument {key!r}; expected one of {', '.join(out)}"
                    + (f"; did you mean {' or '.join(near)}?" if near else "")
                )
            out[name] = value
        for key, value in out.items():
            if value is REQUIRED:
                raise HyperparameterError(f"{self.qualified}: missing argument {key!r}; it has no default")
        return out

    def schedule(self, given: Arguments, of: str = "lr", every: int = 1) -> Schedule:
        """The schedule at these arguments."""
        if self.refused:
            raise HyperparameterError(f"{self.qualified}: {self.refused}")
        arguments = self.complete(given)
        if of not in self.lift:
            raise UnknownNameError(
                f"{self.qualified}: does not schedule {of!r}; expected one of {', '.join(self.lift)}"
            )
        try:
            made = self.lift[of](arguments)
        except OptexportError as e:
            raise type(e)(f"{self.qualified}: {e}") from None
        except (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as e:
            raise HyperparameterError(
                f"{self.qualified}: expected numbers for its arguments, found {arguments}: {e}"
            ) from None
        if every != 1:
            made = made.counted(every=every)
            arguments["steps_per_epoch"] = every
        return replace(made, native=self.qualified, arguments=arguments)


@dataclass(frozen=True)
class NativeCall:
    """A framework's own schedule at its own arguments.

    every: updates between two steps of the native scheduler. verdict: ``exact`` or ``conditional``.
    """

    native: str
    arguments: Mapping[str, Any]
    every: int = 1
    verdict: str = "exact"
    conditions: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def native_schedules() -> Mapping[str, Mapping[str, NativeSchedule]]:
    """framework -> lower-case name -> row, of every converter that has a table."""
    from ..dialects import frameworks

    found: dict[str, dict[str, NativeSchedule]] = {}
    for package in frameworks().values():
        if importlib.util.find_spec(f"{package}.schedules") is not None:
            for row in importlib.import_module(f"{package}.schedules").SCHEDULES:
                found.setdefault(row.framework, {})[row.name.lower()] = row
    return found


def find_schedule(name: str) -> NativeSchedule:
    """The row of ``framework:schedule``; case does not matter.

    Raises:
        UnknownNameError: names the nearest.
    """
    framework, colon, short = name.partition(":")
    if not colon:
        raise UnknownNameError(f"{name!r}: expected FRAMEWORK:SCHEDULE, as in torch:CosineAnnealingLR")
    table = native_schedules().get(framework.lower())
    if table is None:
        raise UnknownNameError(
            f"unknown framework {framework!r}; expected one of {', '.join(sorted(native_schedules()))}"
        )
    row = table.get(short.lower())
    if row is None:
        near = difflib.get_close_matches(short.lower(), table, n=3, cutoff=0.4) or list(table)
        raise UnknownNameError(
            f"unknown schedule {short!r} of {framework}; expected a native one, nearest: "
            + ", ".join(table[n].name for n in near)
        )
    return row


def native_schedule(name: str, /, *, of: str = "lr", **arguments: Any) -> Schedule:
    """The schedule that a framework's own one is: ``"torch:CosineAnnealingLR"`` with its own arguments.

    arguments: the framework's; with PyTorch's also ``lr``, the optimizer's learning rate, and
        ``steps_per_epoch``, the updates between two calls of ``scheduler.step()``.
    of: what is scheduled, where it is more than the learning rate (``momentum`` of OneCycleLR).

    Raises:
        UnknownNameError: no such schedule or argument; names the nearest.
        HyperparameterError: an argument outside its range, or a schedule that is no function of the
            step (it depends on a metric, or is the user's own code).

    >>> native_schedule("torch:StepLR", lr=0.1, step_size=30).at(60)
    0.0010000000000000002
    """
    row = find_schedule(name)
    every = 1
    if row.per_epoch and "steps_per_epoch" in arguments:
        every = arguments.pop("steps_per_epoch")
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise HyperparameterError(
                f"{row.qualified}: 'steps_per_epoch' expected a whole number in [1, inf), found {every!r}"
            )
    return row.schedule(arguments, of, every)


def lower_schedule(schedule: Schedule, to: str) -> NativeCall:
    """``schedule`` as a framework's own: name, arguments and verdict.

    to: a framework, or ``framework:schedule`` for that one.

    Raises:
        VerdictError: no native schedule has these values; says why.
        UnknownNameError: no such framework or schedule.
    """
    framework, colon, _ = to.partition(":")
    if colon:
        rows = [find_schedule(to)]
    else:
        table = native_schedules().get(framework.lower())
        if table is None:
            raise UnknownNameError(
                f"unknown framework {to!r}; expected one of {', '.join(sorted(native_schedules()))}"
            )
        rows = list(table.values())
    own = next((r for r in rows if r.qualified == schedule.native), None)
    if own is not None:
        arguments = {k: v for k, v in schedule.arguments.items() if k in own.arguments}
        every = schedule.every if own.per_epoch else 1
        # Its own arguments, unless it was put on another count since.
        if own.schedule(arguments, every=every) == schedule:
            return NativeCall(own.qualified, arguments, every)
    reasons, conditional = [], None
    for row in rows:
        if row.lower is None:
            if colon:
                reasons.append(f"{row.name}: {row.refused or 'is not made from other schedules'}")
            continue
        try:
            call = _call(row, schedule)
        except CannotError as e:
            reasons.append(f"{row.name}: {e}")
            continue
        if call.verdict == "exact":
            return call
        conditional = conditional or call
    if conditional is not None:
        return conditional
    raise VerdictError(
        f"{schedule.native or schedule.told()} to {to}: none; " + "; ".join(dict.fromkeys(reasons))
    )


def _call(row: NativeSchedule, schedule: Schedule) -> NativeCall:
    assert row.lower is not None
    try:
        arguments, conditions, every = row.lower(schedule)
        again = row.schedule(arguments, every=every)
    except (OptexportError, ZeroDivisionError, OverflowError) as e:
        raise CannotError(str(e)) from None
    _prove(schedule, again, min((c.until for c in conditions), default=math.inf) * every)
    level, texts = "conditional" if conditions else "exact", tuple(c.text for c in conditions)
    return NativeCall(row.qualified, arguments, every, level, texts)


def _prove(schedule: Schedule, again: Schedule, until: float) -> None:
    """Both have the same values: a table's mistake is a refusal, never a silent difference."""
    largest = max((abs(schedule.at(k)) for k in (0, 1, 10, 100)), default=0.0)
    for k in (*range(40), *(int(1.15**i) for i in range(27, 120))):
        if k > until:
            return
        a, b = schedule.at(k), again.at(k)
        if not (a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12 * largest)):
            raise CannotError(f"its value after {k} updates would be {b:g}, expected {a:g}")


def translate_schedule(name: str, to: str, /, **arguments: Any) -> NativeCall:
    """One framework's schedule as another's: ``translate_schedule("torch:StepLR", "optax", lr=…, step_size=…)``.

    Raises:
        VerdictError: the other framework has none with these values; says why.
    """
    return lower_schedule(native_schedule(name, **arguments), to)
