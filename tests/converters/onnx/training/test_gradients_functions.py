"""Operators without a rule of their own, through the function bodies that ONNX defines them by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optexport.converters.onnx.training.backward import rules

from .referee import Case, case, check, torch

F = torch.nn.functional
Q, KV = (2, 4, 3, 8), (2, 2, 5, 8)


def attention(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: float | None = None,
              softcap: float = 0.0) -> Any:  # fmt: skip
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    s = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    if causal:
        seen = torch.ones(s.shape[-2:], dtype=torch.bool).tril()
        s = s.masked_fill(~seen, -torch.inf)
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else s + mask
    return torch.softmax(s, -1) @ v


def heads(x: Any, n: int) -> Any:
    return x.reshape(x.shape[0], x.shape[1], n, -1).transpose(1, 2)


def _attentions() -> list[Case]:
    every = {"q": Q, "k": KV, "v": KV}
    same = {"q": (2, 3, 4, 8), "k": (2, 3, 4, 8), "v": (2, 3, 4, 8)}
    # Its body scales by a float32 constant, in float64 too.
    kept: dict[str, Any] = {"batch": ("q", "k", "v"), "doubles": False}
    seen = np.tril(np.ones((3, 5), bool), 1)
    made = [
        case("4-D", "Attention", "q k v", attention, same, opset=23, **kept),
        case("grouped queries", "Attention", "q k v", attention, every, opset=23, **kept),
        case("causal", "Attention", "q k v", lambda q, k, v: attention(q, k, v, causal=True), same, opset=23,
             is_causal=1, **kept),
        case("scale", "Attention", "q k v", lambda q, k, v: attention(q, k, v, scale=0.25), same, opset=23,
             scale=0.25, **kept),
        case("softcap", "Attention", "q k v", lambda q, k, v: attention(q, k, v, softcap=2.0), same, opset=23,
             softcap=2.0, **kept),
        case("mask", "Attention", "q k v m", lambda q, k, v, m: attention(q, k, v, m), every,
             other={"m": seen}, opset=23, **kept),
        case("bias that trains", "Attention", "q k v m", lambda q, k, v, m: attention(q, k, v, m),
             every | {"m": (4, 3, 5)}, opset=23, **kept),
        case("3-D", "Attention", "q k v",
             lambda q, k, v: attention(heads(q, 2), heads(k, 2), heads(v, 2)).transpose(1, 2).reshape(2, 3, 8),
             {"q": (2, 3, 8), "k": (2, 5, 8), "v": (2, 5, 8)}, q_num_heads=2, kv_num_heads=2, opset=23, **kept),
        case("newer", "Attention", "q k v", attention, same, opset=24, **kept),
    ]  # fmt: skip
    return made


def rotary(x: Any, c: Any, s: Any) -> Any:
    a, b = x.chunk(2, -1)
    c, s = c[:, None], s[:, None]
    return torch.cat((c * a - s * b, s * a + c * b), -1)


ANGLES = np.random.default_rng(2).uniform(-3, 3, (2, 5, 4))


def _others() -> list[Case]:
    classes = np.array([1, 0, 2, 2], np.int64)
    made = [
        case("", "RotaryEmbedding", "x c s",
             lambda x: rotary(x, *(torch.tensor(a).to(x) for a in (np.cos(ANGLES), np.sin(ANGLES)))),
             {"x": (2, 3, 5, 8)}, fixed={"c": np.cos(ANGLES), "s": np.sin(ANGLES)}, opset=23, modes=("static",)),
    ]  # fmt: skip
    for reduction in ("mean", "sum", "none"):
        for extra in ({}, {"ignore_index": 2}):
            f: Any = lambda x, t, r=reduction, e=extra: F.cross_entropy(x, t, reduction=r, **e)  # noqa: E731
            made.append(case(f"{reduction} {extra}", "SoftmaxCrossEntropyLoss", "x t", f, {"x": (4, 3)},
                             other={"t": classes}, reduction=reduction, batch=("x", "t"), **extra))  # fmt: skip
            g: Any = lambda x, t, r=reduction, e=extra: F.nll_loss(x, t, reduction=r, **e)  # noqa: E731
            made.append(case(f"{reduction} {extra}", "NegativeLogLikelihoodLoss", "x t", g, {"x": (4, 3)},
                             other={"t": classes}, reduction=reduction, batch=("x", "t"), **extra))  # fmt: skip
    w = np.array([0.5, 1.0, 2.0])
    made.append(case("weights", "SoftmaxCrossEntropyLoss", "x t w",
                     lambda x, t: F.cross_entropy(x, t, weight=torch.tensor(w).to(x)), {"x": (4, 3, 2)},
                     other={"t": np.stack([classes, classes[::-1]], 1)}, fixed={"w": w}, batch=("x", "t")))  # fmt: skip
    made.append(case("to 2", "CenterCropPad", "x s",
                     lambda x: x[:, 1:3],
                     {"x": (2, 4, 3)}, fixed={"s": np.array([2])}, axes=[1], modes=("static",)))  # fmt: skip
    return made


CASES = [*_attentions(), *_others()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)


def test_they_have_no_rule_of_their_own() -> None:
    """Else these tests would say nothing of function bodies."""
    kinds = {c.nodes[-1].op_type for c in CASES}
    assert len(kinds) >= 5
    assert not kinds & set(rules())
