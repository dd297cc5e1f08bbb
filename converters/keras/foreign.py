"""Steps anybody's Keras optimizer. Imports Keras."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.parity.runs import Arrays
from optexport.parity.subjects import Subject, hint_of

from .run import _floats, _numpy, _Run, keras

__all__ = ["adopt"]


def adopt(made: Any, arguments: Mapping[str, Any], name: str) -> Subject | None:
    """A subject of a ``keras.optimizers.Optimizer`` class or instance, or of a function that returns one;
    None where ``made`` is none of these. An instance is made again of its ``get_config()``."""
    base = keras.optimizers.Optimizer
    if isinstance(made, base):
        kind, config = type(made), made.get_config()
        return Subject(
            name,
            "keras",
            lambda params, dtype: _Stepped(lambda: kind.from_config(dict(config)), params, dtype),
            hint=hint_of("keras", kind.__name__, config),
        )
    if inspect.isclass(made) and issubclass(made, base):
        hint = hint_of("keras", made.__name__, arguments)
    elif inspect.isfunction(made) and not set(list(inspect.signature(made).parameters)[:1]) & {"params"}:
        if not isinstance(made(**arguments), base):
            return None
        hint = hint_of("keras", made.__name__, arguments)
    else:
        return None
    return Subject(
        name,
        "keras",
        lambda params, dtype: _Stepped(lambda: made(**arguments), params, dtype),
        hint=hint,
    )


class _Stepped:
    def __init__(self, make: Any, params: Arrays, dtype: str) -> None:
        with _floats(dtype):
            self.run = _Run(make(), params, dtype)
        self.base = float(_numpy(self.run.optimizer.learning_rate))
        self.rates = not callable(getattr(self.run.optimizer, "_learning_rate", None))

    def step(self, grads: Arrays, rate: float = 1.0) -> None:
        with _floats(self.run.dtype):
            if self.rates and not np.isnan(self.base):  # (NaN: the rule computes it)
                self.run.optimizer.learning_rate = self.base * rate
            self.run._apply(grads)

    def params(self) -> dict[str, np.ndarray]:
        return {n: _numpy(v) for n, v in self.run.variables.items()}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """Variables that Keras made for one of ours, by the rest of their name."""
        found: dict[str, dict[str, np.ndarray]] = {n: {} for n in self.run.variables}
        for held in self.run.optimizer.variables:
            for name, variable in self.run.variables.items():
                prefix = variable.name + "_"
                if str(held.name).startswith(prefix) and tuple(held.shape) == tuple(variable.shape):
                    found[name][str(held.name)[len(prefix) :]] = _numpy(held)
        return found
