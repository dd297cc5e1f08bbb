"""What is refused: by name, with what was expected and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import optexport as ox
from optexport.converters.onnx.training_graph import Meant, build
from optexport.errors import HyperparameterError, ModelError, OptexportError

from .referee import Case, case, derive

SPEC = ox.spec("sgd", lr=0.1)


def model(
    nodes: Sequence[onnx.NodeProto], *, x: Any = ("N", 3), y: Any = None, kind: int = T.FLOAT,
    weights: dict[str, np.ndarray] | None = None, opset: int = 18,
) -> onnx.ModelProto:  # fmt: skip
    held = {"w": np.ones((3, 3), np.float32)} if weights is None else weights
    inputs = [helper.make_tensor_value_info("x", T.FLOAT, x)]
    outputs = [helper.make_tensor_value_info("y", kind, y if y is not None else [None, None])]
    values = [numpy_helper.from_array(a, n) for n, a in held.items()]
    graph = helper.make_graph(nodes, "m", inputs, outputs, values)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


LINEAR = [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")]


def refused(match: str, *args: Any, error: type[OptexportError] = ModelError, **options: Any) -> None:
    with pytest.raises(error, match=match):
        build(*args, **options)


def test_the_model_that_the_others_differ_from_is_built() -> None:
    assert set(build(model(LINEAR), "mse", SPEC).params) == {"w"}


def control(kind: str) -> list[onnx.NodeProto]:
    value = helper.make_tensor_value_info
    one = [helper.make_node("Identity", ["h"], ["a"])]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="linear")]
    if kind == "If":
        g = helper.make_graph(one, "branch", [], [value("a", T.FLOAT, None)])
        nodes.append(helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))))
        nodes.append(helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0))
        nodes.append(helper.make_node("Cast", ["top"], ["b"], to=T.BOOL))
        return [*nodes, helper.make_node("If", ["b"], ["y"], name="choice", then_branch=g, else_branch=g)]
    if kind == "Loop":
        body = [helper.make_node("Identity", ["on"], ["on2"]), helper.make_node("Mul", ["s", "s"], ["s2"])]
        g = helper.make_graph(body, "body", [value("i", T.INT64, []), value("on", T.BOOL, []), value("s", T.FLOAT, None)],
                              [value("on2", T.BOOL, []), value("s2", T.FLOAT, None)])  # fmt: skip
        nodes.append(helper.make_node("Constant", [], ["n"], value=numpy_helper.from_array(np.int64(2))))
        return [*nodes, helper.make_node("Loop", ["n", "", "h"], ["y"], name="choice", body=g)]
    body = [helper.make_node("Add", ["s", "row"], ["s2"]), helper.make_node("Identity", ["s2"], ["out"])]
    g = helper.make_graph(body, "body", [value("s", T.FLOAT, [3]), value("row", T.FLOAT, [3])],
                          [value("s2", T.FLOAT, [3]), value("out", T.FLOAT, [3])])  # fmt: skip
    zero = numpy_helper.from_array(np.zeros(3, np.float32))
    nodes.append(helper.make_node("Constant", [], ["z"], value=zero))
    return [
        *nodes,
        helper.make_node("Scan", ["z", "h"], ["last", "y"], name="choice", body=g, num_scan_inputs=1),
    ]


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan"])
def test_control_flow(kind: str) -> None:
    refused(rf"node 'choice' \({kind}\): control flow has no gradient here; unroll it in the exporter",
            model(control(kind)), "mse", SPEC, meant=Meant(train=["w"]))  # fmt: skip


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_operators(kind: str, gates: int) -> None:
    draw = np.random.default_rng(0)
    weights = {"w": draw.standard_normal((1, gates * 2, 3)), "r": draw.standard_normal((1, gates * 2, 2))}
    node = helper.make_node(kind, ["x", "w", "r"], ["y"], name="cell", hidden_size=2)
    m = model(
        [node], x=(5, 1, 3), y=[None] * 4, weights={n: a.astype(np.float32) for n, a in weights.items()}
    )
    refused(
        rf"node 'cell' \({kind}\): recurrent operators have no gradient here; export them unrolled",
        m,
        "mse",
        SPEC,
    )


def test_an_operator_without_a_rule() -> None:
    node = helper.make_node("Det", ["h"], ["y"], name="volume")
    m = model([helper.make_node("MatMul", ["x", "w"], ["h"]), node], x=(3, 3), y=[])
    refused(
        r"node 'volume' \(Det\): no gradient rule for operator Det; add one in .*training/gradients",
        m,
        "output",
        SPEC,
    )


def test_an_operator_of_somebody_else() -> None:
    node = helper.make_node("Fancy", ["h"], ["y"], name="fancy", domain="com.acme")
    m = model([helper.make_node("MatMul", ["x", "w"], ["h"]), node])
    refused(r"'fancy'.*com\.acme::Fancy", m, "mse", SPEC, output="y")


REFUSED: list[tuple[Case, str]] = [
    (case("a", "ReduceL2", "x", None, {"x": (4, 3)}, noop_with_empty_axes=1), r"reduces no axis .*leave the node out"),
    (case("b", "Einsum", "x", None, {"x": (3, 3)}, equation="ii->i"), r"equation 'ii->i' takes a diagonal"),
    (case("c", "ScatterND", "x i u", None, {"x": (4,), "u": (2,)}, other={"i": np.array([[0], [0]])}, reduction="add"),
     r"reduction 'add' has no gradient here, and the runtime adds from several threads at once; expected 'none'"),
    (case("d", "ScatterElements", "x i u", None, {"x": (4,), "u": (2,)}, other={"i": np.array([0, 1])}, reduction="max"),
     r"reduction 'max' has no gradient here; expected 'none' or 'add'"),
    (case("e", "OneHot", "i n v", None, {"v": (2,)}, other={"i": np.array([0, 1])}, fixed={"n": np.array([3])}),
     r"its values depend on a parameter; expected constants"),
    (case("f", "Mod", "x m", None, {"x": (4,), "m": (4,)}), r"expected fmod=1, the remainder of real numbers"),
    (case("g", "MaxPool", "x", None, {"x": (1, 1, 4, 4)}, kernel_shape=[2, 2], storage_order=1),
     r"storage_order 1 has no gradient"),
    (case("h", "Conv", "x w", None, {"x": (1, 1, 4, 4), "w": (1, 1, 2, 2)}, modes=("free",)),
     r"(unknown shape; expected known sizes|expected known spatial sizes)"),
    (case("i", "TopK", "x k", None, {"x": (4,)}, other={"k": np.array([2])}, outputs="y i"), ""),
    (case("j", "Tile", "x r", None, {"x": (4,)}, other={"r": np.array([2])}),
     r"input 1 \('r'\) expected a constant, found a computed"),
    (case("k", "ReduceSum", "x a", None, {"x": (4, 3)}, other={"a": np.array([1])}), r"input 1 \('a'\) expected a constant"),
    (case("l", "BatchNormalization", "x w b mean var", None, {"x": (4, 3), "w": (3,), "b": (3,), "mean": (3,)},
          fixed={"var": np.ones(3)}), r"input 3 \('mean'\) depends on a parameter, expected a constant: it has no gradient"),
    (case("m", "Resize", "x - s", None, {"x": (1, 1, 4, 4)}, fixed={"s": np.float32([1, 1, 2, 2])}, modes=("free",)),
     r"axis 2 has an unknown size, expected known ones for what it resizes"),
    (case("n", "Pad", "x p", None, {"x": (4,)}, other={"p": np.array([1, 1])}), r"input 1 \('p'\) expected a constant"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("c", "match"), REFUSED, ids=lambda v: v.nodes[0].op_type if isinstance(v, Case) else ""
)
def test_refusals_of_rules(c: Case, match: str) -> None:
    """Each names its node; one is no refusal (a computed k is fine), so that the way of asking is proven."""
    ask = lambda: derive(c.model("float32", c.modes[0]), list(c.real), 4)  # noqa: E731
    if not match:
        ask()
        return
    with pytest.raises(ModelError, match=match) as e:
        ask()
    assert f"node 'the_{c.nodes[0].op_type}' ({c.nodes[0].op_type}): " in str(e.value)


def test_nothing_trains() -> None:
    refused(
        "expected a tensor that trains, found none",
        model([helper.make_node("Relu", ["x"], ["y"])], weights={}),
        "mse",
        SPEC,
    )
    flat = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Floor", ["h"], ["y"])]
    refused("expected a tensor that trains, found none that the loss depends on", model(flat), "mse", SPEC)
    whole = {"w": np.ones((3, 3), np.int64)}
    ints = [helper.make_node("Cast", ["w"], ["v"], to=T.FLOAT), helper.make_node("MatMul", ["x", "v"], ["y"])]
    refused("expected a tensor that trains, found none", model(ints, weights=whole), "mse", SPEC)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    refused(r"model\.onnx: expected an ONNX file, found no such file", path, "mse", SPEC)
    path.write_bytes(b"not a model, but text")
    refused(r"model\.onnx: expected (an ONNX file|a valid ONNX model)", path, "mse", SPEC)
    path.write_bytes(b"")
    refused(r"model\.onnx: expected (an ONNX file|a valid ONNX model)", path, "mse", SPEC)


def test_a_model_that_is_invalid() -> None:
    broken = model([helper.make_node("MatMul", ["x", "nowhere"], ["y"])])
    refused(r"expected a valid ONNX model; .*nowhere", broken, "mse", SPEC)
    wrong = model(LINEAR, weights={"w": np.ones((5, 3), np.float32)})
    refused(r"shape inference: .*[Ii]ncompatible", wrong, "mse", SPEC)


def test_losses_that_do_not_fit() -> None:
    refused(r"unknown loss 'mean'; expected one of", model(LINEAR), "mean", SPEC, error=HyperparameterError)
    refused(
        r"loss output: 'y' expected a scalar, found shape \['N', 3\]",
        model(LINEAR, y=["N", 3]),
        "output",
        SPEC,
    )
    two = model(LINEAR)
    two.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    two.graph.output.append(helper.make_tensor_value_info("z", T.FLOAT, [None, None]))
    refused(r"the model has outputs y, z; say which one the loss is of \(output=\)", two, "mse", SPEC)
    refused(r"output 'q' expected one of y, z", two, "mse", SPEC, output="q")
    chosen = [
        *LINEAR[:0],
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ArgMax", ["h"], ["y"]),
    ]
    refused(r"loss mse: output 'y' expected real numbers, found INT64; take the one before the ArgMax or Cast",
            model(chosen, kind=T.INT64), "mse", SPEC)  # fmt: skip


def test_a_label_of_the_wrong_type_is_refused_by_the_runtime() -> None:
    """The graph says the type of its label: class numbers are int64, targets have the output's type."""
    for loss, kind in (("softmax_cross_entropy", T.INT64), ("mse", T.FLOAT)):
        made = build(model(LINEAR), loss, SPEC).model
        label = next(i for i in made.graph.input if i.name == "label")
        assert label.type.tensor_type.elem_type == kind
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.ones((2, 3), np.float32), "label": np.ones((2, 3), np.int64), "w": np.ones((3, 3), np.float32),
             "step": np.int64(0), "lr": np.float32(0.1)}  # fmt: skip
    with pytest.raises(Exception, match=r"(?s)nexpected input data type.*tensor\(float\)"):
        session.run(
            None, {k: np.asarray(v) for k, v in feeds.items() if k in {i.name for i in session.get_inputs()}}
        )
