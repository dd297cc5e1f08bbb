"""Gradients from elsewhere: of hard scales, of a file, of a real training run. `problem` has the standard ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CheckpointError, OptexportError
from ..reference import init, step
from ..specs import Spec
from .problems import Problem, problem

__all__ = ["Digits", "extreme", "recorded", "shortened"]

# Factor on each column of a matrix and each element of a vector: far apart, and one below the smallest normal
# float32, where numbers lose digits and some hardware has none.
_SCALES = (1.0, 1e-40, 1e4, 1e-12, 1e-3)


def extreme(dtype: Any = np.float64, steps: int = 30, seed: int = 0) -> Problem:
    """Gradients of which neighbours differ by 44 orders of magnitude, float32's denormals among them, beside
    the zeros, the spike and the tiny step of the standard problem. Every value is representable in float32."""
    made = problem(dtype, steps, seed, spike=64.0)
    for gradients in made.grads:
        for name, g in gradients.items():
            # (g at 1e-12 of its size and again at 1e-40 would be 0.)
            factors = np.resize(np.array(_SCALES), g.shape[-1])
            gradients[name] = (g.astype(np.float64) * factors).astype(np.float32).astype(dtype)
    return made


def recorded(
    path: str | os.PathLike[str], dtype: Any = np.float64, steps: int | None = None, seed: int = 0
) -> Problem:
    """The problem that a file of gradients makes: ``.npz`` or ``.safetensors``.

    An entry ``NAME`` holds the gradients of one parameter, the step first; ``param:NAME`` the parameter's first
    value, which is drawn where there is none. dtype: of the run; values are rounded to float32 first, as a
    framework would have them.

    Raises:
        CheckpointError: a file that cannot be read, holds no gradients, or whose entries do not fit each other.
    """
    where = os.fspath(path)
    held = _read(where)
    first = {n.removeprefix("param:"): v for n, v in held.items() if n.startswith("param:")}
    grads = {n: v for n, v in held.items() if not n.startswith("param:")}
    if not grads:
        raise CheckpointError(f"{where}: expected gradients, NAME -> array with the step first, found none")
    counts = {n: v.shape[0] if v.ndim else 0 for n, v in grads.items()}
    count = min(counts.values())
    if count == 0 or len(set(counts.values())) > 1:
        said = ", ".join(f"{n!r} {c}" for n, c in counts.items())
        raise CheckpointError(
            f"{where}: expected as many steps for every parameter, at least 1, found {said}"
        )
    for name, value in first.items():
        if name not in grads or value.shape != grads[name].shape[1:]:
            found = grads[name].shape[1:] if name in grads else "no gradients"
            raise CheckpointError(
                f"{where}: param:{name} has shape {value.shape}; its gradients have {found}"
            )
    count = count if steps is None else min(count, steps)
    shapes = {n: v.shape[1:] for n, v in grads.items()}
    made = problem(dtype, count, seed, shapes=shapes)

    def cast(value: np.ndarray) -> np.ndarray:
        return value.astype(np.float32).astype(dtype)

    return Problem(
        {n: cast(first[n]) if n in first else p for n, p in made.params.items()},
        [{n: cast(v[t]) for n, v in grads.items()} for t in range(count)],
        [1.0] * count,
        made.noise,
    )


def _read(where: str) -> dict[str, np.ndarray]:
    try:
        if where.endswith(".safetensors"):
            from safetensors.numpy import load_file

            held = load_file(where)
        else:
            with np.load(where, allow_pickle=False) as file:
                held = {n: file[n] for n in file.files}
    except FileNotFoundError:
        raise CheckpointError(f"{where}: expected a file of gradients, found none") from None
    except Exception as e:
        raise CheckpointError(
            f"{where}: expected a .npz or .safetensors file of numbers, found one that cannot be read: {e}"
        ) from None
    for name, value in held.items():
        if value.dtype.kind != "f":
            raise CheckpointError(f"{where}: {name!r}: expected floating-point numbers, found {value.dtype}")
    return held


def shortened(made: Problem, steps: int) -> Problem:
    """Its first steps."""
    return Problem(made.params, made.grads[:steps], made.rates[:steps], made.noise[:steps])


class Digits:
    """Softmax regression on scikit-learn's handwritten digits, gradients in NumPy.

    The gradients are those of the referee's own training run, one batch a step: every backend is given the
    same numbers, so that the derived bound holds, and its loss is that of the parameters it arrives at.

    Raises:
        OptexportError: scikit-learn is not installed.
    """

    def __init__(self, batch: int = 128, seed: int = 0) -> None:
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError:
            raise OptexportError(
                "the digits problem needs scikit-learn, which is not installed; run pip install scikit-learn"
            ) from None
        held = load_digits()
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(held.data))
        self.x, self.y = held.data[order] / 16.0, held.target[order]
        self.batch = batch
        # No parameter starts at 0: errors are relative to it, and one that is all step has those of the step.
        first = {"weight": rng.standard_normal((64, 10)) * 0.1, "bias": rng.standard_normal(10) * 0.1}
        self.first = {n: v.astype(np.float32).astype(np.float64) for n, v in first.items()}

    def _of(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(t * self.batch, (t + 1) * self.batch) % len(self.x)
        return self.x[rows], self.y[rows]

    def _probabilities(self, params: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        z = x @ params["weight"].astype(np.float64) + params["bias"].astype(np.float64)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def loss(self, params: Mapping[str, np.ndarray], t: int) -> float:
        """Mean cross entropy of the batch of step ``t``."""
        x, y = self._of(t)
        with np.errstate(all="ignore"):
            return float(-np.log(self._probabilities(params, x)[np.arange(len(y)), y]).mean())

    def problem(self, spec: Spec, lr: float | None, dtype: Any = np.float64, steps: int = 30) -> Problem:
        """The referee's training run of an optimizer at a fixed learning rate."""
        state = init(spec, self.first)
        noise = problem(dtype, steps, shapes={n: v.shape for n, v in self.first.items()}).noise
        grads = []
        for t in range(steps):
            x, y = self._of(t)
            p = self._probabilities(state.params, x)
            p[np.arange(len(y)), y] -= 1
            g = {"weight": x.T @ p / len(y), "bias": p.mean(axis=0)}
            given = {n: v.astype(np.float32).astype(dtype) for n, v in g.items()}
            grads.append(given)
            drawn = noise[t] if spec.groups[-1].rule.program.inputs("noise") else None
            state = step(state, given, lr=lr, noise=drawn)
        return Problem({n: v.astype(dtype) for n, v in self.first.items()}, grads, [1.0] * steps, noise)
