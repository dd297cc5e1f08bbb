"""Gradients of whole models, as PyTorch exports them, against PyTorch's autograd in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import optexport as ox
from optexport.parity.bounds import unit_roundoff

ort = pytest.importorskip("onnxruntime", reason="runs graphs on stock onnxruntime (extra test-stock)")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript (extra test-stock)")
import torch  # noqa: E402

from optexport.converters.onnx.training_graph import Meant, build  # noqa: E402

from .stepping import Stepper  # noqa: E402
from .torch_models import CASES, exported  # noqa: E402

WITHIN = 10  # times PyTorch's own float32 distance from float64


def gradients(name: str, dtype: torch.dtype) -> tuple[float, dict[str, np.ndarray]]:
    """(loss, gradient of every parameter) in PyTorch."""
    case = CASES[name]
    module = copy.deepcopy(case.module()).train().to(dtype)
    x, label = (torch.from_numpy(a) for a in case.batch(0))
    loss = torch.nn.functional.cross_entropy(module(x.to(dtype) if x.is_floating_point() else x), label)
    loss.backward()
    return loss.item(), {n: p.grad.numpy() for n, p in module.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_as_near_to_float64_as_pytorchs(name: str, symbolic: bool) -> None:
    case = CASES[name]
    built = build(
        exported(name, symbolic), "softmax_cross_entropy", ox.spec("sgd", lr=0.1), meant=Meant(**case.meant)
    )
    stepper = Stepper(built, gradients=True)
    loss = stepper(*case.batch(0), lr=0.1)
    exact_loss, exact = gradients(name, torch.float64)
    torch_loss, single = gradients(name, torch.float32)
    # What no float32 computation can do without: one rounding of the result.
    u = unit_roundoff(np.float32)
    assert abs(loss - exact_loss) <= WITHIN * max(abs(torch_loss - exact_loss), u * exact_loss)
    # A tied parameter has two names in PyTorch, and one of them in the file.
    assert len(built.params) == len(list(case.module().parameters())), "every parameter trains"
    for n in built.params:
        want = exact[n]
        got = stepper.seen[f"{n}.grad"]
        assert got.shape == want.shape
        error = np.abs(got - want).max()
        allowed = WITHIN * max(np.abs(single[n] - want).max(), u * np.abs(want).max())
        assert error <= allowed, f"{n}: {error:.3g}, allowed {allowed:.3g}"
