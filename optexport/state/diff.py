"""Two states, slot by slot, across formats."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..rules import name_of
from .inspect import blocks
from .training import TrainingState

__all__ = ["Difference", "SlotDifference", "diff"]


@dataclass(frozen=True)
class SlotDifference:
    """relative: max|a − b| / max|b| (0 where bytes are equal, NaN included); None where one side
    lacks the tensor or shapes differ."""

    param: str
    slot: str
    relative: float | None
    bitwise: bool
    note: str = ""


@dataclass
class Difference:
    """rules, hyperparameters and steps that differ, one sentence each; every slot compared."""

    sentences: list[str] = field(default_factory=list)
    slots: list[SlotDifference] = field(default_factory=list)

    def equal(self, rtol: float) -> bool:
        """Whether nothing differs by more than ``rtol``."""
        return not self.sentences and all(s.relative is not None and s.relative <= rtol for s in self.slots)


def diff(a: TrainingState, b: TrainingState) -> Difference:
    """Compare rules, hyperparameters, steps, slots, and parameters where both carry them."""
    out = Difference()
    for name in sorted(set(a.names) ^ set(b.names)):
        out.sentences.append(f"parameter {name!r} is only in {'A' if name in a.names else 'B'}")
    for name in a.names:
        if name not in b.names:
            continue
        _groups(name, a, b, out)
        if a.steps[name] != b.steps[name]:
            out.sentences.append(f"parameter {name!r}: step {a.steps[name]} and {b.steps[name]}")
        left, right = dict(a.slots.get(name, {})), dict(b.slots.get(name, {}))
        if name in a.params and name in b.params:
            left, right = {"value": a.params[name], **left}, {"value": b.params[name], **right}
        for slot in dict.fromkeys((*left, *right)):
            out.slots.append(_slot(name, slot, left.get(slot), right.get(slot)))
    out.sentences = list(dict.fromkeys(out.sentences))
    return out


def _groups(name: str, a: TrainingState, b: TrainingState, out: Difference) -> None:
    left, right = a.spec.group(name), b.spec.group(name)
    if left.rule.digest_at(left.hyperparameters) != right.rule.digest_at(right.hyperparameters):
        names = [name_of(g.rule, g.hyperparameters) for g in (left, right)]
        out.sentences.append(f"rule: {names[0]} and {names[1]}")
    values, others = left.values(step=a.steps[name]), right.values(step=b.steps[name])
    sentences = [
        f"hyperparameter {h}: {values[h]:g} and {others[h]:g}"
        for h in values
        if h in others and values[h] != others[h]
    ]
    for h in {**left.schedules, **right.schedules}:
        told = [g.schedules[h].told() if h in g.schedules else "no schedule" for g in (left, right)]
        if told[0] != told[1]:
            sentences.append(f"schedule of {h}: {told[0]} and {told[1]}")
    for sentence in sentences:
        if not any(s.startswith(f"{sentence} (") for s in out.sentences):
            out.sentences.append(f"{sentence} (parameter {name!r} first)")


def _slot(name: str, slot: str, a: np.ndarray | None, b: np.ndarray | None) -> SlotDifference:
    if a is None or b is None:
        return SlotDifference(name, slot, None, False, f"only in {'B' if a is None else 'A'}")
    if a.shape != b.shape:
        return SlotDifference(name, slot, None, False, f"shapes {list(a.shape)} and {list(b.shape)}")
    top = bottom = 0.0
    bitwise = a.dtype == b.dtype
    with np.errstate(all="ignore"):
        for p, q in zip(blocks(a), blocks(b), strict=True):
            x, y = p.astype(np.float64), q.astype(np.float64)
            bitwise = bitwise and p.tobytes() == q.tobytes()
            gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
            top = max(top, float(np.nan_to_num(gap, nan=np.inf, posinf=np.inf).max(initial=0.0)))
            bottom = max(bottom, float(np.nan_to_num(np.abs(y), nan=0.0, posinf=0.0).max(initial=0.0)))
    relative = 0.0 if top == 0 else top / bottom if bottom else float("inf")
    return SlotDifference(name, slot, relative, bitwise)
