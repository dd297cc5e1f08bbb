"""What a schedule is made of, and the decorator that makes one out of a function.

A schedule is a Python function on a symbolic count of updates, with static options, traced once into
a program with the single output ``value``. Its numbers are hyperparameters like a rule's.

    k = ⌊(step + first) / every⌋        what every schedule counts with
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from numbers import Real
from typing import Any

from ..errors import HyperparameterError, UnknownNameError
from ..ir import Program, Tracer, Value, digest, floor, sweep
from ..ir.splice import splice
from ..rules.base import Count, Hyper, Option

__all__ = [
    "BASE",
    "END",
    "TOTAL",
    "Clock",
    "Numbers",
    "Plan",
    "Schedule",
    "Static",
    "combine",
    "plan",
    "plans",
]

INF = float("inf")
Static = bool | str | int | tuple[float, ...]

BASE = Hyper("base", 1e-3, -INF, INF, "value at the start, before anything decays")
END = Hyper("end", 0.0, -INF, INF, "value at the end")
TOTAL = Hyper("total", 1000.0, 1.0, INF, "counts until the end")

COUNTING = (
    Count(
        "every",
        doc="updates a count: those of an epoch where a scheduler is stepped once an epoch",
        low=1,
        high=10**12,
        default=1,
    ),
    Count(
        "first",
        doc="updates that count as done at the first one (MXNet counts from 1)",
        low=-(10**12),
        high=10**12,
        default=0,
    ),
)


@dataclass(frozen=True)
class Numbers:
    """A static list: breakpoints, or the values between them.

    whole: integers only. rising: each above the one before (``"strictly"``), or not below (``"weakly"``).
    """

    name: str
    doc: str
    whole: bool = False
    rising: str = ""

    def check(self, where: str, value: object) -> tuple[float, ...]:
        items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
        good = items is not None and all(
            isinstance(x, Real)
            and not isinstance(x, bool)
            and not math.isnan(float(x))
            and (not self.whole or float(x).is_integer())
            for x in items
        )
        if items is not None and good:
            out = tuple(int(x) if self.whole else float(x) for x in items)
            pairs = list(itertools.pairwise(out))
            if not self.rising or all(a < b or (a == b and self.rising == "weakly") for a, b in pairs):
                return out
        kind = f"{'rising ' if self.rising else ''}{'whole ' if self.whole else ''}numbers"
        raise HyperparameterError(f"{where}: option {self.name!r} expected a list of {kind}, found {value!r}")


class Clock:
    """What a schedule's function works on: the count ``k``, its hyperparameters, values to name."""

    def __init__(self, own: Plan, options: Mapping[str, Static]) -> None:
        self.tracer, self.plan = Tracer(), own
        every, first = _whole(options["every"]), _whole(options["first"])
        k = self.tracer.step
        k = k + float(first) if first else k
        self.k = self.tracer.let("k", floor(k / float(every))) if every != 1 else k

    def hyper(self, name: str) -> Value:
        if name not in self.plan.hyperparameters:
            raise UnknownNameError(f"{self.plan.name}: hyperparameter {name!r} is not declared")
        return self.tracer.hyper(name)

    def let(self, label: str, x: Value) -> Value:
        return self.tracer.let(label, x)

    def const(self, x: float) -> Value:
        return self.tracer.const(x)


def _whole(value: Static) -> int:
    assert isinstance(value, int)
    return value


@dataclass(frozen=True)
class Schedule:
    """A hyperparameter as a program of the step.

    name: of the schedule. options: its static choices, all of them. values: of its hyperparameters.
    parts: schedules that it is made of (``joined``, ``product``).
    native, arguments: the framework's own scheduler it came from, so that a round trip gives it back.
    """

    name: str
    options: Mapping[str, Static]
    program: Program
    hyperparameters: tuple[Hyper, ...]
    values: Mapping[str, float]
    parts: tuple[Schedule, ...] = ()
    native: str = field(default="", compare=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __hash__(self) -> int:
        return hash((self.name, repr(sorted(self.options.items())), repr(sorted(self.values.items()))))

    @property
    def every(self) -> int:
        """Updates of one count."""
        return _whole(self.options["every"])

    @property
    def first(self) -> int:
        """Updates that count as done at the first one."""
        return _whole(self.options["first"])

    def numbers(self, option: str) -> tuple[float, ...]:
        """A static list."""
        value = self.options[option]
        assert isinstance(value, tuple)
        return value

    def at(self, step: int) -> float:
        """The value for the update after ``step`` completed ones."""
        from ..reference.interpreter import run

        inputs: dict[str, Any] = {f"hyper:{k}": v for k, v in self.values.items()}
        return float(run(self.program, {**inputs, "step": step})["value"])

    @cached_property
    def digest(self) -> str:
        """Canonical hash at this schedule's values: equal hashes, the same schedule over the reals."""
        return digest(Program(self.program.nodes, {"param": self.program.outputs["value"]}), self.values)

    def counted(self, *, every: int | None = None, first: int | None = None) -> Schedule:
        """The same schedule on another count of updates.

        Raises:
            HyperparameterError: ``every`` is below 1.
        """
        told = {k: v for k, v in (("every", every), ("first", first)) if v is not None}
        options = {**self.options, **told}
        if self.parts:
            return replace(
                combine(self.name, self.parts, **options), native=self.native, arguments=self.arguments
            )
        made = plans()[self.name].schedule({**options, **self.values})
        return replace(made, native=self.native, arguments=self.arguments)

    def told(self) -> str:
        """In one line: the name and every value that is not the default."""
        if self.parts:
            bounds = self.options.get("boundaries", ())
            return f"{self.name}({'; '.join(p.told() for p in self.parts)}" + (
                f"; at {bounds})" if bounds else ")"
            )
        defaults = {o.name: o.default for o in plans()[self.name].options.values() if isinstance(o, Option)}
        shown = {k: v for k, v in self.options.items() if defaults.get(k) != v}
        words = [f"{k}={v:g}" for k, v in self.values.items()] + [f"{k}={v}" for k, v in shown.items()]
        return f"{self.name}({', '.join(words)})"


@dataclass(frozen=True)
class Plan:
    """A parametrised schedule. ``function(clock, **options)`` returns the value."""

    name: str
    function: Callable[..., Value]
    options: Mapping[str, Option | Numbers]
    hyperparameters: Mapping[str, Hyper]
    doc: str
    source: str

    def schedule(self, given: Mapping[str, Any]) -> Schedule:
        """At these options and hyperparameters, defaults for the rest.

        Raises:
            HyperparameterError: an argument that is unknown, missing, or outside its range.
        """
        known = [*self.hyperparameters, *self.options]
        for key in given:
            if key not in known:
                raise HyperparameterError(
                    f"schedule {self.name}: unknown argument {key!r}; expected one of {', '.join(known)}"
                )
        where = f"schedule {self.name}"
        options: dict[str, Static] = {}
        for name, option in self.options.items():
            default = option.default if isinstance(option, Option) else None
            value = given.get(name, default)
            if value is None:
                raise HyperparameterError(f"{where}: missing argument {name!r}: {_doc(option)}")
            options[name] = option.check(where, value)
        program, hypers = _trace(self.name, tuple(options.items()))
        values = {h.name: h.check(where, given.get(h.name, h.default)) for h in hypers}
        for key in given:
            if key in self.hyperparameters and key not in values:
                raise HyperparameterError(
                    f"{where}: {key!r} has no effect with "
                    + ", ".join(
                        f"{k}={json.dumps(v)}" for k, v in options.items() if k not in ("every", "first")
                    )
                    + "; leave it out"
                )
        return Schedule(self.name, options, program, hypers, values)


def _doc(option: Option | Numbers) -> str:
    return (
        option.doc if isinstance(option, Numbers | Count) else "one of " + ", ".join(map(str, option.choices))
    )


@cache
def _trace(name: str, options: tuple[tuple[str, Static], ...]) -> tuple[Program, tuple[Hyper, ...]]:
    own = plans()[name]
    clock = Clock(own, dict(options))
    rest = {k: v for k, v in options if k not in ("every", "first")}
    program = sweep(clock.tracer.program({"value": own.function(clock, **rest)}))
    read = {i.name for i in program.inputs("hyper")}
    return program, tuple(h for h in own.hyperparameters.values() if h.name in read)


_PLANS: dict[str, Plan] = {}


def plans() -> Mapping[str, Plan]:
    """The schedules by name."""
    from . import catalogue  # noqa: F401  (imports every schedule's file, which registers itself)

    return _PLANS


def plan(
    name: str, *, options: tuple[Option | Numbers, ...] = (), hyperparameters: tuple[Hyper, ...], source: str
) -> Callable[[Callable[..., Value]], Plan]:
    """Register the decorated function as a schedule, with the counting that all share."""

    def wrap(function: Callable[..., Value]) -> Plan:
        if name in _PLANS:
            raise UnknownNameError(f"schedule {name!r} is registered twice; choose another name")
        made = Plan(
            name,
            function,
            {o.name: o for o in (*options, *COUNTING)},
            {h.name: h for h in hyperparameters},
            function.__doc__ or "",
            source,
        )
        _PLANS[name] = made
        return made

    return wrap


# Combinations read their parts' values: (parts' values at the count, boundaries, k) -> value.
def combine(name: str, parts: Iterable[Schedule], **options: Any) -> Schedule:
    """Schedules made into one: ``joined`` one after the other, ``product`` multiplied.

    parts: each counts from the boundary before it. options: ``boundaries`` (joined), ``every``, ``first``.
        A part's hyperparameter ``base`` is the whole's ``base_0``, ``base_1``, ….

    Raises:
        HyperparameterError: no parts, or not one boundary between each two.
    """
    from .combinations import COMBINATIONS

    held = tuple(parts)
    if not held:
        raise HyperparameterError(f"schedule {name}: expected at least one schedule, found none")
    combination = COMBINATIONS[name]
    where = f"schedule {name}"
    rows: tuple[Option | Numbers, ...] = (*combination.options, *COUNTING)
    own = {o.name: o for o in rows}
    unknown = sorted(set(options) - set(own))
    if unknown:
        raise HyperparameterError(
            f"{where}: unknown argument {unknown[0]!r}; expected one of {', '.join(own)}"
        )
    checked: dict[str, Static] = {}
    for o in own.values():
        value = options.get(o.name, o.default if isinstance(o, Option) else None)
        if value is None:
            raise HyperparameterError(f"{where}: missing argument {o.name!r}: {_doc(o)}")
        checked[o.name] = o.check(where, value)
    combination.validate(where, held, checked)
    shell = Plan(name, lambda _: None, own, {}, "", "")  # type: ignore[arg-type,return-value]
    clock = Clock(shell, checked)
    hypers: list[Hyper] = []
    values: dict[str, float] = {}
    called: list[dict[str, str]] = []
    for i, part in enumerate(held):
        names = {h.name: f"{h.name}_{i}" for h in part.hyperparameters}
        hypers += [replace(h, name=names[h.name]) for h in part.hyperparameters]
        values |= {names[k]: v for k, v in part.values.items()}
        called.append(names)

    def value_of(i: int, k: Value) -> Value:
        return splice(clock.tracer, held[i].program, {"step": k}, called[i])["value"]

    program = sweep(
        clock.tracer.program({"value": combination.function(clock, value_of, len(held), checked)})
    )
    read = {i.name for i in program.inputs("hyper")}
    return Schedule(
        name,
        checked,
        program,
        tuple(h for h in hypers if h.name in read),
        {k: v for k, v in values.items() if k in read},
        held,
    )
