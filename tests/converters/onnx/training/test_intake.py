"""Taking forward models in: what trains, what is folded, what an exporter has damaged, and every refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper, parser

import optexport as ox
from optexport.cli import main
from optexport.converters.onnx.training_graph import Built, Meant, build
from optexport.errors import ModelError, NamingError

F32 = np.float32


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(F32)


def model(text: str, tensors: Mapping[str, np.ndarray] | None = None, opset: int = 18) -> onnx.ModelProto:
    """A model from ONNX' text form: ``(inputs) => (outputs) {nodes}``; tensors are its initializers."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in (tensors or {}).items())
    return made


LINEAR = "(float[N, 4] x) => (float[N, 3] y) {h = MatMul(x, w)  y = Add(h, b)}"
WEIGHTS = {"w": random(4, 3), "b": random(3)}


def made(m: Any, loss: str = "mse", output: str | None = None, **meant: Any) -> Built:
    return build(m, loss, ox.spec("sgd", lr=0.1), output=output, meant=Meant(**meant))


def refused(m: Any, match: str, **options: Any) -> None:
    with pytest.raises((ModelError, NamingError), match=match) as e:
        made(m, **options)
    assert "\n" not in str(e.value)


def step(built: Built, x: Any, label: Any, **others: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of one step."""
    pytest.importorskip("onnxruntime", reason="runs graphs on stock onnxruntime (extra test-stock)")
    from .stepping import Stepper

    stepper = Stepper(built, gradients=True)
    loss = stepper(x, label, lr=0.1, **others)
    return loss, {n: stepper.seen[f"{n}.grad"] for n in built.params}


# What trains.


def test_every_tensor_trains_unless_told() -> None:
    assert list(made(model(LINEAR, WEIGHTS)).params) == ["w", "b"]


@pytest.mark.parametrize(
    ("meant", "params"),
    [({"train": ["w"]}, ["w"]), ({"train": ["[wb]"], "freeze": ["w"]}, ["b"]), ({"freeze": ["b*"]}, ["w"])],
)
def test_patterns_say_what_trains(meant: dict[str, Any], params: list[str]) -> None:
    built = made(model(LINEAR, WEIGHTS), **meant)
    assert list(built.params) == params
    held = {i.name for i in built.model.graph.initializer}
    assert {"w", "b"} - set(params) <= held, "frozen tensors are constants of the graph"
    x, label = random(5, 4), random(5, 3, seed=1)
    _, grads = step(built, x, label)
    d = 2 * (x @ WEIGHTS["w"] + WEIGHTS["b"] - label) / 15
    want = {"w": x.T @ d, "b": d.sum(0)}
    assert set(grads) == set(params)
    for n, g in grads.items():
        np.testing.assert_allclose(g, want[n], rtol=1e-5, atol=1e-6)


def test_a_pattern_that_finds_nothing_is_an_error() -> None:
    refused(
        model(LINEAR, WEIGHTS), "train: 'W' expected a tensor of the model, found none; it has", train=["W"]
    )
    refused(model(LINEAR, WEIGHTS), "freeze: 'c' expected a tensor", freeze=["c"])


def test_nothing_that_trains_is_an_error() -> None:
    refused(model(LINEAR, WEIGHTS), "expected a tensor that trains, found none among", freeze=["*"])
    refused(model("(float[4] x) => (float[4] y) {y = Relu(x)}"), "found none among no tensors")
    refused(
        model("(float[4] x) => (float[4] y) {y = Relu(x)}", {"w": random(4)}), "found none that a node reads"
    )
    refused(
        model("(float[4] x) => (float[4] y, float[4] z) {y = Relu(x)  z = Add(x, w)}", {"w": random(4)}),
        "expected a tensor that trains, found none that the loss depends on",
        output="y",
    )


def test_what_the_loss_does_not_depend_on_is_said() -> None:
    text = (
        "(float[N, 4] x) => (float[N, 3] y, float[N, 4] z) {h = MatMul(x, w)  y = Add(h, b)  z = Mul(x, c)}"
    )
    built = made(model(text, {**WEIGHTS, "c": random(4), "d": random(2)}), output="y")
    assert list(built.params) == ["w", "b"]
    assert built.notes == [
        "parameter 'd' is read by no node; it does not train",
        "parameter 'c': the loss does not depend on it; it does not train",
    ]


def test_single_numbers_are_asked_about() -> None:
    text = "(float[N, 4] x) => (float[N, 3] y) {h = MatMul(x, w)  y = Mul(h, scale)}"
    m = model(text, {"w": random(4, 3), "scale": np.asarray(2, F32)})
    refused(
        m, "'scale': single numbers, which may be parameters or constants of the model; say which tensors"
    )
    assert list(made(m, freeze=["scale"]).params) == ["w"]
    assert list(made(m, train=["*"]).params) == ["w", "scale"]


def test_a_parameter_inside_control_flow_is_not_lost() -> None:
    text = """(float[N, 4] x, bool c) => (float[N, 3] y) {
        h = MatMul(x, w)
        y = If(c) <then_branch = t () => (float[N, 3] p) {p = Add(h, b)},
                   else_branch = e () => (float[N, 3] q) {q = Identity(h)}>}"""
    refused(model(text, WEIGHTS), r"\(If\): control flow has no gradient here")
    refused(model(text, WEIGHTS), r"\(If\): control flow has no gradient here", freeze=["w"])


# Folding.


def test_constants_are_folded_where_no_parameter_is_involved() -> None:
    text = """(float[N, 4] x) => (float[N, 3] y) {
        two = Constant<value_float = 2.0>()  four = Mul(two, two)  scaled = Mul(fixed, four)
        axes = Constant<value_ints = [0]>()  m = ReduceMean<keepdims = 1>(scaled, axes)
        turned = Transpose<perm = [1, 0]>(w)  back = Transpose<perm = [1, 0]>(turned)
        h = MatMul(x, back)  y = Add(h, m)}"""
    fixed = random(2, 3)
    built = made(model(text, {"w": WEIGHTS["w"], "fixed": fixed}), freeze=["fixed"])
    kinds = [n.op_type for n in built.model.graph.node if not n.name.startswith("optexport")]
    assert "ReduceMean" not in kinds[: kinds.index("Add")]
    assert "Constant" not in kinds
    assert kinds.count("Transpose") >= 2, "what a parameter is involved in stays"
    x, label = random(5, 4), random(5, 3, seed=1)
    loss, _ = step(built, x, label)
    want = np.mean((x @ WEIGHTS["w"] + (4 * fixed).mean(0) - label) ** 2)
    assert loss == pytest.approx(want, rel=1e-5)


def test_parts_of_a_shape_keep_their_types() -> None:
    """Attention divides by the root of a dimension, a whole number that a Cast makes real."""
    text = """(float[N, 8] x) => (float[N, 8] y) {
        s = Shape(x)  one = Constant<value_ints = [1]>()  end = Constant<value_ints = [2]>()
        d = Slice(s, one, end)  r = Cast<to = 1>(d)  q = Sqrt(r)  h = Mul(x, w)  y = Div(h, q)}"""
    w = random(8)
    built = made(model(text, {"w": w}))
    assert "Shape" not in [n.op_type for n in built.model.graph.node]
    x = random(3, 8)
    loss, _ = step(built, x, np.zeros((3, 8), F32))
    assert loss == pytest.approx(np.mean((x * w / np.sqrt(8)) ** 2), rel=1e-5)


def test_a_symbolic_batch_stays_free() -> None:
    text = """(float[N, 2, 3] x) => (float[N, K] y) {
        s = Shape<start = 0, end = 1>(x)  minus = Constant<value_ints = [-1]>()
        to = Concat<axis = 0>(s, minus)  f = Reshape(x, to)  y = MatMul(f, w)}"""
    built = made(model(text, {"w": random(6, 2)}))
    for n in (1, 5):
        x, label = random(n, 2, 3), random(n, 2)
        loss, grads = step(built, x, label)
        d = x.reshape(n, 6) @ built.params["w"] - label
        assert loss == pytest.approx(np.mean(d**2), rel=1e-5)
        np.testing.assert_allclose(grads["w"], x.reshape(n, 6).T @ d / n, rtol=1e-4, atol=1e-6)


SPLITS = {
    "sizes": (
        "sizes = Constant<value_ints = [1, 3]>()  s = SplitToSequence<axis = 1>(xc, sizes)",
        [(0, 1), (1, 4)],
    ),
    "one_size": ("k = Constant<value_int = 3>()  s = SplitToSequence<axis = 1>(xc, k)", [(0, 3), (3, 4)]),
    "ones": ("s = SplitToSequence<axis = 1>(xc)", [(0, 1), (1, 2)]),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_sequences_become_slices(kind: str) -> None:
    nodes, ranges = SPLITS[kind]
    text = f"""(float[N, 4] x) => (float[N, K] y) {{
        xc = Mul(x, c)  {nodes}
        i = Constant<value_int = 1>()  zero = Constant<value_int = 0>()
        a = SequenceAt(s, zero)  b = SequenceAt(s, i)  h = MatMul(a, v)  g = MatMul(b, w)  y = Add(h, g)}}"""
    (a0, a1), (b0, b1) = ranges
    tensors = {"c": random(4), "v": random(a1 - a0, 2), "w": random(b1 - b0, 2, seed=3)}
    built = made(model(text, tensors))
    assert not {"SplitToSequence", "SequenceAt"} & {n.op_type for n in built.model.graph.node}
    x, label = random(5, 4), random(5, 2)
    loss, grads = step(built, x, label)
    z = x * tensors["c"]
    d = z[:, a0:a1] @ tensors["v"] + z[:, b0:b1] @ tensors["w"] - label
    assert loss == pytest.approx(np.mean(d**2), rel=1e-5)
    np.testing.assert_allclose(grads["v"], z[:, a0:a1].T @ d / 5, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads["w"], z[:, b0:b1].T @ d / 5, rtol=1e-4, atol=1e-6)


def test_items_without_the_axis() -> None:
    text = """(float[N, 4] x) => (float[N] y) {
        xw = Mul(x, w)  s = SplitToSequence<axis = 1, keepdims = 0>(xw)  i = Constant<value_int = -1>()
        y = SequenceAt(s, i)}"""
    built = made(model(text, {"w": random(4)}))
    x, label = random(5, 4), random(5)
    assert step(built, x, label)[0] == pytest.approx(
        np.mean((x[:, 3] * built.params["w"][3] - label) ** 2), rel=1e-5
    )


def test_a_split_that_only_the_run_knows_is_refused() -> None:
    text = """(float[N, M] x, int64 k) => (float[N, M] y) {
        h = Mul(x, w)  s = SplitToSequence<axis = 1>(h, k)  i = Constant<value_int = 0>()  y = SequenceAt(s, i)}"""
    refused(
        model(text, {"w": random(1)}),
        "'y' .SequenceAt.: expected a split of known sizes and a constant position",
    )


def test_cast_like_is_a_cast() -> None:
    text = "(float[N, 4] x, float[1] t) => (float[N, 4] y) {c = CastLike(k, t)  h = Mul(x, w)  y = Add(h, c)}"
    built = made(model(text, {"w": random(4), "k": np.asarray([3], np.int64)}))
    assert "CastLike" not in [n.op_type for n in built.model.graph.node]
    loss, _ = step(built, {"x": np.zeros((2, 4), F32), "t": np.ones(1, F32)}, np.zeros((2, 4), F32))
    assert loss == 9.0


# Exporters' damage.


@pytest.mark.parametrize(
    "name", ["onnx::MatMul_12", "val_3", "_val_3", "/fc/Constant_output_0", "const_fold_opt__7"]
)
def test_names_that_an_exporter_made_up_are_asked_about(name: str) -> None:
    """`onnx::MatMul_12` is how torch's older exporter calls the transposed weight of a Linear."""
    m = model(LINEAR.replace("w)", "W)"), {"W": random(4, 3), "b": random(3)})
    m.graph.initializer[0].name = m.graph.node[0].input[1] = name
    refused(
        m,
        f"'{name}': names that an exporter made up, of constants or of weights that it transposed or merged; export",
    )
    assert list(made(m, freeze=[name]).params) == ["b"]
    assert list(made(m, train=["*"]).params) == [name, "b"]


def test_weights_are_compared_with_the_framework_s_own() -> None:
    m = model(LINEAR, WEIGHTS)
    assert list(made(m, expected={"w": (4, 3), "b": (3,)}).params) == ["w", "b"]
    assert list(made(m, expected={"w": (4, 3)}).params) == ["w"]
    refused(
        m,
        "parameter 'w': expected shape .3, 4., found .4, 3.; the exporter transposed it",
        expected={"w": (3, 4)},
    )
    refused(m, "parameter 'b': expected shape .5., found .3.$", expected={"b": (5,)})
    refused(
        m, "parameter 'v': expected a tensor of this name, found none; exporters merge", expected={"v": (5,)}
    )


SHARED = "(float[N, 4] x) => (float[N, 4] y) {h = Mul(x, w)  r = Relu(h)  y = Mul(r, w)}"


def test_shared_weights_are_asked_about() -> None:
    m = model(SHARED, {"w": random(4)})
    refused(
        m,
        "parameter 'w' is shared by 'h', 'y': if the model ties its weights, say so .tied=.; if an exporter merged",
    )
    built = made(m, tied=["w"])
    x, label = random(5, 4), random(5, 4, seed=2)
    _, grads = step(built, x, label)
    w = built.params["w"]
    r = np.maximum(x * w, 0)
    d = 2 * (r * w - label) / 20
    np.testing.assert_allclose(grads["w"], (d * r + d * w * (x * w > 0) * x).sum(0), rtol=1e-4, atol=1e-6)


NORM = (
    "(float[N, 2, 3] x) => (float[N, 2, 3] y) {y = BatchNormalization<epsilon = 0.001>(x, s, b, mean, var)}"
)
NORMS = {"s": random(2), "b": random(2, seed=1), "mean": random(2, seed=2), "var": np.asarray([0.5, 2], F32)}


def test_batch_normalisation_is_asked_about() -> None:
    refused(
        model(NORM, NORMS),
        "has 1 BatchNormalization nodes, which exporters write in inference mode even for a model",
    )


def test_batch_normalisation_in_inference_mode() -> None:
    built = made(model(NORM, NORMS), batch_norm="inference")
    assert (list(built.params), built.buffers) == (["s", "b"], {})
    x, label = random(4, 2, 3), random(4, 2, 3, seed=5)
    loss, grads = step(built, x, label)
    column = {n: a[:, None].astype(np.float64) for n, a in NORMS.items()}
    xhat = (x - column["mean"]) / np.sqrt(column["var"] + 0.001)
    d = xhat * column["s"] + column["b"] - label
    assert loss == pytest.approx(np.mean(d**2), rel=1e-5)
    np.testing.assert_allclose(grads["s"], (2 * d * xhat / d.size).sum((0, 2)), rtol=1e-4)


def test_batch_normalisation_in_training_mode_moves_its_statistics() -> None:
    built = made(model(NORM, NORMS), batch_norm="train")
    assert (list(built.params), list(built.buffers)) == (["s", "b"], ["mean", "var"])
    names = [o.name for o in built.model.graph.output]
    assert {"mean.new", "var.new"} <= set(names)
    assert names[0] == "loss"


TABLE = "(int64[N, 3] x) => (float[N, 3, 2] y) {y = Gather(emb, x)}"


def test_padding_rows_are_asked_about() -> None:
    table = random(5, 2)
    table[1] = 0
    m = model(TABLE, {"emb": table})
    refused(
        m,
        "table 'emb' has one row of zeros, 1, as padding_idx leaves it, which the file does not say; state frozen_rows",
    )
    x, label = np.asarray([[0, 1, 4]]), np.ones((1, 3, 2), F32)
    free = step(made(m, frozen_rows={"emb": []}), x, label)[1]["emb"]
    assert np.abs(free[[0, 1, 4]]).min() > 0
    for rows in ([1], [-4]):
        masked = step(made(m, frozen_rows={"emb": rows}), x, label)[1]["emb"]
        assert not masked[1].any()
        np.testing.assert_array_equal(masked[[0, 2, 3, 4]], free[[0, 2, 3, 4]])


@pytest.mark.parametrize(("rows", "match"), [
    ({"emb": [7]}, "frozen_rows: 'emb' has 5 rows, from 0 on; expected rows of it, found 7"),
    ({"table": [1]}, "frozen_rows: 'table' expected a table that trains and that a Gather reads, found none; there"),
])  # fmt: skip
def test_frozen_rows_that_are_not_there(rows: dict[str, list[int]], match: str) -> None:
    refused(model(TABLE, {"emb": random(5, 2)}), match, frozen_rows=rows)


# Files.


def test_external_data(tmp_path: Path) -> None:
    m = model(LINEAR, {"w": random(4, 300), "b": random(300)})
    del m.graph.output[0].type.tensor_type.shape.dim[1]
    m.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 300
    path = tmp_path / "model.onnx"
    onnx.save_model(m, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    built = made(path)
    np.testing.assert_array_equal(built.params["w"], random(4, 300))
    (tmp_path / "weights.bin").unlink()
    refused(path, "model.onnx: expected the files with its weights beside it; .*weights.bin")


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_older_operator_sets_are_converted(opset: int) -> None:
    axes = "m = ReduceMean<axes = [1], keepdims = 1>(h)"
    text = f"(float[N, 4] x) => (float[N, 3] y) {{h = MatMul(x, w)  {axes}  c = Sub(h, m)  y = Add(c, b)}}"
    built = made(model(text, WEIGHTS, opset))
    versions = {o.domain: o.version for o in built.model.opset_import}
    assert versions[""] == 18
    x, label = random(5, 4), random(5, 3, seed=1)
    h = x @ WEIGHTS["w"]
    want = np.mean((h - h.mean(1, keepdims=True) + WEIGHTS["b"] - label) ** 2)
    assert step(built, x, label)[0] == pytest.approx(want, rel=1e-5)


def test_newer_operator_sets_are_kept() -> None:
    built = made(model(LINEAR, WEIGHTS, 21))
    assert {o.domain: o.version for o in built.model.opset_import}[""] == 21
    step(built, random(5, 4), random(5, 3))


def test_local_functions_are_inlined() -> None:
    m = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>
        g (float[N, 4] x) => (float[N, 3] y) {h = MatMul(x, w)  y = mine.Twice(h)}
        <domain: "mine", opset_import: ["" : 18]> Twice (a) => (z) {z = Add(a, a)}"""
    )
    m.graph.initializer.append(numpy_helper.from_array(WEIGHTS["w"], "w"))
    built = made(m)
    assert "mine" not in {o.domain for o in built.model.opset_import}
    x = random(5, 4)
    loss, _ = step(built, x, np.zeros((5, 3), F32))
    assert loss == pytest.approx(np.mean((2 * x @ WEIGHTS["w"]) ** 2), rel=1e-5)


def _unknown_operator() -> onnx.ModelProto:
    return model("(float[N, 4] x) => (float[N, 4] y) {h = Mul(x, w)  y = Det2(h)}", {"w": random(4)})


def _foreign_operator() -> onnx.ModelProto:
    m = model("(float[N, 4] x) => (float[N, 4] y) {h = Mul(x, w)  y = Relu(h)}", {"w": random(4)})
    m.graph.node[1].domain, m.graph.node[1].op_type = "com.microsoft", "FastGelu"
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return m


def _wrong_shapes() -> onnx.ModelProto:
    return model(LINEAR, {"w": random(5, 3), "b": random(3)})


def _not_in_order() -> onnx.ModelProto:
    return model("(float[N, 4] x) => (float[N, 4] y) {y = Relu(h)  h = Mul(x, w)}", {"w": random(4)})


def _no_rule() -> onnx.ModelProto:
    return model("(float[4, 4] x) => (float y) {h = Mul(x, w)  y = Det(h)}", {"w": random(4)})


def _recurrent() -> onnx.ModelProto:
    text = "(float[T, N, 4] x) => (float[T, 1, N, 2] y) {y, h = GRU<hidden_size = 2>(x, w, r)}"
    return model(text, {"w": random(1, 6, 4), "r": random(1, 6, 2)})


def _half() -> onnx.ModelProto:
    text = "(float16[N, 4] x) => (float16[N, 4] y) {y = Mul(x, w)}"
    return model(text, {"w": random(4).astype(np.float16)})


def _two_outputs() -> onnx.ModelProto:
    return model(
        "(float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {y = Mul(x, w)  z = Relu(y)}", {"w": random(4)}
    )


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown operator": (_unknown_operator, "expected a valid ONNX model; .*Det2"),
    "foreign operator": (
        _foreign_operator,
        "'y': expected an operator of ai.onnx, found com.microsoft::FastGelu",
    ),
    "wrong shapes": (_wrong_shapes, "shape inference: .*MatMul"),
    "nodes out of order": (_not_in_order, "expected a valid ONNX model; .*h"),
    "no rule": (_no_rule, r"node 'y' \(Det\): no gradient rule for operator Det; add one in"),
    "recurrent": (_recurrent, r"node 'y' \(GRU\): recurrent operators have no gradient here"),
    "half precision": (_half, "parameters have the types float16; expected all float32, or all float64"),
    "two outputs": (_two_outputs, "the model has outputs y, z; say which one the loss is of"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_models_are_one_error_and_no_file(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, match = BAD[what]
    refused(make(), match)
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(SystemExit) as e:
        main(["training-graph", str(tmp_path / "model.onnx"), "--loss", "mse", "--rule", "sgd", "--hyper", "lr=0.1",
              "-o", str(tmp_path / "out.onnx")])  # fmt: skip
    assert e.value.code == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1
    assert not said.out
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"not a model", "expected an ONNX file, found something else"), (b"", "expected a valid ONNX model"),
     (None, "expected an ONNX file, found no such file or directory")],
)  # fmt: skip
def test_wrong_files(content: bytes | None, match: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    refused(path, f"model.onnx: {match}")
    refused(str(tmp_path), "expected an ONNX file, found is a directory")


# The loss's output, and names.


def test_the_loss_is_of_the_output_that_is_named() -> None:
    assert list(made(_two_outputs(), output="z").params) == ["w"]
    refused(_two_outputs(), "output 'q' expected one of y, z", output="q")


def test_the_model_s_own_scalar() -> None:
    text = "(float[N, 4] x) => (float loss) {h = Mul(x, w)  loss = ReduceSum<keepdims = 0>(h)}"
    built = made(model(text, {"w": random(4)}), "output")
    assert "label" not in [i.name for i in built.model.graph.input]
    x = random(5, 4)
    loss, grads = step(built, x, None)
    assert loss == pytest.approx((x * built.params["w"]).sum(), rel=1e-5)
    np.testing.assert_allclose(grads["w"], x.sum(0), rtol=1e-5)
    refused(
        model("(float[N, 4] x) => (float[N, 4] y) {y = Mul(x, w)}", {"w": random(4)}),
        "loss output: 'y' expected a scalar, found shape .'N', 4.",
        loss="output",
    )


@pytest.mark.parametrize(
    "inner", ["loss", "label", "step", "lr", "seed", "w.new", "w.grad", "optexport/step", "a.new"]
)
def test_inner_values_may_have_the_graph_s_names(inner: str) -> None:
    m = model("(float[N, 4] x) => (float[N, 4] y) {h = Mul(x, w)  y = Tanh(h)}", {"w": random(4)})
    m.graph.node[0].output[0] = m.graph.node[1].input[0] = inner
    x, label = random(5, 4), random(5, 4, seed=1)
    loss, grads = step(made(m), x, label)
    d = np.tanh(x * numpy_helper.to_array(m.graph.initializer[0])) - label
    assert loss == pytest.approx(np.mean(d**2), rel=1e-5)
    assert grads["w"].shape == (4,)


@pytest.mark.parametrize("name", ["loss", "label", "step", "lr"])
def test_inputs_and_parameters_may_not(name: str) -> None:
    m = model(f"(float[N, 4] {name}) => (float[N, 4] y) {{y = Mul({name}, w)}}", {"w": random(4)})
    refused(m, f"'{name}'.*; rename")
    m = model(f"(float[N, 4] x) => (float[N, 4] y) {{y = Mul(x, {name})}}", {name: random(4)})
    refused(m, f"'{name}'.*; rename")


def test_tensors_whose_names_meet_are_refused() -> None:
    text = "(float[N, 4] x) => (float[N, 4] y) {h = Mul(x, a)  y = Mul(h, b)}"
    m = model(text, {"a": random(4), "b": random(4)})
    m.graph.initializer[1].name = m.graph.node[1].input[1] = "a.new"
    refused(m, "'a.new'.*; rename")


def test_outputs_that_are_kept() -> None:
    built = build(model(LINEAR, WEIGHTS), "mse", ox.spec("sgd", lr=0.1), keep=("y",))
    assert [o.name for o in built.model.graph.output][:2] == ["loss", "y"]
    with pytest.raises(ModelError, match="keep: 'z' expected an output of the model: y"):
        build(model(LINEAR, WEIGHTS), "mse", ox.spec("sgd", lr=0.1), keep=("z",))


def test_a_computed_dropout_ratio_is_refused() -> None:
    text = """(float[N, 4] x, float r, bool t) => (float[N, 4] y) {h = Mul(x, w)  y = Dropout(h, r, t)}"""
    m = model(text, {"w": random(4)})
    refused(m, r"node 'y' \(Dropout\): its ratio 'r' is computed, expected a constant; state the probability")
    assert "seed" not in [i.name for i in made(m, dropout=0.0).model.graph.input]


def test_the_file_is_not_changed() -> None:
    m = model(NORM, NORMS)
    before = m.SerializeToString(deterministic=True)
    made(m, batch_norm="train")
    assert m.SerializeToString(deterministic=True) == before
    assert m.graph.initializer[0].data_type == T.FLOAT
