"""The parity table: one record a case. A new optimizer is proven by adding rows in ``rows/``, one file a
family.

Its rows are checked against the real framework, emitted on every backend, and mutated.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from . import rows
from .record import Row

__all__ = ["rows_of", "table"]


@lru_cache(maxsize=1)
def table() -> tuple[Row, ...]:
    """Every row."""
    modules = sorted(m.name for m in pkgutil.iter_modules(rows.__path__))
    return tuple(row for m in modules for row in importlib.import_module(f"{rows.__name__}.{m}").ROWS)


def rows_of(optimizer: str) -> list[Row]:
    """The rows of ``framework:optimizer``; case does not matter."""
    return [r for r in table() if r.optimizer.lower() == optimizer.lower()]
