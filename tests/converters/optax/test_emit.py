"""Emitted Optax transformations against the referee, and as Optax uses them."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport import source
from optexport.errors import HyperparameterError
from optexport.rules import families
from optexport.specs import Spec

from ..emitted import CASES, build, data, every_operator, given, grouped, referee, tolerance, worst

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

from optexport.converters.optax import run  # noqa: E402
from optexport.converters.optax.emit import factory_name  # noqa: E402


def problem(spec: Spec | None = None) -> tuple[Any, Any, Any]:
    """`data` with a gradient for every parameter: Optax has one count for all."""
    params, grads, lrs = data(spec=spec)
    return params, [{n: g.get(n, np.zeros_like(v)) for n, v in params.items()} for g in grads], lrs


def factory(spec: Spec) -> Any:
    made = source.execute(ox.emit(spec, "optax"))
    return getattr(made, factory_name(source.class_name(spec, None)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_referee(case: str, dtype: str) -> None:
    spec = CASES[case]
    params, grads, lrs = problem(spec)
    expected = referee(spec, params, grads, lrs, dtype)
    assert worst(
        expected, run.snapshots(spec, params, grads, lrs, dtype, **given(spec, params))
    ) <= tolerance(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spec", [every_operator(), grouped()], ids=["every operator", "groups"])
def test_any_rule_and_any_groups(spec: Spec, dtype: str) -> None:
    params, grads, lrs = problem()
    params["rest"] = np.array([0.5, -0.25])
    grads = [{**g, "rest": np.array([0.1, -0.2])} for g in grads]
    expected = referee(spec, params, grads, lrs, dtype)
    assert worst(expected, run.snapshots(spec, params, grads, lrs, dtype)) <= 2 * tolerance(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ["adamw", "folded_nesterov-clip_norm=global", "nadam"])
def test_compiled_it_is_the_same(case: str, dtype: str) -> None:
    spec = CASES[case]
    params, grads, lrs = problem()
    expected = referee(spec, params, grads, lrs, dtype)
    # Compilers fuse multiplications with additions: fewer roundings, other last digits.
    assert worst(expected, run.snapshots(spec, params, grads, lrs, dtype, jit=True)) <= 2 * tolerance(dtype)


def test_it_starts_from_any_state() -> None:
    params, grads, lrs = problem()
    expected = referee(build("adamw"), params, grads, lrs, "float64")
    middle = expected[11]
    found = run.snapshots(
        build("adamw"), middle.params, grads[12:], lrs[12:], "float64", slots=middle.slots, steps=12
    )
    assert worst(expected[12:], found) <= tolerance("float64")
    with pytest.raises(HyperparameterError, match="expected one count for all parameters"):
        next(run.snapshots(build("adamw"), params, grads, steps={"w": 1, "b": 2}))
    with pytest.raises(HyperparameterError, match="update 1: expected a gradient for every parameter"):
        next(run.snapshots(build("adamw"), params, [{"w": params["w"]}]))


def test_the_first_correction_keeps_its_digits_in_float32() -> None:
    """1 − 0.999 in float32 has lost five digits; the emitted update has not."""
    module = source.execute(ox.emit(build("adamw"), "optax"))
    for t in (1, 2, 10, 1000):
        exact = 1 - 0.999**t
        assert abs(float(module.complement(0.999, jax.numpy.float32(t))) / exact - 1) <= 4 * 2.0**-24


def test_schedules_scan_and_nested_trees() -> None:
    make = factory(build("adamw"))
    tx = make(lr=lambda count: 0.1 / (1 + count))
    params = {"layer": [{"w": jax.numpy.ones(3)}, {"w": jax.numpy.zeros((2, 2))}]}

    def body(carry: Any, _: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(lambda p: p + 1, params)
        changes, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, changes), state), None

    (last, state), _ = jax.lax.scan(body, (params, tx.init(params)), None, length=5)
    assert int(state.count) == 5 and state.exp_avg["layer"][1]["w"].shape == (2, 2)
    expected = ox.init(build("adamw"), {"w": np.ones(3)}, dtype="float32")
    for t in range(5):
        expected = ox.step(expected, {"w": expected.params["w"] + 1}, lr=0.1 / (1 + t))
    np.testing.assert_allclose(last["layer"][0]["w"], expected.params["w"], rtol=1e-5)


def test_half_precision_stays_half() -> None:
    tx = factory(build("adamw"))()
    params = {"w": jax.numpy.ones(3, jax.numpy.bfloat16)}
    state = tx.init(params)
    changes, state = tx.update(params, state, params)
    assert changes["w"].dtype == state.exp_avg["w"].dtype == jax.numpy.bfloat16


def test_what_is_missing_is_named() -> None:
    tx = factory(build("adamw"))()
    params = {"w": jax.numpy.ones(3)}
    with pytest.raises(ValueError, match=r"expected update\(updates, state, params\), found no params"):
        tx.update(params, tx.init(params))
    noisy = factory(CASES["sgld"])()
    with pytest.raises(ValueError, match="expected noise=, a tree like the parameters, found none"):
        noisy.update(params, noisy.init(params), params)
    with pytest.raises(KeyError, match="expected a name that the groups list"):
        closed = source.execute(ox.emit(grouped(), "optax", params={"w": (3,), "b": (3,)}))
        made = next(v for k, v in vars(closed).items() if k.startswith("optexport_"))
        made().init({"w": params["w"], "b": params["w"], "other": params["w"]})


@pytest.mark.parametrize("spec", [*CASES.values(), every_operator(), grouped()])
def test_the_text_stands_alone(spec: Spec) -> None:
    # Where a rule depends on shapes, it needs them.
    shaped = any(families()[g.rule.family].fit for g in spec.groups if g.rule.family in families())
    text = ox.emit(spec, "optax", data(spec=spec)[0] if shaped else None)
    tree = ast.parse(text, feature_version=(3, 10))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {"math", "jax", "jax.numpy", "optax"}
    for group in spec.groups if not shaped else ():
        assert group.rule.digest in text
    assert max(map(len, text.splitlines())) <= 120
