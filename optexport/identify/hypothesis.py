"""A supposition about a black box: a rule, its values, and what it would have done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..ir import Program
from ..ir.analysis import Reach, reach
from ..rules import Hyper, Rule, Slot, families
from ..rules.base import OptionValue
from ..specs import Group, Spec
from .probes import Probe
from .vectorized import compiled

__all__ = ["Hypothesis", "Member", "simulate"]

Array = np.ndarray[Any, Any]
Options = Mapping[str, OptionValue]


@dataclass(frozen=True)
class Member:
    """What happens to some of the parameters: their program, their slots, and values of their own."""

    params: tuple[str, ...]
    program: Program
    slots: tuple[Slot, ...]
    own: Mapping[str, float] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def _members(
    family: str, options: tuple[tuple[str, OptionValue], ...], shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> tuple[Member, ...]:
    rule = families()[family].rule(**dict(options))
    spec = Spec((Group(rule, {h.name: h.default for h in rule.hyperparameters}),)).settle(dict(shapes))
    counted = {h.name for h in rule.hyperparameters if h.numbers}
    return tuple(
        Member(
            g.params or (),
            g.rule.program,
            g.rule.slots,
            {k: v for k, v in g.hyperparameters.items() if k in counted},
        )
        for g in spec.groups
    )


@dataclass(frozen=True)
class Hypothesis:
    """family and options: of a rule. values: of its hyperparameters.

    first: updates that count as done before the first. edit: what is changed in the rule's program,
    as words and a function of it, None for the rule itself. extra: hyperparameters that the edit adds.
    """

    family: str
    options: Options
    values: Mapping[str, float]
    first: float = 0.0
    edit: tuple[str, Callable[[Program], Program | None]] | None = None
    extra: tuple[Hyper, ...] = ()

    @cached_property
    def rule(self) -> Rule:
        return families()[self.family].rule(**self.options)

    @property
    def hyperparameters(self) -> tuple[Hyper, ...]:
        return tuple(h for h in self.rule.hyperparameters if not h.numbers) + self.extra

    @cached_property
    def elementwise(self) -> bool:
        return reach(self.rule.program) is Reach.ELEMENTWISE

    def members(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Member, ...]:
        """The rule's programs for parameters of these shapes.

        Raises:
            HyperparameterError: a shape that the family refuses. ValueError: the edit does not apply.
        """
        made = _members(self.family, tuple(self.options.items()), tuple(shapes.items()))
        if self.edit is None:
            return made
        out = []
        for member in made:
            changed = self.edit[1](member.program)
            if changed is None:
                raise ValueError("the edit does not apply")
            out.append(replace(member, program=changed))
        return tuple(out)

    def at(self, values: Mapping[str, float]) -> Hypothesis:
        return replace(self, values=dict(values))


def simulate(
    h: Hypothesis,
    probe: Probe,
    settings: Mapping[str, Array],
    first: Array | None = None,
    seen: list[dict[str, Array]] | None = None,
    slots: bool = False,
) -> Iterator[tuple[dict[str, Array], dict[str, dict[str, Array]]]]:
    """Parameters after each step, with a leading axis over settings, and slots if asked for.

    settings: hyperparameter -> values, all of one length. first: updates that count as done, one a
    setting. seen: the parameters that the black box had after each step; each step then goes on from
    those, and slots alone are simulated.
    """
    count = len(next(iter(settings.values())))
    units = [unit for m in h.members(probe.shapes) for unit in _units(m, probe)]
    states = [u.start(settings, count) for u in units]
    before = {n: np.asarray(v, np.float64)[None] for n, v in probe.params.items()}
    base = np.zeros(count) if first is None else first
    with np.errstate(all="ignore"):
        for t, (grads, rate) in enumerate(zip(probe.grads, probe.rates, strict=True)):
            running: list[Any] = []
            noise = probe.noise[t] if probe.noise else None
            for unit, state in zip(units, states, strict=True):
                running.append(unit.run(unit.inputs(before, grads, noise, state, settings, rate, base + t)))
            made = _lockstep(running)
            after: dict[str, Array] = {}
            for unit, state, new in zip(units, states, made, strict=True):
                after |= unit.split(new.pop("param"), count)
                state |= new
            held = {}
            if slots:
                held = {
                    n: v for u, s in zip(units, states, strict=True) for n, v in u.slots_of(s, count).items()
                }
            yield after, held
            before = (
                after if seen is None else {n: np.asarray(v, np.float64)[None] for n, v in seen[t].items()}
            )


def _lockstep(running: list[Any]) -> list[dict[str, Array]]:
    """Run generators side by side; the n-th sum over the group of each is added up over all."""
    done: dict[int, dict[str, Array]] = {}
    totals: dict[int, Any] = dict.fromkeys(range(len(running)))
    waiting = dict(enumerate(running))
    while waiting:
        parts: dict[int, Any] = {}
        for i, one in list(waiting.items()):
            try:
                parts[i] = one.send(totals[i])
            except StopIteration as e:
                done[i] = e.value
                del waiting[i]
        if parts:
            total = sum(p.reshape(p.shape[0]) for p in parts.values())
            totals.update({i: total.reshape(-1, *([1] * (p.ndim - 1))) for i, p in parts.items()})
    return [done[i] for i in range(len(running))]


class _Unit:
    """Parameters that run as one array: one of them, or several elementwise ones laid end to end."""

    def __init__(self, member: Member, names: tuple[str, ...], probe: Probe, flat: bool) -> None:
        self.member, self.names, self.flat = member, names, flat
        self.shapes = {n: probe.shapes[n] for n in names}
        self.run = compiled(member.program)
        self.first = self._joined({n: np.asarray(probe.params[n], np.float64)[None] for n in names})
        self.ndim = self.first.ndim - 1
        self.needs = {i.key for i in member.program.inputs()}

    def _joined(self, values: Mapping[str, Array]) -> Array:
        if not self.flat:
            return values[self.names[0]]
        return np.concatenate([values[n].reshape(values[n].shape[0], -1) for n in self.names], axis=1)

    def _scalar(self, values: Array) -> Array:
        return values.reshape(-1, *([1] * self.ndim))

    def start(self, settings: Mapping[str, Array], count: int) -> dict[str, Array]:
        out = {}
        for slot in self.member.slots:
            if slot.init == "param":
                value = np.broadcast_to(self.first, (count, *self.first.shape[1:]))
            else:
                number = np.zeros(count) if slot.init == "zeros" else settings.get(slot.init)
                number = np.full(count, float(slot.init)) if number is None else number
                shape = slot.shape_for(self.first.shape[1:]) or (1,) * self.ndim
                value = np.broadcast_to(number.reshape(-1, *([1] * len(shape))), (count, *shape))
            out[slot.name] = value
        return out

    def inputs(
        self,
        before: Mapping[str, Array],
        grads: Mapping[str, Any],
        noise: Mapping[str, Any] | None,
        state: Mapping[str, Array],
        settings: Mapping[str, Array],
        rate: float,
        step: Array,
    ) -> dict[str, Array]:
        x = {
            "param": self._joined(before),
            "grad": self._joined({n: np.asarray(grads[n], np.float64)[None] for n in self.names}),
            "step": self._scalar(step),
        }
        if noise is not None:
            x["noise"] = self._joined({n: np.asarray(noise[n], np.float64)[None] for n in self.names})
        x |= {f"hyper:{k}": self._scalar(v * rate if k == "lr" else v) for k, v in settings.items()}
        x |= {f"hyper:{k}": self._scalar(np.array([v])) for k, v in self.member.own.items()}
        x |= {f"slot:{k}": v for k, v in state.items()}
        return x

    def split(self, joined: Array, count: int) -> dict[str, Array]:
        joined = np.broadcast_to(joined, (count, *self.first.shape[1:]))
        if not self.flat:
            return {self.names[0]: joined}
        sizes = list(itertools.accumulate(int(np.prod(self.shapes[n])) for n in self.names))
        parts = np.split(joined, sizes[:-1], axis=1)
        return {n: p.reshape(count, *self.shapes[n]) for n, p in zip(self.names, parts, strict=True)}

    def slots_of(self, state: Mapping[str, Array], count: int) -> dict[str, dict[str, Array]]:
        out: dict[str, dict[str, Array]] = {n: {} for n in self.names}
        for slot in self.member.slots:
            if slot.shape != "param":
                continue
            for name, value in self.split(state[slot.name], count).items():
                out[name][slot.name] = value
        return out


def _units(member: Member, probe: Probe) -> list[_Unit]:
    if reach(member.program) is Reach.ELEMENTWISE:
        return [_Unit(member, member.params, probe, True)]
    return [_Unit(member, (n,), probe, False) for n in member.params]
