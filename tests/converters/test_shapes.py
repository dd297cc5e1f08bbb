"""Rules that follow from the shape of each parameter, emitted with shapes and without."""

from __future__ import annotations

import pytest

import optexport as ox
from optexport.errors import HyperparameterError, RuleError
from optexport.rules import CATALOGUE

FITTED = sorted(n for n, e in CATALOGUE.items() if e.family.fit is not None)


def test_there_are_some() -> None:
    assert {"adafactor", "muon", "sm3"} <= set(FITTED)


@pytest.mark.parametrize("target", ["torch", "mxnet", "optax", "keras"])
@pytest.mark.parametrize("name", FITTED)
def test_source_needs_the_shapes(name: str, target: str) -> None:
    with pytest.raises(HyperparameterError) as caught:
        ox.emit(ox.spec(name), target)
    family = CATALOGUE[name].family_name
    assert str(caught.value).startswith(
        f"emit {target}: rule {family} depends on the shape of each parameter; expected params={{name: shape}}, "
        "found none"
    )
    text = ox.emit(ox.spec(name), target, params={"a": (6, 4), "b": (4, 6)})
    compile(text, name, "exec")


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_graph_for_a_vector_of_any_length(name: str) -> None:
    if name == "group_adagrad":
        with pytest.raises(HyperparameterError, match="group_adagrad: expected a matrix, found shape"):
            ox.emit(ox.spec(name), "onnx")
        return
    model = ox.emit(ox.spec(name), "onnx")
    (param,) = (i for i in model.graph.input if i.name == "param")
    assert [d.dim_param for d in param.type.tensor_type.shape.dim] == ["n"]


# What a backend cannot have, and the word of its reason.
REFUSED = {
    ("sgld", "keras"): "noise",
    ("noisy_sgd", "keras"): "noise",
    ("newton", "keras"): "hessian",
    ("newton", "mxnet"): "hessian",
    ("newton_along_gradient", "keras"): "hessian",
    ("newton_along_gradient", "mxnet"): "hessian",
    ("lbfgs", "mxnet"): "group_sum",
}
MATRICES = ("muon", "group_adagrad")  # refuse vectors


@pytest.mark.parametrize("target", ["onnx", "torch", "mxnet", "optax", "keras"])
@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_rule_on_every_backend(name: str, target: str) -> None:
    params = {"w": (6, 4)} if name in MATRICES else {"w": (6, 4), "b": (5,)}
    if (name, target) in REFUSED:
        with pytest.raises(RuleError, match=f"rule {name}: needs {REFUSED[name, target]}: "):
            ox.emit(ox.spec(name), target, params=params)
        return
    made = ox.emit(ox.spec(name), target, params=params)
    if target != "onnx":
        compile(made, f"{name}.py", "exec")
