"""The parity table: one record a case. A new optimizer is proven by adding rows in ``rows/``, one file a
family.

`NATIVE` rows are checked against the real framework, emitted on every backend, and mutated.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.parity import rows
from tests.parity.record import Row

__all__ = ["NATIVE", "NATIVE_CASES", "Row"]

NATIVE: list[Row] = [
    row
    for module in sorted(m.name for m in pkgutil.iter_modules(rows.__path__))
    for row in importlib.import_module(f"{rows.__name__}.{module}").ROWS
]

# (row, dtype) of every case that the framework can run.
NATIVE_CASES = [(row, dtype) for row in NATIVE for dtype in row.dtypes]
