"""An update that somebody wrote as a plain function over NumPy arrays, as a subject."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .runs import Arrays
from .subjects import Subject, SubjectError

__all__ = ["adopt"]

SIGNATURE = "f(param, grad, state, step) -> (param, state)"


def adopt(made: Any, arguments: Mapping[str, Any], name: str) -> Subject | None:
    """A subject of ``f(param, grad, state, step, **arguments) -> (param, state)``; None where ``made`` is none.

    It is called once a parameter and step with NumPy arrays. state: what it gave back for this parameter the step
    before, an empty dictionary at first. step: the number of this update, from 1. A learning rate among
    ``arguments`` (``lr`` or ``learning_rate``) can be changed between steps.
    """
    if not inspect.isfunction(made) or len(_needed(made)) - len(set(_needed(made)) & set(arguments)) != 4:
        return None
    return Subject(name, "numpy", lambda params, dtype: _Run(made, dict(arguments), name, params, dtype))


def _needed(made: Callable[..., Any]) -> list[str]:
    """Positional parameters without a default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(made).parameters.values()
    return [p.name for p in found if p.kind in kinds and p.default is p.empty]


class _Run:
    def __init__(
        self, made: Callable[..., Any], arguments: dict[str, Any], name: str, params: Arrays, dtype: str
    ) -> None:
        self.made, self.arguments, self.name = made, arguments, name
        self.now = {n: np.array(v, dtype) for n, v in params.items()}
        self.state: dict[str, Any] = {n: {} for n in params}
        self.count = 0
        self.rate_key = next((k for k in ("lr", "learning_rate") if k in arguments), "")
        self.rates = bool(self.rate_key)

    def step(self, grads: Arrays, rate: float = 1.0) -> None:
        self.count += 1
        given = dict(self.arguments)
        if self.rate_key:
            given[self.rate_key] = given[self.rate_key] * rate
        for name, value in self.now.items():
            grad = np.array(grads[name], value.dtype)
            answer = self.made(value.copy(), grad, self.state[name], self.count, **given)
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise SubjectError(
                    f"{self.name}: expected a pair (param, state) from {SIGNATURE}, found {type(answer).__name__}"
                )
            self.now[name], self.state[name] = np.asarray(answer[0]), answer[1]

    def params(self) -> dict[str, np.ndarray]:
        return {n: v.copy() for n, v in self.now.items()}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """Arrays of a state that is a mapping by its keys, of a tuple or list by their places."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for name, state in self.state.items():
            pairs = state.items() if isinstance(state, Mapping) else enumerate(_items(state))
            found[name] = {
                str(k): np.array(v)
                for k, v in pairs
                if np.shape(v) == self.now[name].shape and not callable(v)
            }
        return found


def _items(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple | list) else [state]
