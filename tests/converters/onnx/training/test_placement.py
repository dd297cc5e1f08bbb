"""Which provider ran each node, seen on the CPU, and the benchmark that asks it on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper

from optexport.errors import UnknownNameError

from .benchmarked import benchmark

pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")

from optexport.converters.onnx.placement import Ran, placed, strays

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def shaped() -> Any:
    """x as two rows, whose length is worked out from its shape."""
    nodes = [
        helper.make_node("Shape", ["x"], ["dims"], name="measure"),
        helper.make_node("Div", ["dims", "two"], ["half"], name="halve"),
        helper.make_node("Concat", ["two", "half"], ["target"], axis=0, name="join"),
        helper.make_node("Reshape", ["x", "target"], ["rows"], name="reshape"),
        helper.make_node("Exp", ["rows"], ["y"], name="exp"),
    ]
    two = helper.make_tensor("two", T.INT64, [1], [2])
    graph = helper.make_graph(
        nodes, "shaped", [helper.make_tensor_value_info("x", T.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", T.FLOAT, [2, "h"]), helper.make_tensor_value_info("half", T.INT64, [1])],
        [two],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_every_node_with_its_provider() -> None:
    nodes = {n.name: n for n in placed(shaped(), {"x": np.zeros(6, np.float32)}, [CPU])}
    assert {"halve", "exp"} <= set(nodes) and {n.provider for n in nodes.values()} == {CPU}
    assert nodes["exp"].outputs == (("float", (2, 3)),) and nodes["exp"].op == "Exp"
    assert nodes["halve"].is_shape_arithmetic and not nodes["exp"].is_shape_arithmetic
    assert strays(list(nodes.values()), CPU) == []
    # Had it been a GPU's run, the nodes that make numbers would have strayed, and only those.
    assert {n.name for n in strays(list(nodes.values()), CUDA)} >= {"exp"}
    assert "halve" not in {n.name for n in strays(list(nodes.values()), CUDA)}


def test_shape_arithmetic_is_whole_numbers_and_few() -> None:
    def ran(*outputs: tuple[str, tuple[int, ...]]) -> bool:
        return Ran("n", "Op", CPU, outputs).is_shape_arithmetic

    assert ran(("int64", (4,))) and ran(("bool", ())) and ran(("int64", (2,)), ("int64", ()))
    assert not ran(("double", ())) and not ran(("int64", (65,))) and not ran(("int64", (2, 2))) and not ran()
    assert Ran("n", "MemcpyToHost", CUDA, ()).is_copy


def test_a_provider_that_is_not_installed() -> None:
    with pytest.raises(UnknownNameError, match="provider 'NoExecutionProvider': expected one of"):
        placed(shaped(), {}, ["NoExecutionProvider"])


def test_the_benchmark_tests_itself_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs torch, which the benchmark compares with")
    cuda = benchmark("cuda")
    arguments = ["--models", "mlp", "--rounds", "1", "--elements", "4096", "--out", str(tmp_path)]
    assert cuda.main(["--provider", CPU, *arguments]) == 0
    (page,) = tmp_path.glob("cuda-cpu-ort*.md")
    assert page.read_text("utf-8").strip() == capsys.readouterr().out.strip()
    result = json.loads(page.with_suffix(".json").read_text("utf-8"))
    mlp = result["models"]["mlp"]
    assert mlp["placement"]["strays"] == {} and mlp["placement"]["providers"] == {
        CPU: mlp["placement"]["nodes"]
    }
    assert mlp["placement"]["nodes"] > 50
    assert mlp["parity"] == {"steps": 10, "loss": 0.0, "parameters": 0.0}
    assert set(mlp["step_ms"]) == {"optexport", "torch AdamW", "torch AdamW fused"}
    update = result["update"]
    # Seven tensors are moved by an update, and two by a copy.
    assert update["optexport GB/s"] == pytest.approx(7 * 4 * 4096 / update["optexport ms"] / 1e6)
    assert update["copy GB/s"] == pytest.approx(2 * 4 * 4096 / update["copy ms"] / 1e6)


def test_the_benchmark_without_the_provider(capsys: pytest.CaptureFixture[str]) -> None:
    cuda = benchmark("cuda")
    assert cuda.main(["--provider", "NoExecutionProvider"]) == 2
    assert "NoExecutionProvider is not in this onnxruntime" in capsys.readouterr().err
