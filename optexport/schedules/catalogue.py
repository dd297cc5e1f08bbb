"""The schedules by name, and how a caller gets one.

Adding a schedule: its file, its import here, a row in the table of each framework that has it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from ..errors import HyperparameterError, UnknownNameError
from . import (  # noqa: F401  (each registers its schedules)
    constant,
    cosine,
    exponential,
    inverse,
    multi_step,
    one_cycle,
    piecewise,
    polynomial,
)
from .base import Schedule, combine, plans
from .combinations import COMBINATIONS

__all__ = ["schedule"]


def schedule(name: str, *, parts: Sequence[Schedule] | None = None, **arguments: Any) -> Schedule:
    """A schedule by name, to stand where a hyperparameter's number stands.

    arguments: its hyperparameters and options; ``every`` and ``first`` say how updates are counted.
    parts: what ``joined`` and ``product`` are made of.

    Raises:
        UnknownNameError: no such schedule; names the nearest.
        HyperparameterError: an argument that is unknown, missing, or outside its range.

    >>> schedule("cosine", base=0.1, total=100).at(50)
    0.05
    """
    key = name.lower()
    if key in COMBINATIONS:
        if parts is None:
            raise HyperparameterError(
                f"schedule {key}: missing argument 'parts': the schedules it is made of"
            )
        return combine(key, parts, **arguments)
    known = plans()
    if key not in known:
        every = [*known, *COMBINATIONS]
        near = difflib.get_close_matches(key, every, n=3, cutoff=0.4) or every
        raise UnknownNameError(
            f"unknown schedule {name!r}; expected one of the catalogue, nearest: {', '.join(near)}"
        )
    if parts is not None:
        raise HyperparameterError(f"schedule {key}: has no parts; expected joined or product")
    return known[key].schedule(arguments)
