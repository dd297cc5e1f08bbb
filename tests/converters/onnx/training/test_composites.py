"""Batch normalisation and dropout in training mode: statistics, gradients, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport.converters.onnx.training.backward import differentiate
from optexport.converters.onnx.training.composites import SEED, write_out
from optexport.converters.onnx.training.forward import Forward, Meant, read_forward
from optexport.errors import ModelError

from .referee import UNIT, assert_plain, run, torch

EPS = 2.0**-10
NAMES = ("w", "b", "mean", "var")


def norm_model(shape: tuple[Any, ...], momentum: float = 0.75, dtype: Any = np.float32) -> onnx.ModelProto:
    channels = shape[1]
    draw = np.random.default_rng(4)
    held = {"w": draw.uniform(0.5, 2, channels), "b": draw.standard_normal(channels),
            "mean": draw.standard_normal(channels), "var": draw.uniform(0.5, 2, channels)}  # fmt: skip
    node = helper.make_node(
        "BatchNormalization", ["x", *NAMES], ["y"], name="bn", epsilon=EPS, momentum=momentum
    )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = helper.make_tensor_value_info("x", kind, shape)
    y = helper.make_tensor_value_info("y", kind, [None] * len(shape))
    values = [numpy_helper.from_array(a.astype(dtype), n) for n, a in held.items()]
    graph = helper.make_graph([node], "norm", [x], [y], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def derived(forward: Forward, wanted: list[str], rank: int) -> onnx.ModelProto:
    """The model's output, its gradients and the new buffers; parameters and buffers are inputs."""
    tape = forward.tape
    kind = tape.types["y"]
    tape.types["d.y"], tape.shapes["d.y"] = kind, tape.shapes["y"]
    grads = differentiate(tape, "y", wanted, "d.y")
    write_out(tape)
    for name, g in grads.items():
        tape.op("Identity", g, name=f"d.{name}")
    for name, value in forward.updates.items():
        tape.op("Identity", value, name=f"{name}.new")
    held = forward.params | forward.buffers
    inputs = [*forward.data, *(helper.make_tensor_value_info(n, kind, a.shape) for n, a in held.items())]
    inputs.append(helper.make_tensor_value_info("d.y", kind, [None] * rank))
    names = ["y", *(f"d.{n}" for n in grads), *(f"{n}.new" for n in forward.updates)]
    outputs = [helper.make_tensor_value_info(n, kind, None) for n in names]
    for o in outputs:
        o.type.tensor_type.shape.SetInParent()
        o.type.tensor_type.ClearField("shape")
    graph = helper.make_graph(tape.nodes, "derived", inputs, outputs, tape.initializers())
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", tape.opset)], ir_version=9)
    assert_plain(made)
    return made


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 2, 3, 2)], ids=str)
def test_batch_norm_over_steps(shape: tuple[int, ...], dtype: str, symbolic: bool) -> None:
    """Output, gradients of input, scale and bias, and both running statistics, five batches on."""
    kinds = {
        2: torch.nn.BatchNorm1d,
        3: torch.nn.BatchNorm1d,
        4: torch.nn.BatchNorm2d,
        5: torch.nn.BatchNorm3d,
    }
    model = norm_model(("N", *shape[1:]) if symbolic else shape, dtype=dtype)
    forward = read_forward(model, Meant(batch_norm="train"))
    assert set(forward.params) == {"w", "b"} and set(forward.buffers) == {"mean", "var"}
    start = forward.params | forward.buffers
    made = derived(forward, ["x", "w", "b"], len(shape))
    layers = {}
    for kind in ("float32", "float64"):
        layer = layers[kind] = kinds[len(shape)](3, eps=EPS, momentum=0.25, dtype=getattr(torch, kind))
        held = dict(
            zip(NAMES, (layer.weight, layer.bias, layer.running_mean, layer.running_var), strict=True)
        )
        with torch.no_grad():
            for n, t in held.items():
                t.copy_(torch.tensor(start[n]))
    draw = np.random.default_rng(8)
    state = dict(start)
    for step in range(5):
        # A batch of another size each time, where it is symbolic.
        size = (shape[0] + (step if symbolic else 0), *shape[1:])
        x = (2 * draw.standard_normal(size) + 1).astype(np.float32)
        seed = draw.standard_normal(size).astype(np.float32)
        found = run(made, {"x": x.astype(dtype), "d.y": seed.astype(dtype), **state})
        true = {}
        for kind, layer in layers.items():
            at = torch.tensor(x.astype(kind), requires_grad=True)
            layer.zero_grad()
            y = layer(at)
            y.backward(torch.tensor(seed.astype(kind)))
            true[kind] = {
                "y": y.detach().numpy(), "d.x": at.grad.numpy(), "d.w": layer.weight.grad.numpy(),
                "d.b": layer.bias.grad.numpy(), "mean.new": layer.running_mean.numpy().copy(),
                "var.new": layer.running_var.numpy().copy(),
            }  # fmt: skip
        for name, want in true["float64"].items():
            u = UNIT[dtype]
            own = float(np.max(np.abs(true["float32"][name] - want)))
            off = (16 + 2 * np.sqrt(x.size)) * u * float(np.max(np.abs(want))) + 10 * own * u / UNIT[
                "float32"
            ]
            worst = float(np.max(np.abs(found[name] - want)))
            assert found[name].shape == want.shape
            assert worst <= off, f"step {step}: {name} off by {worst:.3g}, bound {off:.3g}"
        state |= {n: found[f"{n}.new"] for n in ("mean", "var")}


def test_running_variance_is_the_unbiased_one() -> None:
    """ONNX' own operator keeps the population variance; of two elements the two differ by a factor of 2."""
    forward = read_forward(norm_model((2, 1), momentum=0.0), Meant(batch_norm="train"))
    start = forward.params | forward.buffers
    found = run(
        derived(forward, ["x"], 2), {"x": np.float32([[1], [3]]), "d.y": np.ones((2, 1), np.float32), **start}
    )
    assert found["mean.new"] == [2.0] and found["var.new"] == [2.0]


def test_batch_of_one_element_a_channel() -> None:
    with pytest.raises(
        ModelError, match=r"'bn' \(BatchNormalization\): expected more than one element a channel in training"
    ):
        read_forward(norm_model((1, 3)), Meant(batch_norm="train"))


def test_inference_mode_keeps_the_running_statistics() -> None:
    forward = read_forward(norm_model((4, 3)), Meant(batch_norm="inference"))
    assert not forward.buffers and not forward.updates


def test_nobody_says_which_mode() -> None:
    with pytest.raises(
        ModelError, match=r"1 BatchNormalization nodes, .*say batch_norm='train'.*or 'inference'"
    ):
        read_forward(norm_model((4, 3)), Meant())


def dropout_model(ratio: Any, layers: int = 1, shape: tuple[Any, ...] = ("N", 250)) -> onnx.ModelProto:
    nodes, last, held = [], "h", [numpy_helper.from_array(np.float32(2.0).reshape(1), "w")]
    nodes.append(helper.make_node("Mul", ["x", "w"], ["h"]))
    for i in range(layers):
        out = "y" if i == layers - 1 else f"h{i}"
        inputs = [last, "p", "on"] if ratio is not None else [last]
        nodes.append(helper.make_node("Dropout", inputs, [out, f"m{i}"], name=f"drop{i}"))
        last = out
    inputs = [helper.make_tensor_value_info("x", T.FLOAT, shape)]
    if ratio == "computed":
        inputs.append(helper.make_tensor_value_info("p", T.FLOAT, ()))
    elif ratio is not None:
        # As exporters write it.
        p = numpy_helper.from_array(np.float32(ratio))
        nodes.insert(0, helper.make_node("Constant", [], ["p"], value=p))
    held.append(numpy_helper.from_array(np.array(True), "on"))
    outputs = [helper.make_tensor_value_info("y", T.FLOAT, shape)]
    outputs += [helper.make_tensor_value_info(f"m{i}", T.BOOL, shape) for i in range(layers)]
    graph = helper.make_graph(nodes, "drop", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def dropped(
    ratio: Any = 0.25, seed: int = 1, rows: int = 80, layers: int = 1, meant: Meant | None = None
) -> Any:
    forward = read_forward(dropout_model(ratio, layers), meant or Meant())
    made = derived(forward, ["x"], 2)
    for i in range(layers):
        made.graph.output.append(helper.make_tensor_value_info(f"m{i}", T.BOOL, [None, None]))
    g = np.random.default_rng(0).standard_normal((rows, 250)).astype(np.float32)
    feeds = {"x": np.ones((rows, 250), np.float32), "d.y": g, "w": np.float32([2]), SEED: np.int64(seed)}
    return run(made, feeds), g


def test_dropout_follows_from_its_seed() -> None:
    first, again, other = dropped(seed=5)[0], dropped(seed=5)[0], dropped(seed=6)[0]
    np.testing.assert_array_equal(first["m0"], again["m0"])
    same = np.mean(first["m0"] == other["m0"])
    # Two independent masks of rate ¼ agree on ¼² + ¾² of the elements.
    assert abs(same - 0.625) < 5 * np.sqrt(0.625 * 0.375 / first["m0"].size)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.9])
def test_dropout_rate_and_scale(ratio: float) -> None:
    """The share that goes is binomial: within five deviations; what stays is scaled by 1/(1 − p)."""
    found, _ = dropped(ratio)
    kept = found["m0"]
    assert abs(np.mean(~kept) - ratio) < 5 * np.sqrt(ratio * (1 - ratio) / kept.size)
    np.testing.assert_allclose(found["y"][kept], 2 / (1 - np.float32(ratio)), rtol=4 * 2**-24)
    assert not found["y"][~kept].any()
    # No row and no column stands out, neighbours are independent.
    for axis in (0, 1):
        share = np.mean(~kept, axis)
        assert np.max(np.abs(share - ratio)) < 5.5 * np.sqrt(ratio * (1 - ratio) / kept.shape[axis])
    centred = kept - kept.mean()
    for lag in (1, 2, 250):
        flat = centred.reshape(-1)
        assert abs(np.mean(flat[lag:] * flat[:-lag])) < 5 * ratio * (1 - ratio) / np.sqrt(flat.size)


def test_seeds_of_consecutive_steps_give_independent_masks() -> None:
    masks = (
        np.stack([dropped(0.5, seed=s, rows=20)[0]["m0"].reshape(-1) for s in range(12)]).astype(np.float64)
        - 0.5
    )
    product = masks @ masks.T / masks.shape[1] / 0.25
    assert np.max(np.abs(product - np.eye(12))) < 5 / np.sqrt(masks.shape[1])


def test_dropout_gradient_is_its_mask() -> None:
    found, g = dropped(0.25)
    want = np.where(found["m0"], g * np.float32(2) / np.float32(0.75), 0)
    np.testing.assert_allclose(found["d.x"], want, rtol=8 * 2**-24, atol=0)


def test_two_nodes_have_two_masks() -> None:
    found, _ = dropped(0.25, layers=2)
    assert 0.5 < np.mean(found["m0"] == found["m1"]) < 0.75


@pytest.mark.parametrize(("ratio", "meant"), [(0.0, Meant()), (0.5, Meant(dropout=0.0))])
def test_no_dropout_needs_no_seed(ratio: float, meant: Meant) -> None:
    forward = read_forward(dropout_model(ratio), meant)
    assert SEED not in {d.name for d in forward.data}


def test_a_ratio_left_out_is_a_half_and_one_that_is_stated_wins() -> None:
    assert abs(np.mean(dropped(None)[0]["m0"]) - 0.5) < 0.02
    assert abs(np.mean(dropped(0.25, meant=Meant(dropout=0.75))[0]["m0"]) - 0.25) < 0.02


def test_a_ratio_that_is_computed() -> None:
    with pytest.raises(
        ModelError, match=r"node 'drop0' \(Dropout\): its ratio 'p' is computed, expected a constant; state"
    ):
        read_forward(dropout_model("computed"), Meant())


@pytest.mark.parametrize("ratio", [1.0, -0.5])
def test_a_ratio_that_is_none(ratio: float) -> None:
    with pytest.raises(
        ModelError, match=r"node 'drop0' \(Dropout\): ratio expected from 0 up to, not with, 1, found"
    ):
        read_forward(dropout_model(ratio), Meant())
