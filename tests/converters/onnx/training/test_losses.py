"""Losses and their gradients against torch in float64, every option; extra dimensions, symbolic batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from optexport.converters.onnx.training.losses import LOSSES, build_loss
from optexport.converters.onnx.training.tape import Tape
from optexport.errors import HyperparameterError, ModelError

from .referee import UNIT, assert_plain, run, torch

F = torch.nn.functional
RNG = np.random.default_rng(21)
SHAPES = {"(4, 3)": (4, 3), "(4, 3, 5)": (4, 3, 5), "(2, 3, 2, 4)": (2, 3, 2, 4)}
WEIGHT = (0.5, 1.0, 2.0)


def built(
    name: str, shape: tuple[int, ...], options: Mapping[str, Any], dtype: str, batch: bool
) -> onnx.ModelProto:
    """Output ``y`` and ``label`` in, ``loss`` and ``d.y`` out."""
    tape = Tape(18, {"y", "label"})
    kind = {"float32": T.FLOAT, "float64": T.DOUBLE}[dtype]
    dims = ("N", *shape[1:]) if batch else shape
    tape.types["y"], tape.shapes["y"] = kind, dims
    loss, slope, label = build_loss(tape, name, "y", "label", options)
    assert tape.shapes.get(loss) in ((), None)
    tape.op("Identity", loss, name="loss")
    tape.op("Identity", slope, name="d.y")
    inputs = [helper.make_tensor_value_info("y", kind, dims), label]
    outputs = [
        helper.make_tensor_value_info("loss", kind, ()),
        helper.make_tensor_value_info("d.y", kind, dims),
    ]
    graph = helper.make_graph(tape.nodes, "loss", inputs, outputs, tape.initializers())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    assert_plain(model)
    return model


def judge(
    name: str, y: np.ndarray, label: np.ndarray, options: Mapping[str, Any], want: Callable[..., Any]
) -> None:
    """The bound is as in `referee`: 10 times torch's own distance, and (16 + 2√n) units of the largest number.

    The loss is a sum of n terms over a count, so its terms' size counts, which torch's distance shows.
    """
    y = y.astype(np.float32)
    exact: dict[str, tuple[Any, Any]] = {}
    for dtype in ("float64", "float32"):
        t = torch.tensor(y.astype(dtype), requires_grad=True)
        held = torch.tensor(label.astype(dtype) if label.dtype.kind == "f" else label)
        loss = want(t, held)
        loss.backward()
        exact[dtype] = (loss.detach().numpy(), t.grad.numpy())
    for dtype in ("float32", "float64"):
        for batch in (False, True):
            feeds = {"y": y.astype(dtype), "label": label.astype(dtype) if label.dtype.kind == "f" else label}
            found = run(built(name, y.shape, options, dtype, batch), feeds)
            for i, key in enumerate(("loss", "d.y")):
                true, single = exact["float64"][i], exact["float32"][i]
                u = UNIT[dtype]
                off = (16 + 2 * np.sqrt(y.size)) * u * max(float(np.max(np.abs(true))), 1e-3)
                off += 10 * float(np.max(np.abs(single - true))) * u / UNIT["float32"]
                assert found[key].dtype == np.dtype(dtype) and found[key].shape == true.shape
                worst = float(np.max(np.abs(found[key] - true)))
                assert worst <= off, (
                    f"{name} {dict(options)} {dtype}: {key} off by {worst:.3g}, bound {off:.3g}"
                )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.125])
@pytest.mark.parametrize("ignored", [None, 2, -100])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weights"])
def test_softmax_cross_entropy(shape: Any, smoothing: float, ignored: int | None, weight: Any) -> None:
    y = 3 * RNG.standard_normal(shape)
    label = np.asarray(RNG.integers(0, 3, (shape[0], *shape[2:])), np.int64)
    label.flat[0] = 1
    label.flat[1] = 2 if ignored is None else ignored
    options = {"label_smoothing": smoothing, "ignore_index": ignored, "weight": weight}
    judge("softmax_cross_entropy", y, label, options, lambda y, t: F.cross_entropy(
        y, t, weight=None if weight is None else torch.tensor(weight).to(y), label_smoothing=smoothing,
        ignore_index=-100 if ignored is None else ignored))  # fmt: skip


def test_softmax_cross_entropy_of_large_numbers() -> None:
    y = np.array([[1000.0, 0.0, -1000.0], [3e4, 3e4, 0.0]])
    judge("softmax_cross_entropy", y, np.array([1, 0]), {}, lambda y, t: F.cross_entropy(y, t))


@pytest.mark.parametrize("pos_weight", [None, 2.5, (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("hard", [True, False])
def test_bce_with_logits(pos_weight: Any, hard: bool) -> None:
    y = 3 * RNG.standard_normal((4, 3))
    y[0] = (0.0, 60.0, -60.0)
    label = (
        np.asarray(RNG.integers(0, 2, (4, 3)), np.float64)
        if hard
        else RNG.uniform(0, 1, (4, 3)).astype(np.float32)
    )
    options = {} if pos_weight is None else {"pos_weight": pos_weight}
    w = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    judge("bce_with_logits", y, label, options, lambda y, t: F.binary_cross_entropy_with_logits(
        y, t, pos_weight=None if w is None else w.to(y)))  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 3), (4,), (2, 3, 4)])
@pytest.mark.parametrize(
    ("name", "options", "want"),
    [
        ("mse", {}, lambda y, t: F.mse_loss(y, t)),
        ("l1", {}, lambda y, t: F.l1_loss(y, t)),
        ("huber", {}, lambda y, t: F.huber_loss(y, t)),
        ("huber", {"delta": 0.5}, lambda y, t: F.huber_loss(y, t, delta=0.5)),
        ("huber", {"delta": 2.0}, lambda y, t: F.huber_loss(y, t, delta=2.0)),
    ],
    ids=lambda v: str(v) if isinstance(v, (str, dict)) else "",
)
def test_distances(name: str, options: Any, want: Any, shape: Any) -> None:
    y, label = 2 * RNG.standard_normal(shape), 2 * RNG.standard_normal(shape).astype(np.float32)
    # On the kinks too: equal numbers, and differences of exactly δ.
    y.flat[0], label.flat[0] = 1.5, 1.5
    y.flat[1], label.flat[1] = 1.0 + options.get("delta", 1.0), 1.0
    judge(name, y, label, options, want)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4)])
def test_kl_divergence(shape: Any) -> None:
    y = np.log(np.asarray(RNG.dirichlet(np.ones(shape[-1]), shape[:-1])))
    label = np.asarray(RNG.dirichlet(np.ones(shape[-1]), shape[:-1])).astype(np.float32)
    label[0, 0] = 0.0
    judge("kl_divergence", y, label, {}, lambda y, t: F.kl_div(y, t, reduction="batchmean"))


def test_every_loss_and_option_is_tested() -> None:
    assert {n: set(v.options) for n, v in LOSSES.items()} == {
        "softmax_cross_entropy": {"label_smoothing", "ignore_index", "weight"},
        "bce_with_logits": {"pos_weight"}, "mse": set(), "l1": set(), "huber": {"delta"}, "kl_divergence": set(),
    }  # fmt: skip


def refused(error: type[Exception], match: str, name: str, shape: Any = (4, 3), **options: Any) -> None:
    with pytest.raises(error, match=match):
        built(name, shape, options, "float32", False)


def test_refusals() -> None:
    refused(
        HyperparameterError, r"unknown loss 'mae'; expected one of softmax_cross_entropy, .*, output", "mae"
    )
    refused(HyperparameterError, r"loss mse: unknown option 'delta'; expected none", "mse", delta=1.0)
    refused(HyperparameterError, r"label_smoothing expected a number from 0 to 1, found 1\.5",
            "softmax_cross_entropy", label_smoothing=1.5)  # fmt: skip
    refused(HyperparameterError, r"weight expected 3 numbers, one a class, found 2",
            "softmax_cross_entropy", weight=(1.0, 2.0))  # fmt: skip
    refused(HyperparameterError, r"delta expected a number above 0, found 0", "huber", delta=0.0)
    refused(ModelError, r"expected shape \[N, classes, …\], found \[4\]", "softmax_cross_entropy", (4,))
    refused(HyperparameterError, r"bce_with_logits: pos_weight expected a number, or numbers that fit the output's last "
            r"dimensions \[4, 3\], found shape \[2\]", "bce_with_logits", pos_weight=(1.0, 2.0))  # fmt: skip


def test_an_output_of_whole_numbers() -> None:
    tape = Tape(18, {"y"})
    tape.types["y"], tape.shapes["y"] = T.INT64, (4,)
    with pytest.raises(
        ModelError, match=r"loss mse: output 'y' expected real numbers, found INT64; .*before the ArgMax"
    ):
        build_loss(tape, "mse", "y", "label", {})
