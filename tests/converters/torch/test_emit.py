"""Emitted PyTorch optimizers against the referee, and as PyTorch uses them."""

from __future__ import annotations

import ast
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport import source
from optexport.errors import HyperparameterError, UnknownNameError
from optexport.rules import families
from optexport.specs import Spec

from ..emitted import (
    CASES,
    MUTATED,
    build,
    data,
    every_operator,
    given,
    grouped,
    mutants,
    referee,
    seen,
    tolerance,
    worst,
)

torch = pytest.importorskip("torch")

from optexport.converters.torch import run  # noqa: E402


def make(spec: Spec, tensors: Any) -> Any:
    """An instance of the emitted class, made as its user makes it."""
    made = source.execute(ox.emit(spec, "torch"))
    return getattr(made, source.class_name(spec, None))(tensors)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_referee(case: str, dtype: str) -> None:
    spec = CASES[case]
    params, grads, lrs = data(spec=spec)
    expected = referee(spec, params, grads, lrs, dtype)
    found = run.snapshots(spec, params, grads, lrs, dtype, **given(spec, params))
    assert worst(expected, found) <= tolerance(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spec", [every_operator(), grouped()], ids=["every operator", "groups"])
def test_any_rule_and_any_groups(spec: Spec, dtype: str) -> None:
    params, grads, lrs = data()
    params["rest"] = np.array([0.5, -0.25])
    expected = referee(spec, params, grads, lrs, dtype)
    # Reductions are summed in another order: one more rounding an element.
    assert worst(expected, run.snapshots(spec, params, grads, lrs, dtype)) <= 2 * tolerance(dtype)


@pytest.mark.parametrize("name", MUTATED)
def test_the_comparison_sees_every_change(name: str) -> None:
    params, grads, lrs = data()
    expected = referee(build(name), params, grads, lrs, "float64")
    unseen = [
        what
        for what, spec in mutants(build(name))
        if not seen(expected, run.snapshots(spec, params, grads, lrs, "float64"))
    ]
    assert not unseen


@pytest.mark.parametrize("name", ["adamw", "momentum", "adagrad"])
def test_starts_from_any_state(name: str) -> None:
    params, grads, lrs = data()
    expected = referee(build(name), params, grads, lrs, "float64")
    middle = expected[11]
    found = run.snapshots(
        build(name), middle.params, grads[12:], lrs[12:], "float64", slots=middle.slots, steps=middle.steps
    )
    assert worst(expected[12:], found) <= tolerance("float64")


@pytest.mark.parametrize("name", ["adamw", "momentum", "rmsprop_centered", "sgd"])
def test_state_dict_round_trip_is_bit_identical(name: str) -> None:
    params, grads, _ = data()

    def parameters(values: dict[str, Any]) -> list[Any]:
        return [torch.nn.Parameter(torch.tensor(v, dtype=torch.float32)) for v in values.values()]

    def advance(optimizer: Any, tensors: list[Any], some: list[dict[str, np.ndarray]]) -> None:
        for g in some:
            for n, t in zip(params, tensors, strict=True):
                t.grad = torch.tensor(g[n], dtype=t.dtype) if n in g else None
            optimizer.step()

    whole = parameters(params)
    optimizer = make(build(name), whole)
    advance(optimizer, whole, grads[:15])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    halves = [torch.nn.Parameter(t.detach().clone()) for t in whole]
    resumed = make(build(name), halves)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    advance(optimizer, whole, grads[15:])
    advance(resumed, halves, grads[15:])
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))
    assert str(resumed.state_dict()) == str(optimizer.state_dict())


def test_scheduler_closure_and_missing_gradients() -> None:
    params, grads, _ = data()
    spec = build("adamw")
    w = torch.nn.Parameter(torch.tensor(params["w"]))
    idle = torch.nn.Parameter(torch.tensor(params["b"]))
    optimizer = make(spec, [w, idle])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)

    coming = iter(grads)

    def closure() -> float:
        assert torch.is_grad_enabled()
        w.grad = torch.tensor(next(coming)["w"])
        return 1.25

    for _ in grads:
        assert optimizer.step(closure) == 1.25
        scheduler.step()
    lrs = [0.01 * 0.5 ** (t // 10) for t in range(len(grads))]
    expected = referee(spec, {"w": params["w"]}, [{"w": g["w"]} for g in grads], lrs, "float64")
    assert np.abs(w.detach().numpy() - expected[-1].params["w"]).max() <= tolerance("float64")
    assert np.array_equal(idle.detach().numpy(), params["b"]) and idle not in optimizer.state
    assert optimizer.state[w]["step"] == len(grads)


def test_sparse_gradients_are_refused() -> None:
    w = torch.nn.Parameter(torch.zeros(3))
    w.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="expected dense gradients"):
        make(build("sgd"), [w]).step()


@pytest.mark.parametrize("spec", [*CASES.values(), every_operator(), grouped()])
def test_the_text_stands_alone(spec: Spec) -> None:
    # Where a rule depends on shapes, it needs them.
    shaped = any(families()[g.rule.family].fit for g in spec.groups if g.rule.family in families())
    text = ox.emit(spec, "torch", data(spec=spec)[0] if shaped else None)
    tree = ast.parse(text, feature_version=(3, 10))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {"math", "numpy", "torch"}
    assert not any(isinstance(n, ast.ImportFrom) for n in ast.walk(tree))
    for group in spec.groups if not shaped else ():
        assert group.rule.digest in text
    assert max(map(len, text.splitlines())) <= 120


def test_group_table_takes_named_parameters() -> None:
    made = source.execute(ox.emit(grouped(), "torch"))
    model = torch.nn.ParameterDict({n: torch.nn.Parameter(torch.zeros(2)) for n in ("w", "b", "x", "y")})
    groups = made.param_groups(model.named_parameters())
    assert [len(g["params"]) for g in groups] == [1, 1, 2]
    assert [g["lr"] for g in groups] == [0.01, 0.0025, 0.01] and groups[1]["beta1"] == 0.5
    closed = ox.emit(grouped(), "torch", params={"w": (2,), "b": np.zeros(3), "x": ()})
    with pytest.raises(KeyError, match="'y'"):
        source.execute(closed).param_groups(model.named_parameters())


def test_the_step_counter_starts_where_the_spec_says() -> None:
    params, grads, lrs = data()
    (group,) = build("adam").groups
    spec = Spec((replace(group, first_step=5),))
    expected = referee(spec, params, grads, lrs, "float64")
    assert worst(expected, run.snapshots(spec, params, grads, lrs, "float64")) <= tolerance("float64")
    mixed = Spec((replace(group, params=("w",), first_step=5), group))
    with pytest.raises(HyperparameterError, match="first_step"):
        ox.emit(mixed, "torch")


def test_names_and_errors() -> None:
    assert "class OptexportAdamw(" in ox.emit(ox.spec("adamw"), "torch")
    assert "class Mine(" in ox.emit(ox.spec("adamw"), "torch", class_name="Mine")
    with pytest.raises(HyperparameterError, match="expected a Python identifier"):
        ox.emit(ox.spec("adamw"), "torch", class_name="a b")
    with pytest.raises(UnknownNameError, match="unknown option 'klass'"):
        ox.emit(ox.spec("adamw"), "torch", klass="x")
    with pytest.raises(UnknownNameError, match="unknown target 'fortran'"):
        ox.emit(ox.spec("adamw"), "fortran")
    with pytest.raises(UnknownNameError, match="lists 'w'"):
        ox.emit(grouped(), "torch", params={"b": (1,)})
    for shape in ((-1,), (1.5,), "ab", 3, (True,)):
        with pytest.raises(HyperparameterError, match="parameter 'w': expected a shape"):
            ox.emit(ox.spec("adamw"), "torch", params={"w": shape})


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("torch:AdamW", {"lr": 0.01, "amsgrad": True, "maximize": True}),
        ("torch:SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
        ("torch:RMSprop", {"momentum": 0.9, "centered": True}),
    ],
)
def test_native_runs_and_resumes(optimizer: str, arguments: dict[str, Any], tmp_path: Any) -> None:
    params, grads, lrs = data()
    whole = list(run.native_snapshots(optimizer, arguments, params, grads, lrs, "float64"))
    assert worst(
        referee(ox.native(optimizer, **arguments), params, grads, lrs, "float64"), whole
    ) <= 4 * tolerance("float64")

    tensors = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in params.items()}
    native = getattr(torch.optim, optimizer.partition(":")[2])(tensors.values(), **arguments)
    for g in grads[:10]:
        for n, t in tensors.items():
            t.grad = torch.tensor(g[n]) if n in g else None
        native.step()
    torch.save({"optimizer": native.state_dict()}, tmp_path / "o.pt")
    middle = {n: t.detach().numpy() for n, t in tensors.items()}
    rest = run.native_resume(tmp_path / "o.pt", optimizer, {}, middle, grads[10:], lrs[10:], "float64")
    for (p, s), (q, r) in zip(whole[10:], rest, strict=True):
        assert all(np.array_equal(p[n], q[n]) for n in p)
        assert all(np.array_equal(s[n][k], r[n][k]) for n in s for k in s[n])
