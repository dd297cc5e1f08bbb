"""Steps anybody's MXNet optimizer. Imports MXNet."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.parity.runs import Arrays
from optexport.parity.subjects import Subject, hint_of

from .run import _array, _numpy, mx

__all__ = ["adopt"]


def adopt(made: Any, arguments: Mapping[str, Any], name: str) -> Subject | None:
    """A subject of an ``mx.optimizer.Optimizer`` class or instance, or of a function that returns one;
    None where ``made`` is none of these. Numbers are examined in float32, which MXNet's kernels are for."""
    base = mx.optimizer.Optimizer
    if isinstance(made, base):
        first = copy.deepcopy(made)
        hint = hint_of("mxnet", type(made).__name__, {})

        def make() -> Any:
            return copy.deepcopy(first)
    elif inspect.isclass(made) and issubclass(made, base):
        hint = hint_of("mxnet", made.__name__, arguments)

        def make() -> Any:
            return made(**arguments)
    elif inspect.isfunction(made) and not set(list(inspect.signature(made).parameters)[:1]) & {"params"}:
        if not isinstance(made(**arguments), base):
            return None
        hint = hint_of("mxnet", made.__name__, arguments)

        def make() -> Any:
            return made(**arguments)
    else:
        return None
    return Subject(
        name, "mxnet", lambda params, dtype: _Stepped(make(), params, dtype), ("float32",), hint=hint
    )


class _Stepped:
    def __init__(self, optimizer: Any, params: Arrays, dtype: str) -> None:
        self.updater = mx.optimizer.get_updater(optimizer)
        self.shapes = {n: np.shape(v) for n, v in params.items()}
        self.weights = {n: _array(v, dtype) for n, v in params.items()}
        self.dtype = dtype
        self.rates = optimizer.lr_scheduler is None
        self.base = optimizer.lr

    def step(self, grads: Arrays, rate: float = 1.0) -> None:
        if self.rates:
            self.updater.optimizer.set_learning_rate(self.base * rate)
        for index, (name, weight) in enumerate(self.weights.items()):
            self.updater(index, _array(grads[name], self.dtype), weight)

    def params(self) -> dict[str, np.ndarray]:
        return {n: _numpy(w, self.shapes[n]) for n, w in self.weights.items()}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, np.ndarray]] = {n: {} for n in self.weights}
        for index, name in enumerate(self.weights):
            self._gather(self.updater.states.get(index), "state", found[name], self.shapes[name])
        return found

    def _gather(self, held: Any, path: str, out: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
        if isinstance(held, tuple | list):
            for i, part in enumerate(held):
                self._gather(part, f"{path}[{i}]", out, shape)
        elif isinstance(held, mx.nd.NDArray) and held.size == np.prod(shape, dtype=int):
            out[path] = _numpy(held, shape)
