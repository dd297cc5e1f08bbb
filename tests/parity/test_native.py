"""Native parity: the dialect's rule, interpreted, equals the real framework's optimizer."""

from __future__ import annotations

import pytest

import optexport as ox
from optexport.dialects import converter, find
from optexport.parity import compare_runs, referee
from tests.parity.backends import require_native
from tests.parity.table import NATIVE_CASES, Row


@pytest.mark.parametrize(("row", "dtype"), NATIVE_CASES, ids=lambda v: v.id if isinstance(v, Row) else v)
def test_rule_is_what_the_framework_computes(row: Row, dtype: str) -> None:
    require_native(row.optimizer)
    p = row.problem(dtype)
    lrs = p.lrs(row.lr)
    run = converter(
        {"onnxruntime": "onnx"}.get(find(row.optimizer).framework, find(row.optimizer).framework), "run"
    )
    spec = ox.native(row.optimizer, **row.arguments)
    states = referee(spec, p.params, p.grads, lrs, row.start(spec, p.params), noise=p.noise)
    # The framework's own draws are made of the same numbers.
    given = {"noise": p.noise} if spec.groups[-1].rule.program.inputs("noise") else {}
    given |= {"done": row.done} if row.done else {}
    snapshots = run.native_snapshots(
        row.optimizer, row.arguments, p.params, p.grads, lrs, dtype=dtype, **given
    )
    mismatch, _ = compare_runs(
        states,
        snapshots,
        dtype,
        native=spec.groups[-1].native,
        amplification=row.amplification,
        floor=row.floor_in(dtype),
    )
    assert mismatch is None, str(mismatch)
