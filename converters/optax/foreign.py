"""Steps anybody's Optax transformation. Imports jax and optax."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib

from optexport.parity.runs import Arrays
from optexport.parity.subjects import Subject, hint_of

from .run import _arrays, _width

__all__ = ["adopt"]


def adopt(made: Any, arguments: Mapping[str, Any], name: str) -> Subject | None:
    """A subject of a transformation, or of a function that returns one for ``arguments``; None where
    ``made`` is neither.

    The learning rate can be changed where it is an argument ``learning_rate`` of the function.
    """
    factory = None
    if not _is_transformation(made):
        if not inspect.isroutine(made) and not isinstance(made, functools.partial):
            return None
        try:
            names = inspect.signature(made).parameters
        except (TypeError, ValueError):
            return None
        if next(iter(names), "") in ("params", "parameters"):
            return None  # PyTorch's way
        factory = made
        given = names["learning_rate"].default if "learning_rate" in names else None
        lr = arguments.get("learning_rate", given)
        made = factory(**arguments)
        if not _is_transformation(made):
            return None
    else:
        lr = None
    hint = hint_of("optax", _name(factory), arguments) if factory else None
    steps: dict[tuple[float, str], Any] = {}

    def compiled(rate: float, dtype: str) -> Any:
        if (rate, dtype) not in steps:
            own = (
                made
                if rate == 1.0 or factory is None
                else factory(**{**arguments, "learning_rate": lr * rate})
            )

            def once(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
                updates, state = own.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            steps[rate, dtype] = jax.jit(once)
        return steps[rate, dtype]

    rates = isinstance(lr, float | int) and not isinstance(lr, bool)
    return Subject(name, "optax", lambda params, dtype: _Run(made, compiled, rates, params, dtype), hint=hint)


def _name(factory: Any) -> str:
    """What Optax calls a function; some of its are partial ones, which have no name of their own."""
    places = (*vars(optax).items(), *vars(optax.contrib).items())
    return next((n for n, f in places if f is factory), getattr(factory, "__name__", ""))


def _is_transformation(made: Any) -> bool:
    return (
        not inspect.isclass(made)
        and callable(getattr(made, "init", None))
        and callable(getattr(made, "update", None))
    )


class _Run:
    def __init__(self, made: Any, compiled: Any, rates: bool, params: Arrays, dtype: str) -> None:
        self.compiled, self.rates, self.dtype = compiled, rates, dtype
        with _width(dtype):
            self.now = _arrays(params, dtype)
            self.state = made.init(self.now)

    def step(self, grads: Arrays, rate: float = 1.0) -> None:
        with _width(self.dtype):
            self.now, self.state = self.compiled(rate, self.dtype)(
                self.now, self.state, _arrays(grads, self.dtype)
            )

    def params(self) -> dict[str, np.ndarray]:
        return {n: np.array(v) for n, v in self.now.items()}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """Every mapping of the state that has the parameters' names and shapes, by its path."""
        found: dict[str, dict[str, np.ndarray]] = {n: {} for n in self.now}
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.state)[0]:
            name = getattr(path[-1], "key", None) if path else None
            if name in found and np.shape(leaf) == np.shape(self.now[name]):
                found[name][jax.tree_util.keystr(path[:-1]).lstrip(".")] = np.array(leaf)
        return found
