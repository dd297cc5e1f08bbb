"""Update sessions: what they are given, what they refuse, and denormal numbers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from optexport.converters.onnx import _layout
from optexport.converters.onnx.emit import emit
from optexport.converters.onnx.run import UpdateSession
from optexport.errors import CheckpointError, HyperparameterError, UnknownNameError
from tests.converters.emitted import build, grouped

LAYOUTS = ("parameters", "flat")


def test_session_names_what_is_missing(tmp_path: Any) -> None:
    path = tmp_path / "update.onnx"
    onnx.save(emit(build("adamw"), {"w": (2,), "b": (3,)}), path)
    session = UpdateSession(path)
    grads = {"w": np.ones(2, np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(CheckpointError, match="input 'b': expected a value, found none"):
        session.load({"w": grads["w"]})
    session.load(grads)
    with pytest.raises(HyperparameterError, match="input 'lr': expected a value at the first step"):
        session.step(grads)
    with pytest.raises(HyperparameterError, match=r"input 'b.grad': expected a gradient, found none"):
        session.step({"w": grads["w"]}, lr=0.1)
    with pytest.raises(HyperparameterError, match=r"input 'b.grad': expected shape \(3,\), found \(2,\)"):
        session.step({"w": grads["w"], "b": grads["w"]}, lr=0.1)
    with pytest.raises(UnknownNameError, match="'beta1': expected a runtime input among lr"):
        session.step(grads, beta1=0.5)
    with pytest.raises(UnknownNameError, match="parameter 'w', slot 'mean'"):
        session.load(grads, {"w": {"mean": grads["w"]}})
    with pytest.raises(UnknownNameError, match="provider 'NoExecutionProvider'"):
        UpdateSession(path, providers=("NoExecutionProvider",))
    assert session.step_count == 0
    session.step(grads, lr=0.1)
    session.step()  # the same gradients and rate again
    assert session.step_count == 2


@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_files_that_are_no_update_graph(content: bytes | None, tmp_path: Any) -> None:
    path = tmp_path / "other.onnx"
    if content is None:
        graph = onnx.helper.make_graph([], "empty", [], [])
        content = onnx.helper.make_model(graph).SerializeToString()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other\.onnx: expected an"):
        UpdateSession(path)


def test_a_graph_for_any_length_has_no_session() -> None:
    model = emit(build("adamw"), {"w": (2,)})
    for info in (*model.graph.input, *model.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            dim.dim_param = "n"
    with pytest.raises(HyperparameterError, match="found a graph for any length"):
        UpdateSession(model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_may_be_filled_in_place(layout: str) -> None:
    rng = np.random.default_rng(0)
    params = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in {"w": (7, 5), "b": (5,), "one": ()}.items()
    }
    grads = [{n: np.ones_like(v) for n, v in params.items()}]
    made = [UpdateSession(emit(build("adamw"), params, layout=layout)) for _ in range(2)]
    for session in made:
        session.load(params, step=3)
    made[0].step(grads[0], lr=0.5)
    for name, g in grads[0].items():
        made[1].grads[name][...] = g
    made[1].step(lr=0.5)
    for n in params:
        assert np.array_equal(made[0].params[n], made[1].params[n])
    assert made[0].step_count == 4


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_with_rows_of_their_own_change_no_bit(
    threads: int, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads than a buffer has rows, three buffers, and a rule that is never updated in place."""
    monkeypatch.setattr(_layout, "ROW", 64)
    reread = build("folded_nesterov", nesterov="lookahead_reread", decay="l2")
    shapes = {"w": (30, 20), "b": (5,), "one": (), "big": (24, 16)}
    rng = np.random.default_rng(0)
    for spec in (grouped(), reread):
        params = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        grads = {n: np.ones_like(v) for n, v in params.items()}
        model = emit(spec, params, layout="flat")
        made = [UpdateSession(model, threads=t, in_place=in_place) for t in (1, threads)]
        for session in made:
            session.load(params)
            for _ in range(3):
                session.step(grads, lr=0.1)
        one, many = made
        assert many.step_count == 3
        for n in params:
            assert one.params[n].tobytes() == many.params[n].tobytes()
            assert all(one.slots[n][k].tobytes() == many.slots[n][k].tobytes() for k in one.slots[n])


_DENORMALS = """
import sys, numpy as np, optexport as ox
from optexport.converters.onnx.emit import emit
from optexport.converters.onnx.run import UpdateSession
session = UpdateSession(emit(ox.spec("momentum"), {"w": (2,)}), flush_denormals=sys.argv[1] == "yes")
session.load({"w": np.ones(2, np.float32)})
session.step({"w": np.full(2, 1e-40, np.float32)}, lr=1.0)
session.step({"w": np.zeros(2, np.float32)}, lr=1.0)
print(session.slots["w"]["momentum_buffer"].view(np.int32).any())
"""


@pytest.mark.parametrize(("flush", "left"), [("no", "True"), ("yes", "False")])
def test_denormals_stay_unless_flushed(flush: str, left: str) -> None:
    """In a process of its own: the mode is the process's."""
    done = subprocess.run(
        [sys.executable, "-c", _DENORMALS, flush], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == left
