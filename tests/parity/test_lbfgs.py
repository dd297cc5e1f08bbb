"""L-BFGS on a function: gradients follow the parameters, as its pairs expect. Several iterations a call, both
precisions, and on from one framework to the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import optexport as ox
from optexport.dialects import converter
from optexport.parity import compare_runs, referee, relative_error
from optexport.parity.bounds import unit_roundoff
from optexport.parity.mutants import mutants
from optexport.specs import Spec
from tests.parity.backends import require_backend, require_native

SHAPES = {"w": (4, 2), "b": (4,)}
LR = 0.2


# No tolerance ends a run before its time.
SMALL = {"history_size": 5, "tolerance_grad": 0.0, "tolerance_change": 0.0}


class Function:
    """A convex function of 12 variables, no quadratic: its value and gradient."""

    def __init__(self, dtype="float64", seed=0):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=(12, 12))
        self.dtype = dtype
        self.hessian = (a @ a.T / 12 + 0.3 * np.eye(12)).astype(np.float32).astype(dtype)
        self.center = rng.normal(size=12).astype(np.float32).astype(dtype)
        self.start = self.split(rng.normal(size=12).astype(np.float32).astype(dtype))

    @staticmethod
    def split(x):
        return {"w": x[:8].reshape(4, 2).copy(), "b": x[8:].copy()}

    def gradient(self, params):
        x = np.concatenate([np.ravel(params[n]) for n in SHAPES]).astype(self.dtype)
        return self.split((self.hessian @ (x - self.center) + np.tanh(x)).astype(self.dtype))


def _torch(f, calls, inner, params=None, state=None):
    """Runs of torch.optim.LBFGS: the gradients that it saw, and the parameters, after each call."""
    import torch

    tensors = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in (params or f.start).items()}
    optimizer = torch.optim.LBFGS(tensors.values(), lr=LR, max_iter=inner, max_eval=10**6, **SMALL)
    if state is not None:
        optimizer.state[next(iter(tensors.values()))] = state
    seen = []

    def closure():
        g = f.gradient({n: t.detach().numpy() for n, t in tensors.items()})
        for n, t in tensors.items():
            t.grad = torch.tensor(g[n])
        seen.append(g)
        return torch.zeros(()) + len(seen)  # a loss that moves: only gradients decide

    for _ in range(calls):
        optimizer.step(closure)
        yield {n: t.detach().numpy().copy() for n, t in tensors.items()}, list(seen)


def _optax(f, steps, scaled=True):
    import jax
    import jax.numpy as jnp
    import optax

    with (jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64)(
        f.dtype == "float64"
    ):
        rule = optax.lbfgs(LR, memory_size=5, scale_init_precond=scaled, linesearch=None)
        params = {n: jnp.asarray(v) for n, v in f.start.items()}
        state = rule.init(params)
        for _ in range(steps):
            g = {
                n: jnp.asarray(v)
                for n, v in f.gradient({n: np.asarray(v) for n, v in params.items()}).items()
            }
            updates, state = rule.update(g, state, params)
            params = optax.apply_updates(params, updates)
            yield {n: np.asarray(v) for n, v in params.items()}


def _bound(f, step):
    # Each iteration solves a system of the function's condition number, 30, from the rounded pairs before.
    return 30 * 3 * np.sqrt(100 * step) * unit_roundoff(f.dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("framework", ["torch", "optax", "optax unscaled"])
def test_25_steps(framework, dtype):
    """The gradients are those of the framework's own run; the referee is in float64."""
    framework, _, unscaled = framework.partition(" ")
    require_native(f"{framework}:x")
    f = Function(dtype)
    spec = {
        "torch": ox.native("torch:LBFGS", lr=LR, **SMALL),
        "optax": ox.native("optax:lbfgs", learning_rate=LR, memory_size=5, scale_init_precond=not unscaled),
    }[framework]
    state, before = ox.init(spec, f.start), f.start
    run = (p for p, _ in _torch(f, 25, 1)) if framework == "torch" else _optax(f, 25, not unscaled)
    for step, params in enumerate(run, 1):
        state = ox.step(state, f.gradient(before))
        for n in SHAPES:
            assert relative_error(params[n], state.params[n]) <= _bound(f, step)
        before = params
    first, last = (max(np.abs(v).max() for v in f.gradient(p).values()) for p in (f.start, before))
    assert last < 0.1 * first


FORMS = [
    {"pairs": "curved", "first": "l1", "last": "step", "least_curvature": 0.02},
    {"pairs": "every", "first": "l2"},
    {"pairs": "every", "first": "gradient", "scale": "one"},
]


def _referee_run(f, spec, steps):
    state, grads, states = ox.init(spec, f.start), [], []
    for _ in range(steps):
        grads.append(f.gradient(state.params))
        state = ox.step(state, grads[-1])
        states.append(state)
    return grads, states


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", ["onnx", "torch", "optax", "keras"])
@pytest.mark.parametrize("arguments", FORMS, ids=str)
def test_emitted(arguments, backend, dtype):
    require_backend(backend)
    f = Function(dtype)
    spec = ox.spec("lbfgs", history=3, lr=0.25, **arguments)
    grads, states = _referee_run(f, spec, 12)
    run = converter(backend, "run").snapshots(spec, f.start, grads, dtype=dtype)
    for step, (state, (params, _)) in enumerate(zip(states, run, strict=True), 1):
        for n in SHAPES:
            assert relative_error(params[n], state.params[n]) <= _bound(f, step)


@pytest.mark.parametrize("arguments", FORMS, ids=str)
def test_every_changed_rule_is_noticed(arguments):
    f = Function()
    spec = ox.spec("lbfgs", history=3, lr=LR, **arguments)
    grads, states = _referee_run(f, spec, 12)
    right = [(state.params, state.slots) for state in states]
    (group,) = spec.groups
    survivors = []
    for where, program in mutants(group.rule.program):
        wrong = Spec((replace(group, rule=replace(group.rule, program=program)),))
        states = referee(wrong, f.start, grads, [LR] * len(grads))
        if compare_runs(states, right, "float64", amplification=30)[0] is None:
            survivors.append(where)
    assert survivors == []


def test_several_iterations_a_call():
    """24 iterations in one call of ``step``: the rule makes them one by one, on the gradients that it saw."""
    require_native("torch:LBFGS")
    f = Function()
    ((params, seen),) = _torch(f, 1, 24)
    assert len(seen) == 24
    state = ox.init(ox.native("torch:LBFGS", lr=LR, **SMALL), f.start)
    for g in seen:
        state = ox.step(state, g)
    assert state.slots["w"]["iterations"] == 24
    for n in SHAPES:
        assert relative_error(params[n], state.params[n]) <= _bound(f, 24)


@pytest.mark.parametrize(
    ("source", "target"), [("torch:LBFGS", "optax:lbfgs"), ("optax:lbfgs", "torch:LBFGS")]
)
def test_on_from_one_to_the_other(source, target):
    """After 10 steps the run goes on as the other: the same, as long as every pair is curved."""
    f = Function()
    sizes = {"torch:LBFGS": {"history_size": 5}, "optax:lbfgs": {"memory_size": 5}}
    state = ox.init(ox.native(source, lr=LR, **sizes[source]), f.start)
    for _ in range(10):
        state = ox.step(state, f.gradient(state.params))
    moved, report = ox.translate(state, to=target)
    assert report.verdict == "conditional"
    assert any("yᵀs >" in c for c in report.conditions)
    for _ in range(15):
        state = ox.step(state, f.gradient(state.params))
        moved = ox.step(moved, f.gradient(moved.params))
    for n in SHAPES:
        np.testing.assert_allclose(moved.params[n], state.params[n], rtol=1e-9)


def test_another_length_of_history_is_another_rule():
    state = ox.init(ox.native("torch:LBFGS", history_size=7), Function().start)
    moved, _ = ox.translate(ox.step(state, Function().gradient(state.params)), to="optax:lbfgs")
    assert moved.spec.groups[0].arguments["memory_size"] == 7


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [("torch:LBFGS", "line_search_fn", "strong_wolfe"), ("optax:lbfgs", "linesearch", "zoom")],
)
def test_a_line_search_is_refused(name, argument, value):
    with pytest.raises(
        ox.HyperparameterError, match=rf"argument '{argument}' expected None, found '{value}'; a line"
    ):
        ox.native(name, **{argument: value})


def test_optax_ring_is_the_history_in_order():
    """More updates than the ring has places: every slot, after every update."""
    require_native("optax:x")
    f = Function()
    arguments = {"learning_rate": LR, "memory_size": 4}
    grads, states = _referee_run(f, ox.native("optax:lbfgs", **arguments), 25)
    shown = converter("optax", "run").native_snapshots(
        "optax:lbfgs", arguments, f.start, grads, dtype="float64"
    )
    # A difference of two parameters has the condition number |w| / |s|.
    steps = [s.slots[n]["parameter_differences"][-1] for s in states[1:] for n in SHAPES]
    condition = 30 * 3 / min(np.abs(s).max() for s in steps)
    mismatch, _ = compare_runs(states, shown, "float64", native="optax:lbfgs", amplification=condition)
    assert mismatch is None, str(mismatch)
