"""Problems that bring out what is wrong with an optimizer.

Convergence hides mistakes; these gradients do not. They hold zeros (a whole row, a whole step), a
spike, a tiny step, and change at every step; the learning rate drops in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Problem", "problem"]

SHAPES = {"w": (7, 5), "b": (5,)}


@dataclass(frozen=True)
class Problem:
    """params: name -> initial value; grads: one mapping a step; rates: factor on the learning rate
    of each step; noise: standard normal numbers of each step, for rules that take them."""

    params: dict[str, np.ndarray]
    grads: list[dict[str, np.ndarray]]
    rates: list[float]
    noise: list[dict[str, np.ndarray]]

    def lrs(self, lr: float) -> list[float]:
        return [lr * r for r in self.rates]


def problem(
    dtype: Any = np.float64,
    steps: int = 30,
    seed: int = 0,
    drop: float = 0.1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    spike: float = 8.0,
) -> Problem:
    """The standard problem: every value is representable in float32, whatever ``dtype``.

    drop: factor of the learning rate from the middle of the run on. shapes: of the parameters, a
        matrix and a vector where None is given; one called ``zero`` starts at 0. spike: scale of one step's gradients.
    """
    shapes = SHAPES if shapes is None else shapes
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32).astype(dtype)

    params = {name: draw(shape) * (name != "zero") for name, shape in shapes.items()}
    grads = []
    for t in range(steps):
        scale = {3: 0.0, 7: spike, 11: 1e-6}.get(t, 1.0)
        step = {name: draw(shape, scale) for name, shape in shapes.items()}
        for gradient in step.values():
            if gradient.ndim > 1:
                gradient[0] = 0
        grads.append(step)
    noise = [{name: draw(shape) for name, shape in shapes.items()} for _ in range(steps)]
    return Problem(params, grads, [1.0 if t < steps // 2 else drop for t in range(steps)], noise)
