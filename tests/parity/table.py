"""The parity table (`optexport.parity.table`), as the tests run it.

`NATIVE` rows are checked against the real framework, emitted on every backend, and mutated.
"""

from __future__ import annotations

from optexport.parity.record import Row
from optexport.parity.table import table

__all__ = ["NATIVE", "NATIVE_CASES", "Row"]

NATIVE: list[Row] = [*table()]

# (row, dtype) of every case that the framework can run.
NATIVE_CASES = [(row, dtype) for row in NATIVE for dtype in row.dtypes]
