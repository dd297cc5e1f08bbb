"""Gradients that make an optimizer show what it is.

Every element of a parameter is an experiment of its own where a rule is elementwise, so one run holds
them all: zero gradients on nonzero weights (decay), one gradient for ever, alternating signs, a single
impulse (momentum, dampening, Nesterov), scales from 10⁻⁸ to 30 (where ε stands, clipping), weights
that start at 0 (steps seen without rounding), a step of zeros, a spike, and, where the learning rate
can be set, a change of it. Two tensors share elements, so that a rule which looks at a whole tensor is
told from one that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["FREE", "MATRICES", "Probe", "probe"]

# Every rank that a rule of the catalogue treats in its own way.
FREE: Mapping[str, tuple[int, ...]] = {"w": (7, 5), "z": (4, 6), "s": (30,), "b": (5,), "k": (2, 3, 4)}
# For optimizers of matrices alone.
MATRICES: Mapping[str, tuple[int, ...]] = {"w": (7, 5), "z": (4, 6), "s": (5, 6), "b": (5, 5)}


@dataclass(frozen=True)
class Probe:
    """params: name -> value; grads: one mapping a step; rates: factor on the learning rate of each step;
    noise: standard normal numbers for rules that take them. Every value is one of float32."""

    params: dict[str, np.ndarray]
    grads: list[dict[str, np.ndarray]]
    rates: list[float]
    noise: list[dict[str, np.ndarray]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {n: v.shape for n, v in self.params.items()}

    def first(self, steps: int) -> Probe:
        """The same, cut off after ``steps``."""
        return replace(self, grads=self.grads[:steps], rates=self.rates[:steps], noise=self.noise[:steps])


def probe(
    shapes: Mapping[str, tuple[int, ...]], steps: int, seed: int = 0, rates: bool = True, zeros: bool = True
) -> Probe:
    """The standard probe on these shapes.

    The parameters take turns by their order: normal numbers; start at 0, rows of many scales; patterns
    over time; a copy of the first one's elements; normal numbers. rates: whether the learning rate changes.
    zeros: whether there are gradients of 0, which some rules without an ε divide by.
    """
    rng = np.random.default_rng(seed)
    names = list(shapes)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape)

    params = {n: draw(s) for n, s in shapes.items()}
    if len(names) > 1:
        params[names[1]] = params[names[1]] * 0
    grads = [{n: draw(s) for n, s in shapes.items()} for _ in range(steps)]
    noise = [{n: draw(s) for n, s in shapes.items()} for _ in range(steps)]
    # A stretch so quiet that no bound of a norm is reached, accumulated gradients included.
    quiet = dict.fromkeys(range(15, 21), 1e-3)
    over_time = {3: 0.0, 6: 20.0, 8: 1e-3, **quiet}
    patterns = _patterns(shapes[names[2]], steps, rng) if len(names) > 2 else []
    for t, step in enumerate(grads):
        for place, name in enumerate(names):
            if place == 1:
                step[name] = step[name] * _scales(shapes[name])
            elif place == 2:
                step[name] = patterns[t] * quiet.get(t, 1.0)
            if place != 2:
                step[name] = step[name] * over_time.get(t, 1.0)
        if len(names) > 2:
            half = params[names[2]].reshape(-1)
            half[len(half) // 2 :] = 0
        if len(names) > 3:
            _copy(params, step, names[0], names[3])
    if not zeros:
        for step in grads:
            for value in step.values():
                value[value == 0] = 0.01
    factor = [1.0] * steps
    if rates:
        factor = [0.5 if 10 <= t < 14 else 0.25 if t >= 20 else 1.0 for t in range(steps)]
    return Probe(_single(params), [_single(g) for g in grads], factor, [_single(n) for n in noise])


def _single(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: v.astype(np.float32).astype(np.float64) for n, v in values.items()}


def _scales(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    scales = np.array([1.0, 1e-2, 1e-4, 1e-6, 1e-8, 30.0])
    out: np.ndarray = scales[np.arange(size) * len(scales) // max(size, 1)].reshape(shape)
    return out


def _patterns(shape: tuple[int, ...], steps: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Element i follows pattern i mod 10; the sizes differ."""
    size = int(np.prod(shape))
    kind, out = np.arange(size) % 10, []
    scale = rng.uniform(0.2, 1.5, size)
    for t in range(steps):
        value = np.select(
            [kind == k for k in range(9)],
            [
                np.zeros(size),
                np.ones(size),
                np.full(size, (-1.0) ** t),
                np.full(size, float(t == 0)),
                np.full(size, float(t == 5)),
                np.full(size, 0.3 * (t + 1)),
                np.full(size, 1e-3 * (t % 3 == 0)),
                np.full(size, 1e-6),
                np.full(size, 4.0 * (-1.0) ** (t // 2)),
            ],
            default=rng.standard_normal(size),
        )
        out.append((value * scale).reshape(shape))
    return out


def _copy(params: dict[str, np.ndarray], step: dict[str, np.ndarray], source: str, target: str) -> None:
    """Let the elements of ``target`` be the first of ``source``."""
    for values in (params, step):
        size = min(values[source].size, values[target].size)
        values[target].reshape(-1)[:size] = values[source].reshape(-1)[:size]


def same_elements(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str, int] | None:
    """Two parameters that share their first elements, and how many; None where there are too few."""
    names = list(shapes)
    if len(names) < 4:
        return None
    size: Any = min(np.prod(shapes[names[0]]), np.prod(shapes[names[3]]))
    return names[0], names[3], int(size)
