"""A row's native optimizer beside the referee."""

from __future__ import annotations

from typing import Any

from optexport.dialects import converter
from optexport.parity.compare import Mismatch, compare_runs, referee
from optexport.parity.record import Row

__all__ = ["beside_referee"]


def beside_referee(row: Row, dtype: str, exact: Any = None) -> tuple[Mismatch | None, float]:
    """The first mismatch, and the largest error over its bound. exact: what the referee computes in, float64 where None.

    Raises:
        ImportError: the framework is not installed.
    """
    run = converter(row.framework, "run")
    p, spec = row.problem(dtype), row.spec()
    lrs = p.lrs(row.lr)
    states = referee(spec, p.params, p.grads, lrs, row.start(spec, p.params, exact), noise=p.noise)
    # The framework's own draws are made of the same numbers.
    given: dict[str, Any] = {"noise": p.noise} if spec.groups[-1].rule.program.inputs("noise") else {}
    given |= {"done": row.done} if row.done else {}
    snapshots = run.native_snapshots(
        row.optimizer, row.arguments, p.params, p.grads, lrs, dtype=dtype, **given
    )
    return compare_runs(
        states,
        snapshots,
        dtype,
        native=spec.groups[-1].native,
        amplification=row.amplification,
        floor=row.floor_in(dtype),
    )
