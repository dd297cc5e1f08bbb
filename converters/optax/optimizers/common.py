"""What every Optax alias has (``optax/_src/alias.py``).

An alias is a chain of transformations: a preconditioner, then what is added or scaled after it.
Learning rates are numbers here; a schedule is part of a spec. ``weight_decay`` stands between the
preconditioner and the learning rate, so it is decoupled: ``w − η(u + λw)``. What stands before the
preconditioner (L2 decay, clipping, centring) is said by a chain: see ``chain.py``.

| argument | a rule's |
|---|---|
| ``learning_rate`` | ``lr``; a function of the step is refused |
| ``weight_decay`` | option ``decay``: ``decoupled`` |
| ``mask``, ``weight_decay_mask`` | refused: parameter groups say the same |
| ``mu_dtype``, ``accumulator_dtype`` | refused: state has the parameter's dtype |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules import families
from optexport.rules.base import OptionValue

__all__ = [
    "COUNT",
    "EMPTY",
    "LINKS_KEY",
    "NEXT_COUNT",
    "NUMBER",
    "RATE",
    "Arguments",
    "Constant",
    "Curvatures",
    "Each",
    "Gathered",
    "Guarded",
    "OptaxNative",
    "Ring",
    "Shared",
    "State",
    "common",
    "fields",
    "marked",
    "native",
    "scheduled",
]

Arguments = Mapping[str, Any]

# A state as Optax nests it: a tuple for a chain, a dictionary for a named tuple (or a dictionary),
# text for a slot (one array a parameter, under the parameters' own tree), `COUNT` for the step
# count, `NEXT_COUNT` for one that starts at 1, a number or `Constant` for an entry that never changes.
State = Any
COUNT = "#count"
NEXT_COUNT = "#count+1"
EMPTY: Mapping[str, Any] = {}
# Among a group's arguments: the links of the chain that it was given as, beside the alias' own.
LINKS_KEY = "#links"


class _Empty(dict[str, State]):
    """An empty state that is told from the others."""


# That of the learning rate, which holds a count where the rate is a schedule; by default the last empty one.
RATE = _Empty()
# In its place where Optax takes no schedule.
NUMBER = _Empty()


def marked(layout: State) -> State:
    """``layout`` with `RATE` where its learning rate is."""
    if isinstance(layout, tuple):
        if any(isinstance(part, _Empty) for part in layout):
            return layout
        last = max((i for i, part in enumerate(layout) if part == EMPTY), default=None)
        return tuple(RATE if i == last else part for i, part in enumerate(layout))
    if isinstance(layout, Mapping):
        inside = ("inner_states", "inner_state", "base_optimizer_state")
        return {
            k: {n: marked(v) for n, v in part.items()}
            if k == "inner_states"
            else marked(part)
            if k in inside
            else part
            for k, part in layout.items()
        }
    return layout


def scheduled(layout: State) -> State:
    """``layout`` of an optimizer whose learning rate is a schedule."""
    if layout is RATE:
        return {"count": COUNT}
    if isinstance(layout, tuple):
        return tuple(map(scheduled, layout))
    if isinstance(layout, Gathered):
        return Gathered(scheduled(layout["inner_opt_state"]), layout.every)
    if isinstance(layout, Guarded):
        return Guarded(scheduled(layout["inner_state"]), layout.counted)
    if isinstance(layout, Mapping):
        return {k: scheduled(part) for k, part in layout.items()}
    return layout


@dataclass(frozen=True)
class Constant:
    """An entry that never changes."""

    value: Any


@dataclass(frozen=True)
class Shared:
    """A scalar slot that the optimizer has once for all parameters."""

    slot: str


@dataclass(frozen=True)
class Each:
    """A list of arrays for each parameter, the slots ``slot[0]``, ``slot[1]``, …"""

    slot: str


@dataclass(frozen=True)
class Ring:
    """A history as a ring: update number t writes its item at (t − 2) mod m. The slot has it in order, the
    newest last."""

    slot: str


@dataclass(frozen=True)
class Curvatures:
    """What follows from two rings: 1 / yᵀs of each pair over all parameters, 0 where that is 0."""

    first: str
    second: str


class Gathered(dict[str, State]):
    """The state of `optax.MultiSteps` around another: ``every`` calls make one update."""

    def __init__(self, inner: State, every: int) -> None:
        super().__init__(
            mini_step="#calls since the last update",
            gradient_step="#updates",
            inner_opt_state=inner,
            acc_grads="accumulated_grad",
            skip_state=EMPTY,
        )
        self.every = every


class Guarded(dict[str, State]):
    """The state of `optax.apply_if_finite` around another.

    counted: whether the rule reads the number of calls that were not skipped (slot ``updates``).
    """

    def __init__(self, inner: State, counted: bool) -> None:
        super().__init__(
            notfinite_count=Shared("bad_updates"),
            last_finite="#whether",
            total_notfinite="#all",
            inner_state=inner,
        )
        self.counted = counted


# What chains put around any alias: see ``chain.py``.
_AROUND = tuple((s, s) for s in ("accumulated_grad", "updates", "bad_updates"))
_NAMES = ("mask", "weight_decay_mask")
_DTYPES = ("mu_dtype", "accumulator_dtype")


def fields(names: str, **others: Any) -> dict[str, Any]:
    """The named tuple with these fields: ``count`` counts steps, any other holds the slot of its name."""
    return {**{n: COUNT if n == "count" else n for n in names.split()}, **others}


@dataclass(frozen=True)
class OptaxNative(Native):
    """An Optax alias.

    transform: the preconditioner's own name (``scale_by_adam``), under which a chain may hold it with
        the alias' arguments other than ``learning_rate`` and ``weight_decay``; empty if none does
        the same.
    state: complete arguments -> the alias' state, nested as Optax nests it.
    """

    transform: str = ""
    state: Callable[[Arguments], State] = lambda _: ()


def common(a: Arguments) -> dict[str, OptionValue]:
    """The options that every family has; ``decay`` is that of ``weight_decay``."""
    return {
        "maximize": False,
        "rescale": False,
        "clip": "none",
        "scalars": "float64",
        "decay": "decoupled" if a.get("weight_decay") else "none",
    }


def native(
    name: str,
    family: str,
    arguments: Arguments,
    options: Callable[[Arguments], Mapping[str, OptionValue]],
    *,
    state: Callable[[Arguments], State],
    links: Mapping[str, Link],
    slots: Sequence[tuple[str, str]] = (),
    variants: Sequence[Arguments] = ({},),
    transform: str = "",
    **others: Any,
) -> OptaxNative:
    """The record of one alias.

    arguments: its own with Optax' defaults, without ``learning_rate`` (which Optax has no default
        for; 1e-3 here) unless that is another number. options: the family's own; `common` is added,
        and may be overwritten. state, transform: see `OptaxNative`. variants: its own; weight decay
        is added where the alias has it. The rest is as in `Native`.
    """
    validate = others.pop("validate", lambda _: None)

    def check(a: Arguments) -> None:
        _check(name, a)
        validate(a)

    decay: Sequence[Arguments] = ({},)
    if "weight_decay" in arguments:
        decay = ({"weight_decay": 0.0}, {"weight_decay": 1.0})
        links = {"weight_decay": Link("weight_decay"), **links}
    return OptaxNative(
        "optax",
        name,
        family,
        arguments={"learning_rate": 1e-3, **arguments},
        # L-BFGS has no decay.
        options=lambda a: {
            k: v
            for k, v in {**common(a), **options(a)}.items()
            if k != "decay" or "decay" in families()[family].options
        },
        links={"lr": Link("learning_rate"), **links},
        slots=(*slots, *_AROUND),
        variants=tuple({**v, **d} for v in variants for d in decay),
        aliases={"lr": "learning_rate"},
        inert=others.pop("inert", frozenset()) | {LINKS_KEY},
        validate=check,
        transform=transform,
        state=lambda a: _chained(a[LINKS_KEY]) if LINKS_KEY in a else marked(state(a)),
        **others,
    )


def _chained(links: Any) -> State:
    """The state of a chain, in which this alias' is one part."""
    from ..dialect import chain_state  # every alias, which the links may name

    return chain_state(links)


def _check(name: str, a: Arguments) -> None:
    for argument, value in a.items():
        found = f"optax:{name}: argument {argument!r} expected"
        if callable(value):
            raise HyperparameterError(
                f"{found} a number, found a function; give the number, and the schedule as the spec's"
            )
        if argument in _NAMES and value not in (None, True):
            raise HyperparameterError(f"{found} None, found {value!r}; give parameter groups instead")
        if argument in _DTYPES and value is not None:
            raise HyperparameterError(
                f"{found} None, found {value!r}; state is kept in the parameter's dtype"
            )
