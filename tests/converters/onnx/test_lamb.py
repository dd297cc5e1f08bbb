"""ONNX Runtime's LambOptimizer: its kernel needs CUDA, so that its definition is checked instead,
written out in NumPy from ``lamb.cu`` without a word of the rule."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from optexport.parity import compare_runs, problem, referee
from optexport.parity.bounds import rounding_bound
from tests.parity.backends import require_backend

SETTINGS = [
    {"lr": 0.01},
    {
        "lr": 0.05,
        "alpha": 0.8,
        "beta": 0.95,
        "lambda": 0.1,
        "epsilon": 1e-3,
        "ratio_min": 0.3,
        "ratio_max": 0.9,
    },
    {"lr": 0.01, "lambda": 0.05, "do_bias_correction": 0, "ratio_max": 0.5},
]


def kernel(a, w, g, m1, m2, t, lr):
    """One update of one tensor, line by line as the two CUDA kernels have it."""
    f32 = lambda x: float(np.float32(x))  # noqa: E731  (attributes are float32)
    alpha, beta, decay, eps = (f32(a.get(k, v)) for k, v in DEFAULTS)
    m1 = alpha * m1 + (1.0 - alpha) * g
    m2 = beta * m2 + (1.0 - beta) * g * g
    corrects = a.get("do_bias_correction", 1)
    c1, c2 = (1.0 - alpha**t, 1.0 - beta**t) if corrects else (1.0, 1.0)
    d = decay * w + (m1 / c1) / (np.sqrt(m2 / c2) + eps)
    w_norm, r_norm = (w * w).sum(), (d * d).sum()
    low, high = f32(a.get("ratio_min", -np.inf)), f32(a.get("ratio_max", np.inf))
    ratio = lr * max(low, min(high, np.sqrt(w_norm / r_norm))) if w_norm != 0 and r_norm != 0 else lr
    return w - ratio * d, m1, m2


DEFAULTS = (("alpha", 0.9), ("beta", 0.999), ("lambda", 0.0), ("epsilon", 1e-6))


@pytest.mark.parametrize("arguments", SETTINGS, ids=["defaults", "bounds and decay", "uncorrected"])
def test_the_rule_is_the_kernel(arguments):
    p = problem("float64")
    lrs = p.lrs(arguments["lr"])
    spec = ox.native("onnxruntime:LambOptimizer", **arguments)
    w = dict(p.params)
    m1, m2 = ({n: np.zeros_like(v) for n, v in w.items()} for _ in range(2))
    for t, (state, grads, lr) in enumerate(
        zip(referee(spec, p.params, p.grads, lrs), p.grads, lrs, strict=True), 1
    ):
        for n in w:
            w[n], m1[n], m2[n] = kernel(arguments, w[n], grads[n], m1[n], m2[n], t, lr)
            bound = rounding_bound(state.spec.group(n).rule.program, t, "float64")
            assert np.abs(state.params[n] - w[n]).max() <= bound * np.abs(w[n]).max()
            assert np.abs(state.slots[n]["exp_avg"] - m1[n]).max() <= bound * np.abs(m1[n]).max()
            assert np.abs(state.slots[n]["exp_avg_sq"] - m2[n]).max() <= bound * np.abs(m2[n]).max()


@pytest.mark.parametrize("arguments", SETTINGS, ids=["defaults", "bounds and decay", "uncorrected"])
def test_the_emitted_graph_is_the_rule(arguments):
    require_backend("onnx")
    from optexport.dialects import converter

    p = problem("float32")
    lrs = [float(np.float32(x)) for x in p.lrs(arguments["lr"])]
    spec = ox.native("onnxruntime:LambOptimizer", **arguments)
    snapshots = converter("onnx", "run").snapshots(spec, p.params, p.grads, lrs, dtype="float32")
    mismatch, _ = compare_runs(referee(spec, p.params, p.grads, lrs), snapshots, "float32")
    assert mismatch is None, str(mismatch)
