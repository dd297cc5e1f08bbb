"""Half-precision parameters with float32 masters: native and emitted, within bounds of their own.

The optimizer updates the master in float32 with the gradient that float16 holds, so master and slots
keep the bound of float32; the parameter is the master rounded once, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.dialects import converter
from optexport.ir import Reach, reach
from optexport.parity import compare_runs, referee
from optexport.parity.compare import Snapshot
from optexport.state.training import MASTER
from tests.parity.backends import require_backend, require_native
from tests.parity.table import NATIVE, Row

# float16 cannot hold the problem's spike and tiny step times a huge rate.
ROWS = [r for r in NATIVE if "huge" not in r.desc]
MXNET = [r for r in ROWS if r.optimizer.startswith("mxnet:") and not r.optimizer.endswith("_update")]


def half(row: Row) -> tuple[Any, list[Any]]:
    """The standard problem as float16 holds it."""
    p = row.problem("float32")
    params = {n: v.astype(np.float16) for n, v in p.params.items()}
    grads = [{n: g.astype(np.float16) for n, g in step.items()} for step in p.grads]
    return params, grads


def squares_survive(gradients: Mapping[str, np.ndarray]) -> bool:
    """Whether float16 can hold the squares of the largest gradients: neither 0 nor infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return all(0 < np.max(g * g) < np.inf for g in gradients.values() if g.any())


def drawn(row: Row) -> dict[str, Any]:
    """The noise of each step, for a rule that takes it."""
    program = ox.native(row.optimizer, **row.arguments).groups[-1].rule.program
    return {"noise": row.problem("float32").noise} if program.inputs("noise") else {}


def masters(snapshots: Iterator[Snapshot]) -> Iterator[Snapshot]:
    """The run with its masters as the parameters, after a look at what the parameters are."""
    for params, slots in snapshots:
        held = {n: have.pop(MASTER) for n, have in slots.items()}
        for name, master in held.items():
            assert master.dtype == np.float32 and params[name].dtype == np.float16
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(params[name], master.astype(np.float16), err_msg=name)
        yield held, slots


def check(row: Row, snapshots: Iterator[Snapshot], native: str | None) -> None:
    params, grads = half(row)
    p = row.problem("float32")
    if native and row.floor16:  # only as far as the class can take a norm
        grads = list(takewhile(squares_survive, grads))
        assert len(grads) > 10
        snapshots = islice(snapshots, len(grads))
    states = referee(
        ox.native(row.optimizer, **row.arguments), params, grads, p.lrs(row.lr)[: len(grads)], noise=p.noise
    )
    mismatch, _ = compare_runs(
        states,
        masters(snapshots),
        "float32",
        native=native,
        amplification=row.amplification,
        floor=row.floor_in("float32") + row.floor16 if native else 0.0,
    )
    assert mismatch is None, str(mismatch)


@pytest.mark.parametrize("row", MXNET, ids=lambda r: r.id)
def test_native_with_masters(row: Row) -> None:
    require_native(row.optimizer)
    params, grads = half(row)
    lrs = row.problem("float32").lrs(row.lr)
    arguments = {**row.arguments, "multi_precision": True}
    run = converter("mxnet", "run").native_snapshots(
        row.optimizer, arguments, params, grads, lrs, dtype="float16", **drawn(row)
    )
    check(row, run, row.optimizer)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_emitted_with_masters(row: Row) -> None:
    require_backend("mxnet")
    params, grads = half(row)
    lrs = row.problem("float32").lrs(row.lr)
    spec = ox.native(row.optimizer, **row.arguments)
    if any(reach(g.rule.program) is Reach.GROUP for g in spec.groups):
        with pytest.raises(ox.RuleError, match="MXNet updates one parameter at a time"):
            ox.emit(spec, "mxnet")
        return
    run = converter("mxnet", "run").snapshots(
        spec, params, grads, lrs, dtype="float16", multi_precision=True, **drawn(row)
    )
    check(row, run, None)


@pytest.mark.parametrize(("gradient", "finite"), [(1.0, True), (2.0**-13, False), (256.0, False)])
def test_lars_squares_in_float16(gradient: float, finite: bool) -> None:
    """What the note of MXNet's LARS says: outside of 2⁻¹² to 255 the class has another rate than the rule."""
    require_native("mxnet:lars")
    arguments = {"learning_rate": 0.25, "eta": 0.5}
    params = {"w": np.ones(4, np.float16)}
    grads = [{"w": np.full(4, gradient, np.float16)}]
    run = converter("mxnet", "run").native_snapshots(
        "mxnet:lars", {**arguments, "multi_precision": True}, params, grads, dtype="float16"
    )
    held = next(run)[1]["w"][MASTER]
    (state,) = referee(ox.native("mxnet:lars", **arguments), params, grads, [None])
    assert np.allclose(held, state.params["w"], rtol=1e-3) is finite
