"""Nadam's ``m_schedule``: one number on MXNet's optimizer object, a slot of every parameter here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.mxnet import checkpoint
from optexport.dialects import find
from optexport.emitters import emit
from optexport.errors import CheckpointError, HyperparameterError
from optexport.state.lift import lift, native_state
from optexport.state.native import NativeGroup, NativeState

ARGUMENTS = {"learning_rate": 0.01, "beta1": 0.8, "schedule_decay": 0.1}


def native(**attributes: Any) -> NativeState:
    slots = {k: {"[0]": np.ones((2, 3), "f4"), "[1]": np.ones((2, 3), "f4")} for k in ("0", "1", "2")}
    group = NativeGroup({**ARGUMENTS, **attributes}, ["0", "1", "2"])
    return NativeState("mxnet", checkpoint.FORMAT, "Nadam", [group], slots, dict.fromkeys(slots, 4))


def test_the_product_is_a_slot_of_every_parameter_and_tensors_are_counted() -> None:
    state = lift(native(m_schedule=0.25), "x.states")
    assert [float(state.slots[k]["mu_product"]) for k in ("0", "1", "2")] == [0.25] * 3
    counts = [(g.hyperparameters["tensors"], g.hyperparameters["place"]) for g in state.spec.groups]
    assert counts == [(3, 1), (3, 2), (3, 3)]


def test_the_product_is_written_as_an_attribute(tmp_path: Path) -> None:
    state = lift(native(m_schedule=0.25), "x.states")
    checkpoint.write(native_state(state, "y.states"), tmp_path / "y.states")
    again = checkpoint.read(tmp_path / "y.states")
    assert again.groups[0].arguments["m_schedule"] == 0.25
    assert "place" not in again.groups[0].arguments
    assert all(set(s) == {"[0]", "[1]"} for s in again.slots.values())


def test_states_without_the_product_are_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        lift(native(), "x.states")
    assert str(caught.value) == (
        "x.states: expected m_schedule, the product of momenta that mxnet:nadam goes on with, found none; save "
        "the states with dump_optimizer=True, or give it with --hyper m_schedule=…"
    )
    given = lift(native(), "x.states", arguments={"m_schedule": 0.5})
    assert {float(s["mu_product"]) for s in given.slots.values()} == {0.5}


def test_products_that_differ_have_no_place(tmp_path: Path) -> None:
    made = native_state(lift(native(m_schedule=0.25), "x.states"), "y.states")
    made.slots["1"][".m_schedule"] = np.float64(0.5)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.write(made, tmp_path / "y.states")
    assert str(caught.value).endswith(
        "parameter '1', m_schedule: expected one number for all parameters, found 0.25 and 0.5; MXNet's optimizer "
        "has one, emit an optimizer with --emit-optimizer FILE"
    )


def test_a_rule_that_counts_is_not_written_before_its_parameters_are_known() -> None:
    spec = ox.native("mxnet:nadam", **ARGUMENTS)
    with pytest.raises(HyperparameterError) as caught:
        emit(spec, "torch")
    assert str(caught.value) == (
        "mxnet:nadam: 'tensors' (N: how many tensors the optimizer has) depends on the optimizer's parameters; "
        "expected their names and shapes, found none; pass params="
    )
    assert "'tensors': 2" in emit(spec, "torch", {"w": (2, 3), "b": (3,)}).replace('"', "'")


@pytest.mark.parametrize(("params", "verdict"), [(("w",), "conditional"), (("w", "b"), "bounded")])
def test_one_tensor_goes_over_and_several_do_within_a_bound(params: tuple[str, ...], verdict: str) -> None:
    state = ox.init(ox.native("torch:NAdam", lr=0.01), {n: np.ones(3) for n in params})
    for _ in range(5):
        state = ox.step(state, {n: np.full(3, 0.5) for n in params})
    moved, report = ox.translate(state, "mxnet:nadam", allow="bounded")
    assert report.verdict == verdict
    product = float(state.slots["w"]["mu_product"])
    assert report.bound == (None if verdict == "conditional" else pytest.approx(product / (1 - product)))
    counts = {(g.hyperparameters["tensors"], g.hyperparameters["place"]) for g in moved.spec.groups}
    assert counts == {(len(params), i + 1) for i in range(len(params))}
    back, report = ox.translate(moved, "torch:NAdam", allow="bounded")
    assert report.verdict == ("exact" if verdict == "conditional" else "bounded")
    assert [g.params for g in back.spec.groups] == [params]
    assert find("torch:NAdam").rule(back.spec.groups[0].arguments) == back.spec.groups[0].rule
