"""What a rule is made of, and the decorator that makes a family out of a function.

A family is a Python function on symbolic values with static options. Calling `Family.rule` with a
value for *every* option traces it into a `Rule`: there is no silent default. The catalogue
(`catalogue.py`) names the usual choices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from numbers import Real
from typing import Any

import numpy as np

from ..errors import CheckpointError, HyperparameterError, UnknownNameError
from ..ir import ARRAY, FLOAT32, FLOAT64, TENSOR, Program, Tracer, Type, Value, cast, digest

__all__ = [
    "Count",
    "Family",
    "Hyper",
    "Option",
    "OptionValue",
    "Rule",
    "Slot",
    "Update",
    "families",
    "family",
    "register",
]

OptionValue = bool | str | int


@dataclass(frozen=True)
class Option:
    """A static semantic choice: its name and a sentence for each value.

    default: what it is where nothing is said, for choices that are additions to a rule (a clip, an
        averaging); None where every rule must say.
    """

    name: str
    choices: Mapping[OptionValue, str]
    default: OptionValue | None = None

    def check(self, family: str, value: object) -> OptionValue:
        # True and 1 are one dictionary key; an option's value must be of the choice's own type.
        for choice in self.choices:
            if type(choice) is type(value) and choice == value:
                return choice
        expected = ", ".join(json.dumps(c) for c in self.choices)
        raise HyperparameterError(
            f"{family}: option {self.name!r} expected one of {expected}, found {value!r}"
        )

    def sentence(self, value: OptionValue) -> str:
        """What a value of the choice means."""
        return self.choices[value]


@dataclass(frozen=True)
class Count(Option):
    """A static whole number, in [low, high]: how many items a history has."""

    choices: Mapping[OptionValue, str] = field(default_factory=dict)
    doc: str = ""
    low: int = 1
    high: int = 1000

    def check(self, family: str, value: object) -> OptionValue:
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        raise HyperparameterError(
            f"{family}: option {self.name!r} expected a whole number in [{self.low}, {self.high}], found {value!r}"
        )

    def sentence(self, value: OptionValue) -> str:
        """The number, and what it counts."""
        return f"{value} ({self.doc})"


@dataclass(frozen=True)
class Hyper:
    """A hyperparameter: default, closed range, and what it is.

    neutral: the value at which it has no effect on the rule (None where there is no such value).
    below: whether ``high`` itself is outside the range. whole: whether it must be a whole number.
    numbers: what it counts once the optimizer's parameters are known: ``all`` of them, or the place of
        its ``own`` one, from 1; until then it is 0. Empty: it counts nothing.
    """

    name: str
    default: float
    low: float
    high: float
    doc: str
    neutral: float | None = None
    below: bool = False
    whole: bool = False
    numbers: str = ""

    @property
    def range(self) -> str:
        return f"[{self.low:g}, {self.high:g}{')' if self.below else ']'}"

    @property
    def kind(self) -> str:
        return "a whole number" if self.whole else "a number"

    def check(self, where: str, value: object) -> float:
        if isinstance(value, Real) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.nan
            inside = self.low <= number <= self.high and not (self.below and number == self.high)
            if inside and (not self.whole or number.is_integer()):
                return number
        raise HyperparameterError(
            f"{where}: {self.name!r} expected {self.kind} in {self.range}, found {value!r}"
        )


@dataclass(frozen=True)
class Slot:
    """A state tensor.

    init: ``zeros``, ``param`` (it starts as the parameter), a number as text, or the hyperparameter
        whose value fills it.
    shape: ``param`` the parameter's; ``scalar``; ``without:-1`` that axis with size 1 (``largest`` and
        ``second`` are the axes with most elements, the last of equals first); ``only:0`` every other
        axis with size 1; ``history:10`` ten of the parameter's, the newest last.
    dtype: ``param`` the parameter's, ``float32`` or ``float64``; scalars have one of the latter.
    """

    name: str
    doc: str
    init: str = "zeros"
    shape: str = "param"
    dtype: str = "param"

    @property
    def type(self) -> Type:
        """Of its value in a program."""
        if self.shape == "scalar":
            return FLOAT32 if self.dtype == "float32" else FLOAT64
        return TENSOR if self.shape == "param" else ARRAY

    def sized(self, options: Mapping[str, OptionValue]) -> Slot:
        """With the length of its history in place of the option that says it."""
        kind, _, of = self.shape.partition(":")
        return replace(self, shape=f"{kind}:{options[of]}") if kind == "history" and of in options else self

    def shape_for(self, param: Sequence[int]) -> tuple[int, ...]:
        """Its shape beside a parameter of this shape."""
        kind, _, number = self.shape.partition(":")
        shape = tuple(param)
        if kind == "scalar":
            return ()
        if kind == "history":
            return (int(number), *shape)
        if kind == "without":
            axis = _axis(number, shape)
            return tuple(1 if i == axis else n for i, n in enumerate(shape))
        if kind == "only":
            return tuple(n if i == int(number) else 1 for i, n in enumerate(shape))
        return shape

    def reduced(self, param: Sequence[int]) -> tuple[int, ...]:
        """The axes of a parameter of this shape that it lacks, in order."""
        kind, _, number = self.shape.partition(":")
        if kind == "without":
            return (_axis(number, tuple(param)),)
        return tuple(i for i in range(len(param)) if i != int(number)) if kind == "only" else ()

    def dtype_for(self, param: Any) -> np.dtype[Any]:
        """Its dtype beside a parameter of this one."""
        if self.dtype == "param":
            return np.dtype(np.float64 if self.shape == "scalar" else param)
        return np.dtype(self.dtype)

    def first(self, param: Any, shape: Sequence[int], dtype: Any, values: Mapping[str, float]) -> np.ndarray:
        """Its value before the first update.

        param: the parameter's value, None where it is not at hand (init is not ``param``).
        """
        if self.init == "param":
            if param is None:
                raise CheckpointError(
                    f"slot {self.name!r}: starts as the parameter, expected its value, found none; "
                    "pass the weights (--model)"
                )
            return np.array(param, self.dtype_for(dtype))
        value = 0.0 if self.init == "zeros" else values.get(self.init)
        return np.full(
            self.shape_for(shape), float(self.init) if value is None else value, self.dtype_for(dtype)
        )


@dataclass(frozen=True)
class Rule:
    """A traced, immutable update rule."""

    family: str
    options: Mapping[str, OptionValue]
    program: Program
    slots: tuple[Slot, ...]
    hyperparameters: tuple[Hyper, ...]
    source: str = field(compare=False, default="")

    @cached_property
    def digest(self) -> str:
        """Canonical hash with every hyperparameter symbolic."""
        return digest(self.program)

    def digest_at(self, values: Mapping[str, float]) -> str:
        """Canonical hash at hyperparameters that are 0 or 1 (others stay symbolic).

        Those are the values at which terms vanish: AdamW at zero decay is Adam.
        """
        return digest(self.program, {k: v for k, v in values.items() if v in (0, 1) and k != "lr"})

    @property
    def slot_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.slots)

    def __hash__(self) -> int:
        return hash((self.family, tuple(sorted((k, str(v)) for k, v in self.options.items()))))


class Update:
    """What a family's function works on: the tracer, and the options' common part.

    ``hyper`` and ``slot`` refuse names that the family did not declare, so the tables beside the
    maths stay complete.
    """

    def __init__(self, family: Family, options: Mapping[str, OptionValue]) -> None:
        self.tracer, self.family, self.options = Tracer(), family, options
        self.param = self.tracer.param
        self._grad: Value | None = None
        # Recorded here, so that programs keep the order of nodes that files of version 1 have.
        step = self.tracer.step
        self._step: Callable[[], Value] = lambda: step

    @property
    def grad(self) -> Value:
        """The gradient, raw or as a wrapper around the rule hands it on."""
        return self.tracer.grad if self._grad is None else self._grad

    @grad.setter
    def grad(self, value: Value) -> None:
        self._grad = value

    @property
    def step(self) -> Value:
        """Completed updates, which are fewer than calls where a wrapper counts them otherwise."""
        return self._step()

    def count_by(self, step: Callable[[], Value]) -> None:
        """Let ``step`` be what this gives; it is asked only where the rule reads the step."""
        self._step = step

    def hyper(self, name: str) -> Value:
        """A hyperparameter, in double as the host has it, or as an attribute holds it."""
        if name not in self.family.hyperparameters:
            raise UnknownNameError(f"{self.family.name}: hyperparameter {name!r} is not declared")
        x = self.tracer.hyper(name)
        return _through_float32(x) if self.options["scalars"] == "attributes" and name != "lr" else x

    def kernel(self, x: Value) -> Value:
        """A scalar as the framework's kernel receives it.

        Where option ``scalars`` says float32 it is rounded once on the way in; the kernel then
        computes in the tensor's dtype.
        """
        return _through_float32(x) if self.options["scalars"] == "float32" else x

    def slot(self, name: str) -> Value:
        if name not in self.family.slots:
            raise UnknownNameError(f"{self.family.name}: slot {name!r} is not declared")
        return self.tracer.slot(name, self.family.slots[name].type)

    def let(self, label: str, x: Value) -> Value:
        return self.tracer.let(label, x)


def _axis(which: str, shape: tuple[int, ...]) -> int:
    """The axis that a slot lacks."""
    if which in ("largest", "second"):
        return int(np.argsort(shape, kind="stable")[-1 if which == "largest" else -2])
    return int(which) % len(shape)


def _through_float32(x: Value) -> Value:
    return cast(cast(x, FLOAT32), FLOAT64)


Fit = Callable[[Mapping[str, OptionValue], tuple[int, ...]], Mapping[str, OptionValue]]


@dataclass(frozen=True)
class Family:
    """A parametrised update rule. ``function(u, **options)`` returns the new values by name.

    fit: options, a parameter's shape -> options, where some follow from the shape (Adafactor's
        factors, Muon's matrices). fits: every setting of those options that can come out.
    """

    name: str
    function: Callable[..., Mapping[str, Value]]
    options: Mapping[str, Option]
    hyperparameters: Mapping[str, Hyper]
    slots: Mapping[str, Slot]
    source: str
    doc: str
    fit: Fit | None = None
    fits: tuple[Mapping[str, OptionValue], ...] = ()

    def check_options(self, given: Mapping[str, object]) -> dict[str, OptionValue]:
        """Every option with a checked value, in the declared order."""
        given = {**{o.name: o.default for o in self.options.values() if o.default is not None}, **given}
        unknown = sorted(set(given) - set(self.options))
        missing = [o for o in self.options if o not in given]
        if unknown or missing:
            raise HyperparameterError(
                f"{self.name}: expected a value for each of the options {', '.join(self.options)}; "
                + (f"unknown {', '.join(unknown)}" if unknown else f"missing {', '.join(missing)}")
            )
        return {name: option.check(self.name, given[name]) for name, option in self.options.items()}

    def rule(self, **options: object) -> Rule:
        """Trace the family at these options; every option without a default must be given.

        Raises:
            HyperparameterError: an option that is unknown, missing, or not among its choices.
        """
        return _trace(self.name, tuple(self.check_options(options).items()))


@cache
def _trace(name: str, options: tuple[tuple[str, OptionValue], ...]) -> Rule:
    fam = families()[name]
    program = _program(fam, dict(options))
    read = {i.name for i in program.inputs("hyper")}
    if fam.fit is not None:
        # Parts of a group that differ only in what their shapes decide share one set of values.
        shaped = {o for other in fam.fits for o in other}
        read |= _read_by_fits(name, tuple(o for o in options if o[0] not in shaped))
    slots = tuple(s.sized(dict(options)) for s in fam.slots.values() if s.name in program.outputs)
    # Every optimizer has a learning rate, if only to ignore it.
    needed = read | {"lr"} | {s.init for s in slots if s.init in fam.hyperparameters}
    hypers = tuple(h for h in fam.hyperparameters.values() if h.name in needed)
    return Rule(name, dict(options), program, slots, hypers, fam.source)


@cache
def _read_by_fits(name: str, options: tuple[tuple[str, OptionValue], ...]) -> frozenset[str]:
    """Hyperparameters that the rule reads at any setting of what shapes decide."""
    fam = families()[name]
    return frozenset(
        i.name for other in fam.fits for i in _program(fam, {**dict(options), **other}).inputs("hyper")
    )


def _program(fam: Family, options: Mapping[str, OptionValue]) -> Program:
    """The family's function at these options, with what stands around it."""
    from .wrapped import wrapped

    update = Update(fam, options)
    return update.tracer.finish(**wrapped(update, lambda: fam.function(update, **options)))


_FAMILIES: dict[str, Family] = {}


def families() -> Mapping[str, Family]:
    """The registered families by name."""
    from . import catalogue  # noqa: F401  (imports every family file, which registers itself)

    return _FAMILIES


def register(fam: Family) -> None:
    """Add a family; a second one of the same name is an error."""
    if fam.name in _FAMILIES:
        raise UnknownNameError(f"family {fam.name!r} is registered twice; choose another name")
    _FAMILIES[fam.name] = fam


def family(
    name: str,
    *,
    options: tuple[Option, ...],
    hyperparameters: tuple[Hyper, ...],
    slots: tuple[Slot, ...],
    source: str,
    fit: Fit | None = None,
    fits: tuple[Mapping[str, OptionValue], ...] = (),
) -> Callable[[Callable[..., Mapping[str, Value]]], Family]:
    """Register the decorated function as a family, with the options that all families share."""
    from .common import GRADIENT_HYPERPARAMETERS, GRADIENT_OPTIONS, SHARED_SLOTS

    def wrap(function: Callable[..., Mapping[str, Value]]) -> Family:
        def by_name(rows: tuple[Any, ...]) -> dict[str, Any]:
            return {r.name: r for r in rows}

        fam = Family(
            name,
            function,
            by_name((*options, *GRADIENT_OPTIONS)),
            by_name((*hyperparameters, *GRADIENT_HYPERPARAMETERS)),
            by_name((*slots, *SHARED_SLOTS)),
            source,
            function.__doc__ or "",
            fit,
            fits,
        )
        register(fam)
        return fam

    return wrap
