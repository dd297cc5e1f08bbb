"""Every operator that our graphs have, against ONNX Runtime's own table of CUDA kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import optexport as ox
from optexport.converters.onnx.training.losses import LOSSES
from optexport.converters.onnx.training_graph import Meant, build
from optexport.rules.catalogue import CATALOGUE

from .benchmarked import benchmark
from .kernels import matches, missing

MODELS = benchmark("models").MODELS
OPTIONS = {
    "softmax_cross_entropy": {"label_smoothing": 0.1, "ignore_index": -100, "weight": [1.0, 2.0, 3.0]},
    "bce_with_logits": {"pos_weight": 2.0},
}


def linear(kind: int, opset: int, nodes: int = 1) -> onnx.ModelProto:
    """y = xWᵀ + b, dropped out; N × 4 -> N × 3."""
    rng, dtype = np.random.default_rng(0), helper.tensor_dtype_to_np_dtype(kind)
    held = {"w": rng.standard_normal((3, 4)), "b": np.zeros(3)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
            helper.make_node("Dropout", ["h", "ratio"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", kind, ["N", 4])],
        [helper.make_tensor_value_info("y", kind, ["N", 3])],
        [numpy_helper.from_array(a.astype(dtype), n) for n, a in held.items()]
        + [numpy_helper.from_array(np.asarray(0.25, np.float32), "ratio")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("symbol", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("name", MODELS)
def test_training_steps_of_the_benchmarks(name: str, symbol: bool) -> None:
    pytest.importorskip("torch", reason="needs torch, which draws the models' values")
    model = MODELS[name]
    forward = model.graph(model.values(model.module()), "N" if symbol else model.size)
    graph = ox.training_graph(forward, "softmax_cross_entropy", ox.spec("adamw"), **model.options)
    assert missing(graph) == []


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("kind", [T.FLOAT, T.DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_dropout(loss: str, kind: int, opset: int) -> None:
    """Dropout's mask is computed from whole numbers, which is more than shape arithmetic."""
    graph = ox.training_graph(
        linear(kind, opset), loss, ox.spec("sgd"), loss_options=OPTIONS.get(loss), train=["w", "b"]
    )
    flat = onnx.inliner.inline_local_functions(graph)
    assert {"Mod", "Range"} <= {n.op_type for n in flat.graph.node}
    # An Equal marks labels that do not count; its version 19 has no kernel in that table.
    late = ["Equal-19(T=int64, T1=bool)"] if loss == "softmax_cross_entropy" and opset > 18 else []
    assert missing(graph) == late


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rule", CATALOGUE)
def test_updates_of_the_catalogue(rule: str, dtype: str) -> None:
    """Scalars are computed in double, and double has kernels too: none of it is left to the CPU."""
    graph = ox.emit(ox.spec(rule), "onnx", params={"w": (6, 4)}, dtype=dtype, blocks=False)
    assert missing(graph) == []


def test_big_parameters_are_cut_for_processors_only() -> None:
    shapes = {"w": (2048, 1024)}
    cut, whole = (ox.emit(ox.spec("adamw"), "onnx", params=shapes, blocks=b) for b in (True, False))
    assert "Scan" in {n.op_type for n in cut.graph.node}
    assert "Scan" not in {n.op_type for n in whole.graph.node}


@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(name: str, compute: str) -> None:
    pytest.importorskip("torch", reason="needs torch, which draws the models' values")
    model = MODELS[name]
    built = build(
        model.graph(model.values(model.module()), model.size), "softmax_cross_entropy", ox.spec("adamw"),
        meant=Meant(**model.options), compute=compute, blocks=False,
    )  # fmt: skip
    assert missing(built.model) == []


def one(kind: str, inputs: dict[str, Any], outputs: dict[str, int], opset: int) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    graph = helper.make_graph(
        [helper.make_node(kind, list(inputs), list(outputs))], "one", infos,
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_what_has_no_kernel_is_found() -> None:
    """By type, by version, by operator; and whole numbers that are no shape arithmetic."""
    double = one(
        "OneHot", {"i": (T.INT64, [5]), "n": (T.INT64, []), "v": (T.DOUBLE, [2])}, {"y": T.DOUBLE}, 18
    )
    assert missing(double) == ["OneHot-11(T1=int64, T2=int64, T3=double)"]
    pad = {"x": (T.FLOAT, [2, 2]), "p": (T.INT64, [4])}
    assert missing(one("Pad", pad, {"y": T.FLOAT}, 18)) == []
    assert missing(one("Pad", pad, {"y": T.FLOAT}, 20)) == ["Pad-19(T=float, tensor(int64)=int64)"]
    assert missing(one("Acosh", {"x": (T.FLOAT, [2])}, {"y": T.FLOAT}, 18)) == ["Acosh-9(T=float)"]
    for size, found in ((3, []), (3000, ["BitwiseNot-18(T=int64)"])):
        assert missing(one("BitwiseNot", {"x": (T.INT64, [size])}, {"y": T.INT64}, 18)) == found


@pytest.mark.parametrize(
    ("versions", "since", "found"),
    [("13+", 13, True), ("13+", 18, False), ("[7, 12]", 9, True), ("[7, 12]", 13, False), ("12", 12, True)],
)
def test_versions(versions: str, since: int, found: bool) -> None:
    assert matches(versions, since) is found
