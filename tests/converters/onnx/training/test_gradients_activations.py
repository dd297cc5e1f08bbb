"""Elementwise activations, and softmax: attributes given and left out, values on the kinks too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from .referee import Case, case, check, torch

F = torch.nn.functional
EVERY = ("static", "batch", "free")
# Random values, and those where a derivative jumps.
KINKS = np.array([-3.0, -2.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 3.5, 30.0]).reshape(4, 3)
SMOOTH = np.random.default_rng(11).uniform(-4, 4, (4, 3))
SMOOTH[0, 0] = -30.0
# An attribute is a float32 number in the file; what torch gets is the same one.
F32 = lambda a: float(np.float32(a))  # noqa: E731


def both(kind: str, f: Any, opsets: tuple[int, ...] = (18, 22), **attributes: Any) -> list[Case]:
    double = attributes.pop("doubles", True)
    name = " ".join(f"{k}={v}" for k, v in attributes.items()) or "defaults"
    made = [case(f"{name}, opset {o}", kind, "x", f, {"x": SMOOTH}, opset=o, modes=EVERY, doubles=double, **attributes)
            for o in opsets]  # fmt: skip
    return [
        *made,
        case(f"{name}, kinks", kind, "x", f, {"x": KINKS}, opset=opsets[0], doubles=double, **attributes),
    ]


def _elementwise() -> list[Case]:
    selu = (F32(1.67326319217681884765625), F32(1.05070102214813232421875))
    # ONNX has Celu in float32 only; Erf in float64 is not in onnxruntime, and rounded by the reference evaluator.
    return [
        *both("Relu", lambda x: F.relu(x)),
        *both("LeakyRelu", lambda x: F.leaky_relu(x, F32(0.01))),
        *both("LeakyRelu", lambda x: F.leaky_relu(x, 0.25), alpha=0.25),
        *both("Elu", lambda x: F.elu(x)),
        *both("Elu", lambda x: F.elu(x, 0.5), alpha=0.5),
        *both("Selu", lambda x: torch.where(x > 0, selu[1] * x, selu[1] * selu[0] * torch.expm1(x))),
        *both("Selu", lambda x: torch.where(x > 0, 1.5 * x, 1.5 * 2.0 * torch.expm1(x)), alpha=2.0, gamma=1.5),
        *both("Celu", lambda x: F.celu(x), doubles=False),
        *both("Celu", lambda x: F.celu(x, 0.5), alpha=0.5, doubles=False),
        *both("ThresholdedRelu", lambda x: F.threshold(x, 1.0, 0.0)),
        *both("ThresholdedRelu", lambda x: F.threshold(x, 0.25, 0.0), alpha=0.25),
        *both("Shrink", lambda x: F.hardshrink(x, 0.5)),
        *both("Shrink", lambda x: torch.where(x.abs() > 0.25, x - torch.sign(x) * 0.125, 0 * x), lambd=0.25, bias=0.125),
        *both("Softsign", lambda x: F.softsign(x)),
        *both("Sigmoid", lambda x: torch.sigmoid(x)),
        *both("Tanh", lambda x: torch.tanh(x)),
        *both("Erf", lambda x: torch.erf(x)),
        # torch's softplus is linear from 20 on unless it is told otherwise.
        *both("Softplus", lambda x: F.softplus(x, threshold=1000.0)),
        *both("HardSigmoid", lambda x: (x * F32(0.2) + 0.5).clamp(0, 1)),
        *both("HardSigmoid", lambda x: (x * 0.25 + 0.375).clamp(0, 1), alpha=0.25, beta=0.375),
        *both("HardSwish", lambda x: F.hardswish(x)),
        *both("Gelu", lambda x: F.gelu(x), opsets=(20, 22), doubles=False),
        *both("Gelu", lambda x: F.gelu(x, approximate="tanh"), opsets=(20, 22), approximate="tanh"),
        *both("Mish", lambda x: F.mish(x)),
        *both("Swish", lambda x: F.silu(x), opsets=(24,)),
        *both("Swish", lambda x: x * torch.sigmoid(0.5 * x), opsets=(24,), alpha=0.5),
    ]  # fmt: skip


def _prelu() -> list[Case]:
    x = (2, 3, 4)
    return [
        case(f"slope {s}, opset {o}", "PRelu", "x slope", lambda x, slope: torch.where(x > 0, x, slope * x),
             {"x": x, "slope": s}, modes=EVERY, opset=o)
        for s in ((), (1,), (3, 1), (4,), (3, 4), (1, 3, 1)) for o in (18, 22)
    ]  # fmt: skip


def _clip() -> list[Case]:
    low, high = {"low": np.asarray(-1.0)}, {"high": np.asarray(1.0)}
    made = [
        case("both bounds", "Clip", "x low high", lambda x: x.clamp(-1, 1), {"x": KINKS}, fixed=low | high, modes=EVERY),
        case("low", "Clip", "x low", lambda x: x.clamp(min=-1), {"x": KINKS}, fixed=low),
        case("high", "Clip", "x - high", lambda x: x.clamp(max=1), {"x": KINKS}, fixed=high),
        case("none", "Clip", "x", lambda x: x * 1, {"x": KINKS}),
        # Bounds that train: a learned range of activations. Off the kinks, where torch's share differs.
        case("bounds that train", "Clip", "x low high", lambda x, low, high: torch.clamp(x, low, high),
             {"x": SMOOTH, "low": np.asarray(-1.1), "high": np.asarray(1.3)}, modes=EVERY),
        case("high that trains", "Clip", "x - high", lambda x, high: torch.clamp(x, max=high),
             {"x": SMOOTH, "high": np.asarray(1.3)}),
    ]  # fmt: skip
    six = case("0 to 6", "Clip", "x low high", lambda x: F.relu6(x), {"x": SMOOTH * 3},
               fixed={"low": np.asarray(0.0), "high": np.asarray(6.0)})  # fmt: skip
    return [*made, six]


def _softmax() -> list[Case]:
    made = []
    for kind, f in (("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax)):
        for axis in (None, 0, 1, -1, -2):
            given = {} if axis is None else {"axis": axis}
            made.append(case(f"axis {axis}", kind, "x", lambda x, f=f, a=-1 if axis is None else axis: f(x, a),
                             {"x": (2, 3, 4)}, modes=EVERY, **given))  # fmt: skip
        made.append(case("newer", kind, "x", lambda x, f=f: f(x, 1), {"x": (4, 3)}, axis=1, opset=21))
        made.append(case("large values", kind, "x", lambda x, f=f: f(x, 1), {"x": SMOOTH * 25}, axis=1))
    return made


# An operator that gives nothing back must not stop what flows beside it.
FLAT = [
    Case(f"beside {kind}",
         [helper.make_node(kind, ["x"], ["flat"]), helper.make_node("Mul", ["x", "flat"], ["y"])],
         {"x": SMOOTH}, f, modes=EVERY)
    for kind, f in {
        "Floor": lambda x: x * x.detach().floor(), "Ceil": lambda x: x * x.detach().ceil(),
        "Round": lambda x: x * x.detach().round(), "Sign": lambda x: x * x.detach().sign(),
        "Hardmax": lambda x: x * F.one_hot(x.detach().argmax(-1), 3).to(x.dtype),
    }.items()
]  # fmt: skip
CASES = [*_elementwise(), *_prelu(), *_clip(), *_softmax(), *FLAT]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
