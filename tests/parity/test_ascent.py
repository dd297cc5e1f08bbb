"""Optax' adadelta without a learning rate adds its step: the rule says so, and so does a port of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.errors import HyperparameterError
from optexport.parity import compare_runs, problem, referee
from optexport.translation import explain
from tests.parity.backends import require_native


@pytest.mark.parametrize(
    "arguments", [{}, {"rho": 0.8, "eps": 1e-2, "weight_decay": 0.1}], ids=["defaults", "decay"]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_rule_is_what_optax_computes(arguments: dict[str, Any], dtype: str) -> None:
    require_native("optax:adadelta")
    from optexport.converters.optax.run import native_snapshots

    p = problem(dtype)
    states = referee(ox.native("optax:adadelta", **arguments), p.params, p.grads, [1.0] * len(p.grads))
    snapshots = native_snapshots("optax:adadelta", arguments, p.params, p.grads, dtype=dtype)
    mismatch, _ = compare_runs(states, snapshots, dtype, native="optax:adadelta")
    assert mismatch is None, str(mismatch)


def test_a_factor_after_it_is_its_learning_rate() -> None:
    spec = ox.native("optax:chain", links=[("adadelta", {}), ("scale", {"step_size": -0.5})])
    assert spec.groups[0].rule.options["rate"] == "lr" and spec.groups[0].hyperparameters["lr"] == 0.5


def test_a_factor_after_rprop_is_no_learning_rate() -> None:
    with pytest.raises(HyperparameterError) as caught:
        ox.native("optax:chain", links=[("rprop", {"learning_rate": 0.1}), ("scale", {"step_size": 0.5})])
    assert "link 1, 'rprop'" in str(caught.value) and "is no factor on its learning rate" in str(caught.value)


def test_it_ascends() -> None:
    start = {"w": np.zeros(3)}
    grads = {"w": np.array([1.0, -2.0, 0.0])}
    moved = ox.step(ox.init(ox.native("optax:adadelta"), start), grads).params["w"]
    np.testing.assert_array_equal(np.sign(moved), [1, -1, 0])
    assert (
        ox.step(ox.init(ox.native("optax:adadelta", learning_rate=1.0), start), grads).params["w"] == -moved
    ).all()


def test_its_port_ascends() -> None:
    found = explain("optax:adadelta", "torch:Adadelta")
    assert found.verdict == "exact"
    assert "a step that is added is the step of the negated gradient, subtracted" in found.notes
    p = problem()
    state = ox.init(ox.native("optax:adadelta"), p.params)
    port, _ = ox.translate(ox.step(state, p.grads[0]), "torch:Adadelta")
    assert port.spec.groups[0].arguments["maximize"] is True and port.spec.groups[0].arguments["lr"] == 1.0
    expected = ox.step(ox.step(state, p.grads[0]), p.grads[1])
    np.testing.assert_allclose(ox.step(port, p.grads[1]).params["w"], expected.params["w"], rtol=1e-14)


def test_decay_that_joins_the_gradient_does_not_turn_with_it() -> None:
    assert explain("optax:adadelta", "torch:Adadelta", {"weight_decay": 0.1}).verdict != "exact"
