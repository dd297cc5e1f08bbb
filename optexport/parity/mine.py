"""Somebody's own optimizer beside a rule, a native optimizer, or another optimizer.

Both are stepped with the gradients of `problems` and compared after every update, parameters and the slots that
can be seen; the bound is that of `bounds`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..dialects import natives
from ..errors import HyperparameterError, OptexportError
from ..rules import Rule
from ..specs import Spec, native, spec
from .bounds import LAMBDA, rounding_bound, unit_roundoff
from .compare import referee
from .measures import Measured, SlotError, measure, relative_errors
from .problems import Problem, problem
from .runs import Snapshot
from .series import Fault, Series, expected, parted
from .subjects import Subject, SubjectError, stepped, subject
from .table import rows_of, table

__all__ = ["Checked", "check"]

# Of two optimizers of which no rule is known: no rule of the catalogue has more operations a step, those of
# matrices and histories aside (Muon, L-BFGS).
OPERATIONS = 30
# A slot whose name says nothing is the one that has its numbers after the first update, to this much.
ALIKE = 1e-3


@dataclass(frozen=True)
class Checked:
    """What `check` found. measured: slots under the names of ``against``; its fault says what is wrong with the
    optimizer apart from numbers. paired: parameter and slot of ``against`` -> the optimizer's own name. unseen: slots of
    ``against`` that could not be found in the optimizer; the parameters show what they do."""

    mine: str
    against: str
    dtype: str
    steps: int
    shapes: Mapping[str, tuple[int, ...]]
    measured: Measured
    paired: Mapping[tuple[str, str], str]
    unseen: tuple[str, ...]
    rate_drops: bool

    @property
    def passed(self) -> bool:
        return self.measured.within

    @property
    def first(self) -> dict[str, Any] | None:
        """The first value outside its bound: update, param, slot, error, bound."""
        return self.measured.first

    @property
    def sentence(self) -> str:
        """One line: the same, or the first thing that is wrong."""
        fault = self.measured.fault
        if fault is not None:
            return (
                fault.sentence if fault.sentence.startswith(self.mine) else f"{self.mine}: {fault.sentence}"
            )
        if self.passed:
            return (
                f"{self.mine} computes {self.against}: {self.steps} updates in {self.dtype} within the bound"
            )
        return f"{self.mine} does not compute {self.against}: {self.measured.sentence}"

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self._table()])

    def _table(self) -> list[str]:
        shapes = ", ".join(f"{n} {list(s)}" for n, s in self.shapes.items())
        rate = ", and the learning rate drops in the middle" if self.rate_drops else ""
        head = f"{self.steps} updates in {self.dtype} of {shapes}; the gradients hold zeros, a spike and a tiny step{rate}"
        rows: list[tuple[str, ...]] = [
            ("parameter", "slot", "first out", "worst error", "bound there", "ULP", "")
        ]
        rows += [_row(s, self.paired) for s in self.measured.slots]
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        out = [head, *(f"  {line}" for line in lines)] if self.measured.slots else [head]
        return (
            [*out, f"slots that the optimizer does not show: {', '.join(self.unseen)}"]
            if self.unseen
            else out
        )


def _row(s: SlotError, paired: Mapping[tuple[str, str], str]) -> tuple[str, ...]:
    worst = max(range(len(s.errors)), key=lambda t: s.errors[t] / s.bounds[t] if s.bounds[t] else s.errors[t])
    own = paired.get((s.param, s.slot), s.slot)
    return (
        s.param,
        s.slot,
        "–" if s.first is None else f"update {s.first}",
        f"{s.errors[worst]:.3g}",
        f"{s.bounds[worst]:.3g}",
        "far" if s.ulp_max > 2**52 else str(s.ulp_max),
        f"({own})" if own != s.slot else "",
    )


def check(
    mine: Any,
    against: Any,
    *,
    arguments: Mapping[str, Any] | None = None,
    against_arguments: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    steps: int = 30,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    gradients: str | os.PathLike[str] | None = None,
    amplification: float | None = None,
) -> Checked:
    """Compare an optimizer with a rule of the catalogue, a framework's optimizer, or another optimizer.

    mine: a ``torch.optim.Optimizer`` class or instance, a function of its parameters that makes one; an Optax
        transformation or a function that makes one; a Keras or MXNet optimizer, class or instance; a path of an
        ``.onnx`` update or training graph; a function ``f(param, grad, state, step) -> (param, state)`` over NumPy
        arrays; or ``MODULE:NAME`` of any of these.
    against: a `Spec`, a rule's name (``"adamw"``), ``"torch:AdamW"`` and the like, or what ``mine`` may be.
    arguments: of ``mine``. against_arguments: of ``against``, the same as ``mine`` where None.
    dtype: float64 where the optimizer can, else float32. seed: of the gradients. shapes: of the parameters.
    gradients: a file of recorded ones, as `gradients.recorded` reads, ``"extreme"``, or the standard ones.
    amplification: condition number of the update, as for `rounding_bound`; known for the rules that have one.

    An optimizer that raises, returns NaN, changes shapes, needs a closure or does not repeat itself is a fault of
    the result, never an exception.

    Raises:
        UnknownNameError: ``mine`` or ``against`` is nothing that can be stepped.
        HyperparameterError: the arguments of ``against``, ``dtype`` or ``steps`` are out of range.
    """
    if steps < 1:
        raise HyperparameterError(f"steps: expected at least 1, found {steps}")
    one = subject(mine, arguments)
    other = _reference(against, arguments if against_arguments is None else against_arguments)
    kind = _dtype(one, other, dtype)
    p = _problem(gradients, kind, steps, seed, one.shapes or shapes)
    drops, faults = _rates(one, other, p, kind), []
    rates = p.rates if drops else [1.0] * len(p.rates)
    got, fault = _run(one, p, rates, kind)
    faults.append(fault)
    if fault is None:
        faults.append(_repeats(one, p, rates, kind, got))
    if isinstance(other, Spec):
        want, bounds = _by_rule(other, p, rates if drops else None, kind, amplification)
    else:
        snapshots, fault = _run(other, p, rates, kind)
        if fault is not None:
            raise SubjectError(f"{fault.sentence}; expected an optimizer that runs to compare with")
        want, bounds = _series(snapshots), _between(p, kind, amplification or 1.0)
    paired = _paired(got, want)
    renamed = [
        (
            params,
            {
                n: {s: held[o] for (m, s), o in paired.items() if m == n and o in held}
                for n, held in slots.items()
            },
        )
        for params, slots in got
    ]
    measured = measure(
        _series(renamed),
        {k: v for k, v in want.items() if k[1] == "param" or k in paired} if got else {},
        bounds,
        next((f for f in faults if f is not None), None),
    )
    return Checked(
        one.name,
        other.name if isinstance(other, Subject) else _name(other),
        kind,
        len(p.grads),
        {n: np.shape(v) for n, v in p.params.items()},
        measured,
        paired,
        tuple(sorted({s for _, s in want} - {"param"} - {s for _, s in paired}))
        if isinstance(other, Spec)
        else (),
        drops,
    )


def _reference(against: Any, arguments: Mapping[str, Any] | None) -> Spec | Subject:
    if isinstance(against, Spec):
        return against
    if isinstance(against, str):
        framework, colon, _ = against.partition(":")
        if colon and framework.lower() in natives():
            return native(against, **(arguments or {}))
        if not colon and not against.endswith(".onnx"):
            return spec(against, **(arguments or {}))
    return subject(against, arguments)


def _name(reference: Spec) -> str:
    from ..rules import name_of

    group = reference.groups[-1]
    return group.native or f"the rule {name_of(group.rule, group.hyperparameters)}"


def _dtype(one: Subject, other: Spec | Subject, dtype: str | None) -> str:
    common = [d for d in one.dtypes if isinstance(other, Spec) or d in other.dtypes]
    if isinstance(other, Spec):
        common = _offered(other, common)
    if not common:
        assert isinstance(other, Subject)
        raise HyperparameterError(
            f"{one.name} runs in {', '.join(one.dtypes)}, {other.name} in {', '.join(other.dtypes)}: expected a dtype "
            "of both"
        )
    if dtype is not None and dtype not in common:
        raise HyperparameterError(f"dtype: expected one of {', '.join(common)}, found {dtype!r}")
    return dtype or common[0]


def _offered(reference: Spec, dtypes: list[str]) -> list[str]:
    """The dtypes in which a native optimizer is its rule: some frameworks compute parts in float32 always."""
    group = reference.groups[-1]
    if any(g.rule.program.inputs("noise") or g.rule.program.inputs("hessian") for g in reference.groups):
        raise HyperparameterError(
            f"{_name(reference)}: expected a rule of gradients alone, found one that draws noise or takes a Hessian, "
            "which an optimizer does not show"
        )
    rows = [r for r in rows_of(group.native or "") if _same(r.spec().groups[-1].rule, group.rule)]
    held = {d for r in rows for d in r.dtypes}
    return [d for d in dtypes if d in held] or dtypes if rows else dtypes


def _problem(
    gradients: str | os.PathLike[str] | None,
    dtype: str,
    steps: int,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> Problem:
    from .gradients import extreme, recorded

    if gradients is None:
        return problem(dtype, steps, seed, shapes=shapes)
    if gradients == "extreme":
        return extreme(dtype, steps, seed)
    return recorded(gradients, dtype, steps, seed)


def _rates(one: Subject, other: Spec | Subject, p: Problem, dtype: str) -> bool:
    """Whether the learning rate of both can be changed between steps."""
    if isinstance(other, Spec):
        values = other.groups[-1].hyperparameters
        group = other.groups[-1]
        # Where a native optimizer is its rule at a constant rate alone, the table's row says so.
        fixed = any(
            r.drop == 1 and _same(r.spec().groups[-1].rule, group.rule) for r in rows_of(group.native or "")
        )
        can = "lr" in values and other.one_lr and not group.schedules and not fixed
    else:
        can = _can_change(other, p, dtype)
    return can and _can_change(one, p, dtype)


def _can_change(made: Subject, p: Problem, dtype: str) -> bool:
    try:
        return made.start(p.params, dtype).rates
    except Exception:
        return False  # the run says why


def _run(made: Subject, p: Problem, rates: list[float], dtype: str) -> tuple[list[Snapshot], Fault | None]:
    """The updates that were complete, and what went wrong then."""
    done: list[Snapshot] = []
    try:
        for snapshot in stepped(made, p.params, p.grads, rates, dtype):
            done.append(snapshot)
    except SubjectError as e:
        kind = "closure" if "closure" in str(e) else "shape" if "shape" in str(e) else "raises"
        return done, Fault(kind, str(e), len(done) + 1)
    except OptexportError as e:
        return done, Fault("raises", f"{made.name}: {e}", len(done) + 1)
    return done, None


def _repeats(made: Subject, p: Problem, rates: list[float], dtype: str, got: list[Snapshot]) -> Fault | None:
    again, fault = _run(made, p, rates, dtype)
    if fault is not None:
        return Fault(
            "nondeterministic", f"{made.name}: runs once and not twice: {fault.sentence}", fault.update
        )
    bare: list[list[Snapshot]] = [[(params, {}) for params, _ in run] for run in (got, again)]
    found = parted(_series(bare[0]), _series(bare[1]))
    return None if found is None else replace(found, sentence=f"{made.name}: {found.sentence}")


def _series(snapshots: list[Snapshot]) -> Series:
    """One array a slot; a slot that comes later or goes is left out before or after, and counts as missing."""
    kept: dict[tuple[str, str], list[np.ndarray]] = {}
    for params, slots in snapshots:
        for name, value in params.items():
            kept.setdefault((name, "param"), []).append(np.asarray(value))
            for slot, held in slots.get(name, {}).items():
                kept.setdefault((name, slot), []).append(np.asarray(held))
    return {k: np.stack(v) for k, v in kept.items() if len(v) == len(snapshots)}


def _by_rule(
    reference: Spec, p: Problem, rates: list[float] | None, dtype: str, amplification: float | None
) -> tuple[Series, dict[str, list[float]]]:
    """The referee's run and what rounding explains."""
    lr = reference.groups[-1].hyperparameters.get("lr")
    lrs: Any = [None] * len(p.grads) if rates is None else [lr * r for r in rates]  # type: ignore[operator]
    settled = reference.settle(p.params)
    named = {g.native for g in settled.groups}
    name = named.pop() if len(named) == 1 else None
    states = list(referee(reference, p.params, p.grads, lrs))
    # (Unsettled: what the shapes decide, a row decides by its own.)
    known, floor = _known(reference.groups[-1].rule, name, dtype)
    bounds = {}
    for param in p.params:
        rule = settled.group(param).rule
        times = known if amplification is None else amplification
        bounds[param] = [
            floor + rounding_bound(rule.program, t, dtype, times) for t in range(1, len(states) + 1)
        ]
    return expected(states, name or None), bounds


def _known(rule: Rule, name: str | None, dtype: str) -> tuple[float, float]:
    """Amplification of a rule and floor of a native optimizer, as the parity table has them with their reasons."""
    rows = [r for r in table() if r.amplification != 1 or (name and r.optimizer.lower() == name.lower())]
    alike = [r for r in rows if _same(r.spec().groups[-1].rule, rule)]
    floors = [r.floor_in(dtype) for r in alike if name and r.optimizer.lower() == name.lower()]
    return max((r.amplification for r in alike), default=1.0), max(floors, default=0.0)


def _same(a: Rule, b: Rule) -> bool:
    return a.family == b.family and dict(a.options) == dict(b.options)


def _between(p: Problem, dtype: str, amplification: float) -> dict[str, list[float]]:
    """What rounding explains between two optimizers of which no rule is known: both round."""
    u = amplification * LAMBDA * unit_roundoff(dtype)
    bound = [u * math.sqrt(2 * OPERATIONS * t) for t in range(1, len(p.grads) + 1)]
    return dict.fromkeys(p.params, bound)


def _paired(got: list[Snapshot], want: Series) -> dict[tuple[str, str], str]:
    """Parameter and slot of the reference -> the optimizer's, by name, by the last part of it, or by numbers."""
    out: dict[tuple[str, str], str] = {}
    for name, held in got[0][1].items() if got else ():
        wanted = [slot for n, slot in want if n == name and slot != "param"]
        taken: set[str] = set()
        for kind in ("name", "end of the name", "numbers"):
            for slot in wanted:
                match = [o for o in held if o not in taken and _fits(kind, slot, o, held, want[name, slot])]
                if (name, slot) not in out and match:
                    out[name, slot] = match[0]
                    taken.add(match[0])
    return out


def _fits(kind: str, slot: str, own: str, held: Mapping[str, np.ndarray], want: np.ndarray) -> bool:
    if kind == "numbers":
        return _alike(held[own], want)
    return (own if kind == "name" else own.rpartition(".")[2]) == slot


def _alike(own: np.ndarray, want: np.ndarray) -> bool:
    """Whether two slots have the same numbers, not all 0, after the first update."""
    return bool(
        own.shape == want.shape[1:] and np.any(want[0]) and relative_errors(own[None], want[:1])[0] < ALIKE
    )
