"""The parity table (`optexport.parity.table`), as the tests run it.

`NATIVE` rows are checked against the real framework, emitted on every backend, and mutated.
"""

from __future__ import annotations

from optexport.parity.record import Row
from optexport.parity.table import table
from tests.parity.rows import chain

__all__ = ["NATIVE", "NATIVE_CASES", "Row"]

NATIVE: list[Row] = [*table(), *chain.ROWS]

# (row, dtype) of every case that the framework can run.
NATIVE_CASES = [(row, dtype) for row in NATIVE for dtype in row.dtypes]
