"""What PyTorch's exporter does to a model without a word, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from optexport.converters.onnx.training_graph import Built, Meant, build
from optexport.errors import ModelError

pytest.importorskip("onnxruntime", reason="runs graphs on stock onnxruntime (extra test-stock)")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript (extra test-stock)")
import torch
from torch import nn

from .stepping import Stepper
from .torch_models import CASES, export, exported


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in CASES[name].module().named_parameters()}


def made(model: object, loss: str = "softmax_cross_entropy", **meant: object) -> Built:
    return build(model, loss, ox.spec("sgd", lr=0.1), meant=Meant(**meant))  # type: ignore[arg-type]


class Twins(nn.Module):
    """Two layer normalisations that start alike."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.b(torch.tanh(self.a(x))))


def test_merged_and_transposed_weights_are_noticed() -> None:
    """``optimize=True`` makes one tensor of equal ones, and turns weights around."""
    torch.manual_seed(0)
    module = Twins()
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    merged = export(module, x, optimize=True)
    with pytest.raises(ModelError, match=r"'a.bias' is shared by .*: if the model ties its weights, say so"):
        made(merged, train=["*"])
    with pytest.raises(
        ModelError, match=r"parameter 'b.weight': expected a tensor of this name, found none; exporters merge"
    ):
        made(merged, expected={n: tuple(p.shape) for n, p in module.named_parameters()})
    assert len(made(export(module, x)).params) == 6


def test_an_optimized_transformer_is_refused() -> None:
    case = CASES["encoder"]
    model = export(case.module().train(), case.batch(0)[0], optimize=True)
    with pytest.raises(ModelError, match="export with optimize=False"):
        made(model)
    with pytest.raises(ModelError, match="export with optimize=False"):
        made(model, expected=shapes("encoder"))


def test_batch_normalisation_is_never_inferred_from_the_file() -> None:
    """The file says inference mode though the model was in training."""
    model = exported("cnn", False)
    with pytest.raises(
        ModelError, match="has 2 BatchNormalization nodes, which exporters write in inference mode"
    ):
        made(model)
    assert len(made(model, batch_norm="train").buffers) == 4
    assert made(model, batch_norm="inference").buffers == {}


def test_padding_rows_are_lost_and_asked_about() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(6, 4, padding_idx=2), nn.Flatten(), nn.Linear(12, 3))
    x, label = np.asarray([[0, 2, 5], [2, 2, 1]]), np.asarray([0, 2])
    model = export(module, x)
    with pytest.raises(
        ModelError, match=r"table '0.weight' has one row of zeros, 2, as padding_idx leaves it"
    ):
        made(model)
    stepper = Stepper(made(model, frozen_rows={"0.weight": [2]}), gradients=True)
    stepper({model.graph.input[0].name: x}, label, lr=0.1)
    nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(label)).backward()
    want = module[0].weight.grad.numpy()
    np.testing.assert_allclose(stepper.seen["0.weight.grad"], want, rtol=1e-5, atol=1e-7)
    assert not want[2].any()


def test_a_tied_weight_is_asked_about_and_sums_both_uses() -> None:
    model = exported("gpt", False)
    with pytest.raises(ModelError, match=r"parameter '(wte|head).weight' is shared by"):
        made(model)
    # That both uses are summed is in test_gradients_of_models.
    assert len(made(model, tied=["*"]).params) == len(shapes("gpt"))


def test_the_framework_s_names_say_what_trains() -> None:
    """Weights under their own names leave the exporter's constants out, and miss nothing."""
    for name in ("mlp", "encoder", "vit"):
        assert list(made(exported(name, True), expected=shapes(name)).params) == list(
            made(exported(name, True)).params
        )
