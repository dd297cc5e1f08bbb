"""Comparing states: rules, hyperparameters, steps and every slot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import optexport as ox
from optexport.state import TrainingState
from optexport.state.diff import SlotDifference, diff

DATA = Path(__file__).parents[1] / "data"


def adam(**arguments) -> TrainingState:
    state = ox.init(ox.spec("adam", **arguments), {"w": np.array([1.0, 2.0]), "b": np.array([3.0])})
    return ox.step(state, {"w": np.array([1.0, -1.0]), "b": np.array([0.5])})


def with_slot(state: TrainingState, array: np.ndarray, slot: str = "exp_avg") -> TrainingState:
    return replace(state, slots={**state.slots, "w": {**state.slots["w"], slot: array}})


def of(a: TrainingState, b: TrainingState, slot: str = "exp_avg", param: str = "w") -> SlotDifference:
    (found,) = [s for s in diff(a, b).slots if (s.param, s.slot) == (param, slot)]
    return found


def test_a_state_and_itself():
    found = diff(adam(), adam())
    assert found.equal(0.0) and found.sentences == []
    assert {(s.param, s.slot) for s in found.slots} == {
        (p, s) for p in "wb" for s in ("value", "exp_avg", "exp_avg_sq")
    }
    assert all(s.bitwise and s.relative == 0 for s in found.slots)


def test_relative_to_the_largest_of_the_second():
    a, b = (with_slot(adam(), np.array(v)) for v in ([4.0, 1.0], [4.0, 2.0]))
    assert of(a, b) == SlotDifference("w", "exp_avg", 0.25, False)
    assert of(b, a).relative == 0.25
    assert not diff(a, b).equal(0.2) and diff(a, b).equal(0.25)


@pytest.mark.parametrize(
    ("left", "right", "relative"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [1.0, 1.0], math.inf),
        ([1.0, 1.0], [np.nan, 1.0], math.inf),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.inf, 1.0], [-np.inf, 1.0], math.inf),
        ([np.inf, 1.0], [1.0, 1.0], math.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, 0.0], [0.0, 0.0], math.inf),
        ([0.0, 0.0], [2.0, 0.0], 1.0),
    ],
)
def test_values_that_are_special(left, right, relative):
    found = of(with_slot(adam(), np.array(left)), with_slot(adam(), np.array(right)))
    assert found.relative == relative


def test_equal_values_of_other_bits():
    a, b = with_slot(adam(), np.array([0.0, 1.0])), with_slot(adam(), np.array([-0.0, 1.0]))
    assert of(a, b).relative == 0.0 and not of(a, b).bitwise
    single = with_slot(adam(), np.array([0.5, 1.0], np.float32))
    double = with_slot(adam(), np.array([0.5, 1.0]))
    assert of(single, double) == SlotDifference("w", "exp_avg", 0.0, False)
    assert diff(single, double).equal(0.0)


def test_a_slot_on_one_side():
    a = adam()
    b = replace(a, slots={"w": {"exp_avg": a.slots["w"]["exp_avg"]}, "b": a.slots["b"]})
    assert of(a, b, "exp_avg_sq") == SlotDifference("w", "exp_avg_sq", None, False, "only in A")
    assert of(b, a, "exp_avg_sq").note == "only in B" and not diff(a, b).equal(1e9)


def test_shapes_that_differ():
    found = of(adam(), with_slot(adam(), np.ones(3)))
    assert found == SlotDifference("w", "exp_avg", None, False, "shapes [2] and [3]")


def test_parameters_are_compared_where_both_have_them():
    a, b = adam(), replace(adam(), params={})
    assert "value" not in {s.slot for s in diff(a, b).slots} and diff(a, b).equal(0.0)


def test_a_parameter_on_one_side():
    a = adam()
    b = ox.init(ox.spec("adam"), {"w": np.array([1.0, 2.0])})
    sentences = diff(a, b).sentences
    assert "parameter 'b' is only in A" in sentences and "parameter 'b' is only in B" in diff(b, a).sentences


def test_steps_that_differ():
    a = adam()
    b = replace(a, steps={"w": 1, "b": 7})
    assert diff(a, b).sentences == ["parameter 'b': step 1 and 7"] and not diff(a, b).equal(1.0)


def test_hyperparameters_that_differ_are_said_once():
    found = diff(adam(), adam(lr=0.5, beta2=0.99))
    assert found.sentences == [
        "hyperparameter lr: 0.001 and 0.5 (parameter 'w' first)",
        "hyperparameter beta2: 0.999 and 0.99 (parameter 'w' first)",
    ]


def test_rules_that_differ():
    a, b = adam(eps=0.5), ox.init(ox.spec("adam_hat", eps=0.5), adam().params)
    assert "rule: adam and adam_hat" in diff(a, replace(b, steps=a.steps, slots=a.slots)).sentences
    # At zero decay AdamW is Adam.
    c = ox.init(ox.spec("adamw", weight_decay=0.0, eps=0.5), adam().params)
    assert diff(a, replace(c, params=a.params, steps=a.steps, slots=a.slots)).equal(0.0)


def test_files_of_two_formats(tmp_path):
    """A PyTorch file, and the bundle made of it."""
    state = ox.load(DATA / "torch" / "adamw_two_groups.pt", names=["a", "b", "c", "d"])
    ox.save(state, tmp_path / "o.safetensors", format="bundle")
    found = diff(state, ox.load(tmp_path / "o.safetensors"))
    assert found.equal(0.0) and all(s.bitwise for s in found.slots) and len(found.slots) == 8


def test_empty_tensors_are_equal():
    a = ox.init(ox.spec("adam"), {"w": np.zeros((0, 3))})
    assert diff(a, a).equal(0.0)


def test_a_state_with_a_schedule_and_itself():
    state = ox.load(DATA / "lightning" / "adamw_steplr.ckpt")
    assert state.spec.groups[0].schedules
    found = diff(state, state)
    assert found.equal(0.0) and all(s.bitwise for s in found.slots)
    # The rates of now are equal at other steps of a flat stretch; the schedules are not.
    (group,) = state.spec.groups
    lr = group.values(step=state.clock)["lr"]
    flat = replace(
        state,
        spec=ox.Spec((replace(group, schedules={}, hyperparameters={**group.hyperparameters, "lr": lr}),)),
    )
    (only,) = diff(state, flat).sentences
    assert only.startswith(
        "schedule of lr: step(base=0.002, gamma=0.5, period=1, begin=0, every=3) and no schedule"
    )
