"""States that optexport writes for MXNet's own optimizers, and MXNet itself goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.errors import CheckpointError, HyperparameterError
from optexport.parity import compare_runs, problem, referee
from tests.parity.backends import require_backend

MATRICES = {"w": (7, 5), "u": (2, 3)}
# 10 updates are two whole batches of LBSGD.
BEFORE = 10
CASES: list[tuple[str, dict[str, Any]]] = [
    ("adadelta", {"learning_rate": 0.3, "wd": 0.01}),
    ("groupadagrad", {"learning_rate": 0.1}),
    ("ftrl", {"learning_rate": 0.1, "wd": 0.1}),
    ("ftml", {"learning_rate": 0.1, "beta2": 0.9}),
    ("signum", {"learning_rate": 0.01, "wd": 0.1, "wd_lh": 0.2}),
    ("signum", {"learning_rate": 0.01, "momentum": 0.0}),
    ("dcasgd", {"learning_rate": 0.1, "lamda": 0.5}),
    ("adamax", {"learning_rate": 0.01, "wd": 0.1}),
    ("nadam", {"learning_rate": 0.01, "wd": 0.1, "schedule_decay": 0.1}),
    ("lbsgd", {"learning_rate": 0.01, "momentum": 0.9, "batch_scale": 5, "warmup_epochs": 1}),
    ("lbsgd", {"learning_rate": 0.01, "batch_scale": 5, "begin_epoch": 5, "updates_per_epoch": 3}),
]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda v: v if isinstance(v, str) else str(len(v)))
def test_mxnet_goes_on_from_what_is_written(name: str, arguments: dict[str, Any], tmp_path: Any) -> None:
    require_backend("mxnet")
    from optexport.converters.mxnet.run import native_resume

    p = problem(np.float32, 25, shapes=MATRICES)
    spec = ox.native(f"mxnet:{name}", **arguments)
    lrs = [arguments["learning_rate"]] * len(p.grads)
    *_, state = referee(spec, p.params, p.grads[:BEFORE], lrs[:BEFORE])
    state = _rounded(state)
    file = tmp_path / "run.states"
    ox.save(state, str(file), format="mxnet")
    snapshots = native_resume(file, f"mxnet:{name}", arguments, state.params, p.grads[BEFORE:], lrs[BEFORE:])
    states = referee(spec, {}, p.grads[BEFORE:], lrs[BEFORE:], replace(state, dtype="float64"))
    mismatch, _ = compare_runs(states, snapshots, np.float32, native=f"mxnet:{name}")
    assert mismatch is None, str(mismatch)


def _rounded(state: ox.TrainingState) -> ox.TrainingState:
    """As a run in float32 has it."""
    params = {n: v.astype(np.float32) for n, v in state.params.items()}
    slots = {n: {s: a.astype(np.float32) for s, a in held.items()} for n, held in state.slots.items()}
    return replace(state, params=params, slots=slots, dtype="float32")


def test_a_batch_that_is_not_whole_has_no_place_in_a_file(tmp_path: Any) -> None:
    p = problem()
    state = ox.init(ox.native("mxnet:lbsgd", batch_scale=4), p.params)
    for g in p.grads[:6]:
        state = ox.step(state, g)
    with pytest.raises(CheckpointError) as caught:
        ox.save(state, str(tmp_path / "run.states"), format="mxnet")
    assert "index 0: expected a whole number of batches of 4 gradients, found 6 calls" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dcasgd", {"momentum": 0.9}, "momentum expected 0, found 0.9; MXNet 1.9.1 itself raises"),
        ("groupadagrad", {"wd": 0.1}, "wd expected 0, found 0.1; MXNet itself refuses any other"),
        (
            "signum",
            {"momentum": 0.0, "wd_lh": 0.1},
            "wd_lh expected 0 where momentum is 0, found 0.1; give wd",
        ),
        ("lbsgd", {"begin_num_update": 3}, "begin_num_update expected 0, found 3; its own call counter"),
    ],
)
def test_what_mxnet_refuses_is_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError) as caught:
        ox.native(f"mxnet:{name}", **arguments)
    assert str(caught.value).startswith(f"mxnet:{name}: ") and message in str(caught.value)


def test_rows_need_a_matrix() -> None:
    with pytest.raises(HyperparameterError) as caught:
        ox.init(ox.native("mxnet:groupadagrad"), {"b": np.zeros(5)})
    assert "group_adagrad: expected a matrix, found shape (5,)" in str(caught.value)


def test_a_file_with_names_and_no_multipliers_decays_every_parameter(tmp_path: Any) -> None:
    """A new MXNet optimizer writes what names mean into ``wd_mult``; out of a file only the table counts."""
    require_backend("mxnet")
    from optexport.converters.mxnet.run import native_resume

    p = problem(np.float32, 12, shapes=MATRICES)
    spec = ox.native("mxnet:sgd", learning_rate=0.1, momentum=0.9, wd=0.1)
    *_, state = referee(spec, p.params, p.grads[:BEFORE], [0.1] * BEFORE)
    state = replace(
        state, slots={n: {s: a.astype(np.float32) for s, a in v.items()} for n, v in state.slots.items()}
    )
    file = tmp_path / "sgd.states"
    ox.save(state, file, format="mxnet")
    weights = {n: v.astype(np.float32) for n, v in state.params.items()}

    read = ox.load(file)
    got = list(native_resume(file, "mxnet:sgd", {}, weights, p.grads[BEFORE:]))
    want = list(referee(read.spec, p.params, p.grads[BEFORE:], [0.1] * 2, replace(read, params=state.params)))

    assert [g.arguments["wd"] for g in read.spec.groups] == [0.1]
    mismatch, _ = compare_runs(want, got, np.float32, native="mxnet:sgd")
    assert mismatch is None, mismatch
