"""Every way to a convolution weight's gradient gives the same sum, whichever the shape would choose."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport.converters.onnx.training.backward import differentiate
from optexport.converters.onnx.training.gradients import convolution, convolution_weight
from optexport.converters.onnx.training.passes import simplify
from optexport.converters.onnx.training.tape import Tape

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
torch = pytest.importorskip("torch", reason="needs torch, which is not in this environment")

WAYS = {"taps": "_taps", "columns": "_columns", "swapped": "_swapped"}
# (dimensions, kernel, stride, dilation, pad, groups, channels in, channels out)
CASES = [
    c for c in itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (1, 2), (0, 1), (1, 2, 4), (4,), (4, 8))
    if c[0] == 2 or c[1] != 2
]  # fmt: skip


def tape_of(case, symbolic: bool):
    """(the graph's tape, x, w, g, the gradient's name) of one convolution, differentiated."""
    dims, k, stride, dilation, pad, groups, channels, out = case
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, channels, *(7, 8, 6)[:dims]))
    w = rng.standard_normal((out, channels // groups, *[k] * dims))
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=[stride] * dims, dilations=[dilation] * dims,
        pads=[pad] * 2 * dims, group=groups,
    )  # fmt: skip
    info = helper.make_tensor_value_info("x", T.FLOAT, ["N" if symbolic else 3, *x.shape[1:]])
    held = [numpy_helper.from_array(w.astype(np.float32), "w")]
    graph = helper.make_graph(
        [node], "one", [info], [helper.make_tensor_value_info("y", T.FLOAT, None)], held
    )
    tape = Tape(18, {"x", "w", "y", "g"})
    simplify(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tape,
        {"w": w.astype(np.float32)},
    )
    tape.types["g"], tape.shapes["g"] = T.FLOAT, tape.shapes["y"]
    return tape, x, w, differentiate(tape, "y", ["w"], "g")["w"]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_every_shape(way, monkeypatch):
    monkeypatch.setattr(convolution, "weight_gradient", getattr(convolution_weight, WAYS[way]))
    for i, case in enumerate(CASES):
        dims, _, stride, dilation, pad, groups, *_ = case
        tape, x, w, name = tape_of(case, symbolic=bool(i % 2))
        weight = torch.tensor(w, requires_grad=True)
        f = getattr(torch.nn.functional, f"conv{dims}d")
        y = f(torch.tensor(x), weight, stride=stride, dilation=dilation, padding=pad, groups=groups)
        g = np.random.default_rng(2).standard_normal(y.shape)
        y.backward(torch.tensor(g))
        values = [helper.make_tensor_value_info(n, T.FLOAT, None) for n in ("x", "w", "g", name)]
        graph = helper.make_graph(tape.nodes, "backward", values[:3], values[3:], tape.initializers())
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {n: a.astype(np.float32) for n, a in {"x": x, "w": w, "g": g}.items()}
        found = session.run([name], feeds)[0]
        # Three roundings an addend, and a sum of as many terms as the output has places: √n of them, twice.
        terms = g.size / g.shape[1]
        scale = float(np.sqrt(terms)) * np.abs(x).max() * np.abs(g).max()
        assert found.shape == w.shape, case
        assert np.abs(found - weight.grad.numpy()).max() <= (3 + 2 * np.sqrt(terms)) * 2.0**-24 * scale, case


@pytest.mark.parametrize(
    ("case", "way"),
    [
        ((2, 1, 1, 1, 0, 1, 4, 8), "_pointwise"),
        ((2, 1, 2, 1, 0, 1, 4, 8), "_taps"),
        ((2, 3, 1, 1, 1, 1, 16, 8), "_taps"),
        ((2, 3, 1, 1, 1, 8, 8, 8), "_taps"),
        ((2, 3, 1, 1, 1, 1, 3, 8), "_columns"),
        ((2, 3, 1, 1, 1, 4, 8, 8), "_columns"),
        ((2, 7, 1, 1, 3, 1, 16, 8), "_swapped"),
        ((2, 5, 1, 1, 2, 1, 3, 8), "_swapped"),
    ],
)
def test_which_way_a_shape_takes(case, way, monkeypatch):
    taken = []
    for name in ("_pointwise", "_taps", "_columns", "_swapped"):
        own = getattr(convolution_weight, name)
        monkeypatch.setattr(
            convolution_weight, name, lambda *a, own=own, name=name: (taken.append(name), own(*a))[1]
        )
    tape_of(case, symbolic=False)
    assert taken == [way]
