"""Comparing a backend's run with the referee's, parameters and every slot, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dialects import find
from ..reference import init, step
from ..specs import Spec
from ..state import TrainingState
from .bounds import rounding_bound

__all__ = ["Mismatch", "compare_runs", "referee", "relative_error"]

Tensors = Mapping[str, np.ndarray]
Snapshot = tuple[Tensors, Mapping[str, Tensors]]


@dataclass(frozen=True)
class Mismatch:
    """The first value outside its bound. update: 1 is the first; slot ``param`` is the parameter."""

    update: int
    param: str
    slot: str
    error: float
    bound: float

    def __str__(self) -> str:
        return (
            f"update {self.update}, parameter {self.param!r}, {self.slot}: relative error {self.error:.3g}, "
            f"bound {self.bound:.3g}"
        )


def relative_error(a: Any, b: Any) -> float:
    """max|a − b| / max|b|; infinite where one has NaN and the other not."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    top = float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
    scale = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
    return 0.0 if top == 0 else top / scale if scale else float("inf")


def referee(
    spec: Spec,
    params: Tensors,
    grads: Iterable[Tensors],
    lrs: Sequence[float],
    state: TrainingState | None = None,
    noise: Sequence[Tensors] | None = None,
) -> Iterator[TrainingState]:
    """The referee's state after each update, in float64.

    noise: of each update, for rules that take it.
    """
    state = init(spec, params) if state is None else state
    for i, (g, lr) in enumerate(zip(grads, lrs, strict=True)):
        state = step(state, g, lr=lr, noise=None if noise is None else noise[i])
        yield state


def compare_runs(
    states: Iterable[TrainingState],
    snapshots: Iterable[Snapshot],
    dtype: Any,
    *,
    native: str | None = None,
    amplification: float = 1.0,
    floor: float = 0.0,
) -> tuple[Mismatch | None, float]:
    """The first mismatch, and the largest error over its bound seen (1 is at the bound).

    native: ``framework:optimizer`` under whose names the snapshots' slots stand, None for the rule's.
    amplification: see `rounding_bound`. floor: added to the bound (a translation's own).
    """
    entry = find(native) if native else None
    names = dict(entry.slots) if entry else None
    worst = 0.0
    for update, (state, (params, slots)) in enumerate(zip(states, snapshots, strict=True), 1):
        for name in state.names:
            rule = state.spec.group(name).rule
            bound = floor + rounding_bound(rule.program, update, dtype, amplification)
            pairs: list[tuple[str, Any, Any]] = [("param", params[name], state.params[name])]
            roles = names or {s: s for s in state.slots[name]}
            pairs += [
                (
                    n,
                    slots[name].get(n),
                    entry.to_native(n, state.slots[name][r], rule) if entry else state.slots[name][r],
                )
                for n, r in roles.items()
                if r in state.slots[name]
            ]
            for slot, got, want in pairs:
                error = float("inf") if got is None else relative_error(got, want)
                worst = max(worst, error / bound)
                if error > bound:
                    return Mismatch(update, name, slot, error, bound), worst
    return None, worst
