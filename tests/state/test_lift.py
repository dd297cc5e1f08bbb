"""Lifting: what a native state means, and what is said where it means nothing."""

from __future__ import annotations

import numpy as np
import pytest

from optexport.errors import CheckpointError, HyperparameterError, OptexportError, UnknownNameError
from optexport.state import MASTER, TrainingState
from optexport.state.lift import lift, native_state
from optexport.state.native import NativeGroup, NativeState

ADAM = {
    "lr": 0.01,
    "betas": (0.9, 0.99),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
}
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def torch(optimizer: str | None, arguments, slots, steps=None, keys=("0", "1")) -> NativeState:
    steps = dict.fromkeys(keys) if steps is None else steps
    return NativeState(
        "torch", "torch-zip", optimizer, [NativeGroup(dict(arguments), list(keys))], slots, steps
    )


def adam(**changes) -> NativeState:
    slots = {k: {"step": np.float32(3), "exp_avg": ones(2), "exp_avg_sq": ones(2)} for k in ("0", "1")}
    return torch("Adam", {**ADAM, **changes}, slots, {"0": 3, "1": 3})


def refused(kind: type[OptexportError], native, **kwargs) -> str:
    with pytest.raises(kind) as caught:
        lift(native, "f.pt", **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_adam_as_it_is():
    state = lift(adam(), "f.pt")
    (group,) = state.spec.groups
    assert group.native == state.dialect == "torch:Adam" and group.params == ("0", "1")
    assert group.hyperparameters == {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    assert {s: set(v) for s, v in state.slots.items()} == {k: {"exp_avg", "exp_avg_sq"} for k in ("0", "1")}
    assert state.steps == {"0": 3, "1": 3} and state.warnings == ()
    assert state.provenance == ("read from torch-zip of torch:Adam",)


def test_slots_are_the_files_own_arrays():
    native = adam()
    assert lift(native, "f").slots["0"]["exp_avg"] is native.slots["0"]["exp_avg"]


def test_a_parameter_that_was_never_updated():
    native = adam()
    del native.slots["1"]
    native.steps["1"] = None
    state = lift(native, "f.pt")
    assert state.steps == {"0": 3, "1": 0} and "1" not in state.slots


def test_the_optimizer_must_be_known():
    native = torch(None, ADAM, {})
    assert refused(UnknownNameError, native) == (
        "f.pt: does not say which optimizer wrote it; name it, as in --optimizer torch:NAME"
    )
    assert refused(UnknownNameError, native, optimizer="mxnet:adam") == (
        "f.pt: is a torch file; expected torch:NAME, found mxnet:adam"
    )
    assert lift(native, "f.pt", optimizer="torch:adam").dialect == "torch:Adam"


def test_slots_of_another_optimizer():
    native = adam()
    native.slots["1"]["max_exp_avg_sq"] = ones(2)
    assert refused(CheckpointError, native) == (
        "f.pt: parameter '1': expected the slots of torch:Adam (exp_avg, exp_avg_sq), found step, exp_avg, exp_avg_sq, "
        "max_exp_avg_sq; was it another optimizer? name it with --optimizer"
    )
    # With the option that has it, it belongs.
    native = adam(amsgrad=True)
    for slots in native.slots.values():
        slots["max_exp_avg_sq"] = ones(2)
    assert set(lift(native, "f").slots["1"]) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def test_slots_of_two_shapes():
    native = adam()
    native.slots["0"]["exp_avg"] = ones(3)
    assert refused(CheckpointError, native) == (
        "f.pt: parameter '0': expected slots of one shape, found exp_avg [3], exp_avg_sq [2]; the file is damaged"
    )


def test_a_step_that_the_rule_needs():
    native = adam()
    native.steps["1"] = None
    assert refused(CheckpointError, native) == (
        "f.pt: parameter '1': holds no step count, which torch:Adam needs; give it with --step N"
    )
    assert lift(native, "f", step=7).steps == {"0": 3, "1": 7}


def test_a_rule_that_counts_nothing():
    native = torch("SGD", SGD, {k: {"momentum_buffer": ones(2)} for k in ("0", "1")})
    state = lift(native, "f")
    assert state.steps == {"0": 1, "1": 1}
    assert state.warnings == ("torch:SGD keeps no step count; parameters with state count as updated once",)
    assert lift(native, "f", step=5).steps == {"0": 5, "1": 5} and lift(native, "f", step=5).warnings == ()


def test_hyperparameters_out_of_range_are_the_files_fault():
    assert refused(HyperparameterError, adam(eps=-1.0)) == (
        "torch:Adam: argument 'eps': 'eps' expected a number in [0, inf], found -1.0"
    )
    assert "argument 'lr' expected a number, found 'fast'" in refused(HyperparameterError, adam(lr="fast"))


def test_entries_that_are_no_arguments_are_carried_and_named():
    state = lift(adam(name="decoder", lr_scale=0.5), "f")
    assert state.warnings == (
        "group entries lr_scale, name are not arguments of torch:Adam; carried, not interpreted",
    )
    assert state.spec.groups[0].arguments["lr_scale"] == 0.5


def test_a_file_without_hyperparameters():
    native = torch("SGD", {}, {})
    assert refused(CheckpointError, native) == (
        "f.pt: holds no hyperparameters; give them in torch's own names, at least --hyper lr=…"
    )
    state = lift(native, "f", arguments={"lr": 0.5})
    assert state.spec.groups[0].hyperparameters["lr"] == 0.5
    assert state.warnings[0].startswith(
        "the file holds no hyperparameters; assumed torch:SGD's defaults momentum=0.0"
    )


def test_there_and_back():
    native = adam()
    state = lift(native, "f").renamed({"0": "w", "1": "b"})
    back = native_state(state, "f")
    assert back.named and back.optimizer == "Adam" and back.steps == {"w": 3, "b": 3}
    assert back.groups[0].params == ["w", "b"]
    assert {k: back.groups[0].arguments[k] for k in ADAM} == ADAM
    for key, name in (("0", "w"), ("1", "b")):
        for slot in ("exp_avg", "exp_avg_sq"):
            assert back.slots[name][slot] is native.slots[key][slot]


def test_a_state_that_is_no_frameworks():
    import optexport as ox

    state = ox.init(ox.spec("adam"), {"w": ones(2)})
    with pytest.raises(CheckpointError) as caught:
        native_state(state, "f.pt")
    assert str(caught.value) == (
        "f.pt: expected groups of one native optimizer, found a rule; name the target's with --optimizer"
    )


def test_an_absent_slot_starts_fresh_where_the_shape_is_known():
    state = lift(adam(), "f")
    state = TrainingState(state.spec, {"0": ones(2)}, {"0": {MASTER: ones(2)}}, {"0": 0, "1": 0})
    full = state.full_slots("0")
    assert list(full) == ["exp_avg", "exp_avg_sq", MASTER] and not full["exp_avg"].any()
    with pytest.raises(CheckpointError) as caught:
        state.full_slots("1")
    assert str(caught.value) == (
        "parameter '1', slot 'exp_avg': expected a tensor, found none, and no tensor tells the parameter's shape; "
        "pass the weights (--model) so that it can start fresh"
    )
