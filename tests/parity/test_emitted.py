"""Emitted parity: every rule of the table, emitted for every backend, equals the referee there."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from optexport.dialects import converter
from optexport.errors import RuleError
from optexport.ir import Reach, reach
from optexport.parity import compare_runs, referee
from tests.parity.backends import require_backend
from tests.parity.table import NATIVE, Row

BACKENDS = ("onnx", "mxnet", "torch", "optax", "keras")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", NATIVE, ids=lambda r: r.id)
def test_emitted_optimizer_is_the_rule(row: Row, backend: str, dtype: str) -> None:
    require_backend(backend)
    p = row.problem(dtype)
    lrs = p.lrs(row.lr)
    spec = ox.native(row.optimizer, **row.arguments)
    if backend == "mxnet" and any(n.op == "group_sum" for g in spec.groups for n in g.rule.program.nodes):
        with pytest.raises(RuleError, match=r"needs group_sum: .* MXNet updates one parameter at a time"):
            ox.emit(spec, "mxnet")
        return
    drawn = {"noise": p.noise} if spec.groups[-1].rule.program.inputs("noise") else {}
    if drawn and backend == "keras":
        with pytest.raises(ox.RuleError, match="a Keras optimizer keeps no random state"):
            ox.emit(spec, "keras")
        return
    if backend == "mxnet" and reach(spec.groups[-1].rule.program) is Reach.GROUP:
        with pytest.raises(ox.RuleError, match="MXNet updates one parameter at a time"):
            ox.emit(spec, "mxnet")
        return
    snapshots = converter(backend, "run").snapshots(spec, p.params, p.grads, lrs, dtype=dtype, **drawn)
    # A graph's `lr` input, and Keras' `learning_rate` variable, have the tensors' dtype, so the referee is
    # given the same number.
    given = [float(np.dtype(dtype).type(x)) for x in lrs] if backend in ("onnx", "keras") else lrs
    states = referee(spec, p.params, p.grads, given, noise=p.noise)
    mismatch, _ = compare_runs(states, snapshots, dtype, amplification=row.amplification)
    assert mismatch is None, str(mismatch)
