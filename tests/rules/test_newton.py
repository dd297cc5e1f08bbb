"""Newton's method on a quadratic, on a network with PyTorch's exact Hessian, and emitted."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from optexport.dialects import converter
from optexport.errors import HyperparameterError
from optexport.parity import relative_error, rounding_bound
from tests.parity.backends import require_backend

DIAGONAL = {"w": np.array([[3.0, 0.5], [1e-3, 40.0]]), "b": np.array([2.0, 7.0])}
CENTER = {"w": np.array([[1.0, -2.0], [0.5, 3.0]]), "b": np.array([-1.0, 0.25])}


def test_one_step_ends_at_the_minimum_of_a_separable_quadratic():
    spec = ox.spec("newton", damping=0.0)
    state = ox.init(spec, {"w": np.zeros((2, 2)), "b": np.ones(2)})
    grads = {n: DIAGONAL[n] * (state.params[n] - CENTER[n]) for n in DIAGONAL}
    state = ox.step(state, grads, hessian=DIAGONAL)
    for n, c in CENTER.items():
        np.testing.assert_allclose(state.params[n], c, rtol=1e-15)


def test_the_gradient_is_orthogonal_to_itself_after_the_best_step_along_it():
    """Cauchy's step on a quadratic that couples both parameters."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6))
    hessian, c = a @ a.T + np.eye(6), rng.normal(size=6)

    def split(x):
        return {"w": x[:4].reshape(2, 2), "b": x[4:]}

    x = rng.normal(size=6)
    g = hessian @ (x - c)
    state = ox.init(ox.spec("newton_along_gradient", damping=0.0), split(x))
    state = ox.step(state, split(g), hessian=split(hessian @ g))
    new = np.concatenate([state.params["w"].ravel(), state.params["b"]])
    assert abs(g @ (hessian @ (new - c))) <= 1e-13 * (g @ g)
    np.testing.assert_allclose(new, x - (g @ g) / (g @ hessian @ g) * g, rtol=1e-14)


@pytest.mark.parametrize(
    ("denominator", "by_hand"),
    [
        ("added", lambda h: np.abs(h) + 0.1),
        ("floor", lambda h: np.maximum(np.abs(h), 0.1)),
        ("signed", lambda h: h + 0.1),
    ],
)
def test_damping(denominator, by_hand):
    h, g, w = np.array([-2.0, 0.0, 0.01, 5.0]), np.array([1.0, -1.0, 2.0, 3.0]), np.ones(4)
    spec = ox.spec("newton", lr=0.5, denominator=denominator, damping=0.1)
    state = ox.step(ox.init(spec, {"w": w}), {"w": g}, hessian={"w": h})
    np.testing.assert_allclose(state.params["w"], w - 0.5 * g / by_hand(h), rtol=1e-15)


def test_the_caller_must_give_the_curvature():
    state = ox.init(ox.spec("newton"), {"w": np.ones(2)})
    with pytest.raises(
        HyperparameterError, match=r"hessian for 'w': expected an array of shape \(2,\), found none"
    ):
        ox.step(state, {"w": np.ones(2)})


def _network():
    """A small network's loss, gradient, Hessian's diagonal and product with the gradient, by PyTorch."""
    torch = pytest.importorskip("torch", reason="needs PyTorch for the exact Hessian")
    rng = np.random.default_rng(3)
    x, y = (torch.tensor(rng.normal(size=s)) for s in ((16, 3), (16, 1)))
    shapes = {"w1": (3, 4), "b1": (4,), "w2": (4, 1)}
    start = {n: 0.5 * rng.normal(size=s) for n, s in shapes.items()}

    def split(v):
        parts = torch.split(v, [int(np.prod(s)) for s in shapes.values()])
        return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}

    def loss(v):
        p = split(v)
        return ((torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] - y) ** 2).mean()

    def at(params):
        v = torch.tensor(np.concatenate([np.ravel(params[n]) for n in shapes]))
        g, h = torch.func.grad(loss)(v), torch.func.hessian(loss)(v)
        return float(loss(v)), *(
            {n: p.numpy() for n, p in split(q).items()} for q in (g, torch.diag(h), h @ g)
        )

    return start, at


@pytest.mark.parametrize("rule", ["newton", "newton_along_gradient"])
def test_on_a_network_with_its_exact_hessian(rule):
    start, at = _network()
    state = ox.init(ox.spec(rule, lr=0.5, damping=0.5), start)
    losses = []
    for _ in range(25):
        loss, g, diagonal, product = at(state.params)
        losses.append(loss)
        h = diagonal if rule == "newton" else product
        before, state = state.params, ox.step(state, g, hessian=h)
        flat = {k: np.concatenate([v[n].ravel() for n in start]) for k, v in (("g", g), ("h", h))}
        c = flat["g"] @ flat["h"] / (flat["g"] @ flat["g"])
        for n in start:
            by_hand = before[n] - 0.5 * g[n] / (np.abs(h[n] if rule == "newton" else c) + 0.5)
            np.testing.assert_allclose(state.params[n], by_hand, rtol=1e-13, atol=1e-15)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("backend", ["onnx", "torch", "optax"])
@pytest.mark.parametrize("rule", ["newton", "newton_along_gradient"])
def test_emitted(rule, backend):
    require_backend(backend)
    start, at = _network()
    spec = ox.spec(rule, lr=0.5, damping=0.5)
    state, grads, hessians, states = ox.init(spec, start), [], [], []
    for _ in range(12):
        _, g, diagonal, product = at(state.params)
        grads.append(g)
        hessians.append(diagonal if rule == "newton" else product)
        state = ox.step(state, g, hessian=hessians[-1])
        states.append(state)
    run = converter(backend, "run").snapshots(spec, start, grads, dtype="float64", hessian=hessians)
    for t, (want, (params, _)) in enumerate(zip(states, run, strict=True), 1):
        bound = rounding_bound(spec.groups[0].rule.program, t, "float64")
        for n in start:
            assert relative_error(params[n], want.params[n]) <= bound
