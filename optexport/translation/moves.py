"""A move: the smallest translation, between two values of one option (or a few) of a family.

A move states its maps as IR expressions on the old slots, hyperparameters, step and parameter:

    @move("sgd", "fold …", momentum=("unfolded", "folded"), level="conditional", condition="…")
    def fold(x):
        return {"slot:momentum_buffer": -x.hyper("lr") * x.slot("momentum_buffer")}

Outputs are keyed ``slot:NAME``, ``hyper:NAME``, ``step`` and ``bound`` (the relative change of an
update, elementwise). What a move does not mention stays as it is; a slot that the new rule has and
nothing mentions is an error that the tests catch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..ir import Program, Tracer, Value, sweep
from ..reference import run
from ..rules import families
from ..rules.base import OptionValue
from .verdict import Verdict

__all__ = ["ANY", "Move", "MoveInput", "Situation", "move", "moves"]

ANY = object()
Options = Mapping[str, OptionValue]
Maps = Mapping[str, "Value | float"]


@dataclass(frozen=True)
class Situation:
    """What is known where a move is considered.

    family: the rule family. values: hyperparameters, the learning rate being that of the next step (multiplied out).
    step: smallest number of completed updates over the parameters, None where no state is at hand.
    tensors: how many parameters the optimizer has, None where no state is at hand.
    """

    family: str
    options: Options
    values: Mapping[str, float]
    step: int | None = None
    tensors: int | None = None


class MoveInput:
    """What a move's maps may read."""

    def __init__(self) -> None:
        self.tracer = Tracer()
        self.param, self.step = self.tracer.param, self.tracer.step
        self.hyper, self.slot = self.tracer.hyper, self.tracer.slot


@dataclass(frozen=True)
class Move:
    """See the module's text.

    change: option -> (from, to); `ANY` matches every value but ``to``.
    when: guard on the situation; the move does not exist where it is False.
    condition, bound_text, dropped: may name hyperparameters in braces, filled in with their values.
    drops: slots that the new rule does not have.
    """

    family: str
    name: str
    change: Mapping[str, tuple[Any, Any]]
    maps: Callable[[MoveInput], Maps] | None = None
    level: str = "exact"
    when: Callable[[Situation], bool] = lambda _: True
    condition: str = ""
    bound_text: str = ""
    dropped: str = ""
    drops: tuple[str, ...] = ()

    def applies(self, at: Situation) -> bool:
        return all(
            at.options[o] != to if start is ANY else at.options[o] == start
            for o, (start, to) in self.change.items()
        ) and self.when(at)

    def options(self, old: Options) -> dict[str, OptionValue]:
        return {**old, **{o: to for o, (_, to) in self.change.items()}}

    @cached_property
    def program(self) -> Program:
        """All maps as one program."""
        x = MoveInput()
        return x.tracer.program(self.maps(x) if self.maps else {})

    def _part(self, *prefixes: str) -> Program:
        p = self.program
        return Program(p.nodes, {o: i for o, i in p.outputs.items() if o.startswith(prefixes)})

    @property
    def reads_for_hypers(self) -> set[str]:
        """Hyperparameters that the new rule's hyperparameters are made from."""
        part = self._part("hyper:")
        return {i.name for i in sweep(part).inputs("hyper")} if part.outputs else set()

    def values(self, at: Situation) -> dict[str, float]:
        """The new rule's hyperparameters."""
        new = dict(at.values)
        part = self._part("hyper:")
        if part.outputs:
            # Hyperparameter maps read hyperparameters alone; tensors stand in as empty.
            new |= {k[6:]: v for k, v in _evaluate(part, at.values, 0, {}, np.empty(0)).items()}
        rule = families()[at.family].rule(**self.options(at.options))
        return {
            h.name: new.get(h.name, h.default if h.neutral is None else h.neutral)
            for h in rule.hyperparameters
        }

    def state(
        self,
        at: Situation,
        step: int,
        slots: Mapping[str, Any],
        param: Any,
        shape: tuple[int, ...],
        dtype: Any,
    ) -> tuple[dict[str, np.ndarray], int]:
        """New slots and step of one parameter. Slots that the move does not touch keep their bytes."""
        new = {k: v for k, v in slots.items() if k not in self.drops}
        part = self._part("slot:", "step")
        if not part.outputs:
            return new, step
        made = _evaluate(part, at.values, step, slots, param)
        kept = families()[at.family].slots
        step = int(made.pop("step", step))
        for key, value in made.items():
            slot = kept[key[5:]]
            own = (
                (len(np.atleast_1d(value)), *shape)
                if slot.shape.startswith("history")
                else slot.shape_for(shape)
            )
            new[slot.name] = np.broadcast_to(np.asarray(value), own).astype(slot.dtype_for(dtype))
        return new, step

    def bound(self, at: Situation, step: int, slots: Mapping[str, Any], param: Any) -> float | None:
        """Largest relative change of an update that this parameter's state allows."""
        part = self._part("bound")
        if not part.outputs:
            return None
        value = np.asarray(_evaluate(part, at.values, step, slots, param)["bound"])
        return float(value.max(initial=0.0))

    def verdict(self, at: Situation) -> Verdict:
        """The verdict before any state is looked at."""

        def fill(text: str) -> str:
            return text.format(**{k: f"{v:g}" for k, v in at.values.items()}) if text else ""

        return Verdict(
            self.level,
            (fill(self.condition),) if self.condition else (),
            None,
            self.bound_text or None,
            (fill(self.dropped),) if self.dropped else (),
            (self.name,),
        )


def _evaluate(
    program: Program, values: Mapping[str, float], step: int, slots: Mapping[str, Any], param: Any
) -> dict[str, Any]:
    inputs: dict[str, Any] = {"param": param, "step": step}
    inputs |= {f"hyper:{k}": v for k, v in values.items()}
    inputs |= {f"slot:{k}": v for k, v in slots.items()}
    program = sweep(program)
    needed = {i.key for i in program.inputs()}
    return run(program, {k: v for k, v in inputs.items() if k in needed or k == "param"}, np.float64)


_MOVES: list[Move] = []


def move(
    family: str, name: str, *, level: str = "exact", **fields: Any
) -> Callable[[Callable[[MoveInput], Maps]], Move]:
    """Register a move; keyword arguments that are no fields of `Move` are its option changes."""
    known = {"when", "condition", "bound_text", "dropped", "drops"}
    change = {k: v for k, v in fields.items() if k not in known}
    rest = {k: v for k, v in fields.items() if k in known}

    def wrap(maps: Callable[[MoveInput], Maps]) -> Move:
        made = Move(family, name, change, maps, level, **rest)
        _MOVES.append(made)
        return made

    return wrap


def moves(family: str) -> list[Move]:
    """The moves of a family, those of every family included."""
    from . import (  # noqa: F401  (each registers its moves)
        adadelta,
        adafactor,
        adagrad,
        adam,
        adamax,
        around,
        common,
        ftrl,
        lamb,
        lars,
        lbfgs,
        muon,
        nadam,
        novograd,
        radam,
        rmsprop,
        rprop,
        schedule_free,
        sgd,
        signum,
        yogi,
    )

    return [m for m in _MOVES if m.family in ("*", family)]
