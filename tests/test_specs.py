"""Specs: built by a rule's name or a framework's, refused with the argument's name."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from optexport.errors import HyperparameterError, UnknownNameError
from optexport.state.manifest import spec_from_text, spec_text


def refused(kind, call) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_word_that_names_both_an_option_and_a_hyperparameter():
    group = ox.spec("rmsprop", momentum="folded").groups[0]
    assert group.rule.options["momentum"] == "folded" and group.hyperparameters["momentum"] == 0.0
    group = ox.spec("rmsprop_momentum", momentum=0.5).groups[0]
    assert group.rule.options["momentum"] == "unfolded" and group.hyperparameters["momentum"] == 0.5
    group = ox.spec("adam", eps="hat").groups[0]
    assert group.rule.options["eps"] == "hat" and group.hyperparameters["eps"] == 1e-8
    group = ox.spec("adam", post_decay=True).groups[0]
    assert group.hyperparameters["post_decay"] == 0.0


def test_an_argument_that_a_rule_lacks():
    assert refused(HyperparameterError, lambda: ox.spec("sgd", beta1=0.9)) == (
        "sgd: unknown argument 'beta1'; expected an option among momentum, nesterov, dampening, decay, maximize, "
        "rescale, clip, scalars, clip_norm, centralize, accumulate, overflow, lookahead, average or a hyperparameter "
        "among lr, weight_decay"
    )


def test_a_value_out_of_range():
    assert refused(HyperparameterError, lambda: ox.spec("adam", beta1=1.5)) == (
        "adam: 'beta1' expected a number in [0, 1), found 1.5"
    )


def test_groups_take_what_they_do_not_override():
    spec = ox.spec("adamw", lr=0.1, groups=[{"params": ["b"], "weight_decay": 0.0}])
    first, rest = spec.settle(["w", "b", "c"]).groups
    assert first.params == ("b",) and first.hyperparameters["weight_decay"] == 0.0
    assert rest.params == ("w", "c") and rest.hyperparameters["weight_decay"] == 1e-2
    assert first.hyperparameters["lr"] == rest.hyperparameters["lr"] == 0.1


def test_groups_may_be_other_rules_of_the_family():
    spec = ox.spec("sgd", groups=[{"params": ["w"], "momentum": "unfolded"}])
    state = ox.init(spec, {"w": np.ones(2), "b": np.ones(2)})
    assert set(state.slots["w"]) == {"momentum_buffer"} and not state.slots["b"]


def test_a_group_that_has_no_parameters_left_is_gone():
    spec = ox.spec("sgd", groups=[{"params": ["w"]}]).settle(["w"])
    assert [g.params for g in spec.groups] == [("w",)]


@pytest.mark.parametrize(
    "make", [lambda g: ox.spec("sgd", groups=[g]), lambda g: ox.native("torch:SGD", groups=[g])]
)
@pytest.mark.parametrize("group", [{"lr": 1.0}, {"params": "weight"}, {"params": 3}, {"params": [0, 1]}])
def test_a_group_lists_names(make, group):
    found = group.get("params")
    assert refused(HyperparameterError, lambda: make(group)) == (
        f"group: expected 'params', a list of parameter names, found {found!r}"
    )


def test_a_parameter_in_two_groups():
    spec = ox.spec("sgd", groups=[{"params": ["w"]}, {"params": ["w"], "lr": 2.0}])
    assert refused(HyperparameterError, lambda: ox.init(spec, {"w": np.ones(1)})) == (
        "spec: parameter 'w' is listed 2 times; expected once"
    )
    spec = ox.spec("sgd", groups=[{"params": ["w", "w"]}])
    assert "listed 2 times" in refused(HyperparameterError, lambda: spec.settle(["w"]))


def test_a_group_with_a_parameter_that_is_not_there():
    spec = ox.spec("sgd", groups=[{"params": ["fc.wieght"]}])
    assert refused(UnknownNameError, lambda: spec.settle(["fc.weight"])) == (
        "spec: group lists 'fc.wieght'; expected names among fc.weight"
    )


def test_a_parameter_in_no_group():
    spec = ox.spec("sgd").settle(["w"])
    assert (
        refused(UnknownNameError, lambda: spec.group("b"))
        == "spec: parameter 'b' is in no group; add it to one"
    )
    assert refused(UnknownNameError, lambda: spec.settle(["w", "b"])) == (
        "spec: parameter 'b' is in no group; add it to one"
    )


def test_one_learning_rate_or_one_a_group():
    spec = ox.spec("sgd", lr=0.5, groups=[{"params": ["w"], "lr": 0.25}])
    state = ox.init(spec, {"w": np.ones(1), "b": np.ones(1)})
    grads = {"w": np.ones(1), "b": np.ones(1)}
    assert ox.step(state, grads).params == {"w": [0.75], "b": [0.5]}
    for lr in (0.125, np.float32(0.125), np.float64(0.125)):
        assert ox.step(state, grads, lr=lr).params == {"w": [0.875], "b": [0.875]}
    assert ox.step(state, grads, lr=[0.0, 1.0]).params == {"w": [1.0], "b": [0.0]}
    assert refused(HyperparameterError, lambda: ox.step(state, grads, lr=[1.0])) == (
        "lr: expected one value or 2 (one a group), found 1"
    )


def test_a_framework_optimizer_by_its_own_arguments():
    group = ox.native("torch:adamw", learning_rate=0.1, betas=(0.8, 0.99)).groups[0]
    assert group.native == "torch:AdamW" and group.arguments["lr"] == 0.1
    assert group.hyperparameters == {
        "lr": 0.1,
        "beta1": 0.8,
        "beta2": 0.99,
        "eps": 1e-8,
        "weight_decay": 1e-2,
    }


@pytest.mark.parametrize(
    ("kind", "optimizer", "arguments", "message"),
    [
        (UnknownNameError, "torch:Adma", {}, "unknown optimizer 'Adma' of torch; expected a native one, nearest: "),
        (UnknownNameError, "tourch:Adam", {}, "unknown framework 'tourch'; expected one of "),
        (UnknownNameError, "Adam", {}, "'Adam': expected FRAMEWORK:OPTIMIZER, as in torch:AdamW"),
        (UnknownNameError, "torch:Adam", {"bettas": (0.9, 0.99)}, "torch:Adam: unknown argument 'bettas'; expected one of "),
        (HyperparameterError, "torch:Adam", {"eps": -1}, "torch:Adam: argument 'eps': 'eps' expected a number in [0, inf]"),
        (HyperparameterError, "torch:Adam", {"betas": 0.9}, "torch:Adam: argument 'betas[0]': 'beta1' expected a number"),
        (HyperparameterError, "torch:Adam", {"betas": ("a", 1)}, "torch:Adam: argument 'betas[0]': 'beta1' expected a nu"),
        (HyperparameterError, "torch:SGD", {"momentum": "abc"}, "torch:SGD: argument 'momentum' expected a number, found"),
        (HyperparameterError, "torch:RMSprop", {"momentum": None}, "torch:RMSprop: argument 'momentum' expected a number, "),
        (HyperparameterError, "torch:SGD", {"lr": float("nan")}, "torch:SGD: argument 'lr': 'lr' expected a number in "),
    ],
)  # fmt: skip
def test_what_a_framework_does_not_have(kind, optimizer, arguments, message):
    assert refused(kind, lambda: ox.native(optimizer, **arguments)).startswith(message)


def test_a_misspelt_argument_brings_the_nearest():
    assert refused(UnknownNameError, lambda: ox.native("torch:Adam", bettas=1)).endswith(
        "; did you mean betas?"
    )


def test_arrays_of_no_dimension_are_numbers():
    assert ox.native("torch:SGD", lr=np.array(0.5)).groups[0].hyperparameters["lr"] == 0.5


@pytest.mark.parametrize("make", [
    lambda: ox.spec("adamw", groups=[{"params": ["b"], "lr": 0.5}]),
    lambda: ox.native("torch:AdamW", betas=(0.8, 0.9), amsgrad=True, groups=[{"params": ["b"], "lr": 0.5}]),
    lambda: ox.native("mxnet:Adam", clip_gradient=1.0),
    lambda: ox.native("torch:SGD", lr=float("inf")),
])  # fmt: skip
def test_a_spec_comes_back_from_its_text(make):
    spec = make().settle(["w", "b"])
    text = spec_text(spec)
    again = spec_from_text(text)
    assert again == spec and spec_text(again) == text
    assert [dict(g.arguments) for g in again.groups] == [dict(g.arguments) for g in spec.groups]
