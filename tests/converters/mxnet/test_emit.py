"""Emitted MXNet optimizers against the referee, and as MXNet uses them."""

from __future__ import annotations

import ast
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport import source
from optexport.errors import HyperparameterError, RuleError
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
    roles,
    seen,
    sums,
    tolerance,
    worst,
)


@pytest.fixture(scope="module")
def run(mx: ModuleType) -> ModuleType:
    from optexport.converters.mxnet import run

    return run


@pytest.fixture
def make(mx: ModuleType) -> Callable[..., Any]:
    """An instance of the emitted class."""

    def instance(spec: Spec, **arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MXNet says where a registered name is taken again
            made = source.execute(ox.emit(spec, "mxnet"))
        return getattr(made, source.class_name(spec, None))(**arguments)

    return instance


def advance(
    updater: Any, arrays: Sequence[Any], grads: Sequence[dict[str, np.ndarray]], mx: ModuleType
) -> None:
    """Steps of the parameters ``w`` and ``b``, indexes 0 and 1."""
    for g in grads:
        for i, name in enumerate(("w", "b")):
            if name in g:
                updater(i, mx.nd.array(g[name], dtype=arrays[i].dtype), arrays[i])


def lacking(spec: Spec) -> str | None:
    """What the error says that refuses a rule because MXNet lacks something; None where it lacks nothing."""
    if "hessian" in roles(spec):
        return "needs hessian: the Hessian, which MXNet gives to no optimizer"
    return r"needs group_sum: .* MXNet updates one parameter at a time" if sums(spec) else None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_referee(run: ModuleType, case: str, dtype: str) -> None:
    spec = CASES[case]
    params, grads, lrs = data(spec=spec)
    if needed := lacking(spec):
        with pytest.raises(RuleError, match=needed):
            ox.emit(spec, "mxnet", params)
        return
    expected = referee(spec, params, grads, lrs, dtype)
    found = run.snapshots(spec, params, grads, lrs, dtype, **given(spec, params))
    assert worst(expected, found) <= tolerance(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spec", [every_operator(), grouped()], ids=["every operator", "groups"])
def test_any_rule_and_any_groups(run: ModuleType, spec: Spec, dtype: str) -> None:
    params, grads, lrs = data()
    params["rest"] = np.array([0.5, -0.25])
    expected = referee(spec, params, grads, lrs, dtype)
    # Reductions are summed in another order: one more rounding an element.
    assert worst(expected, run.snapshots(spec, params, grads, lrs, dtype)) <= 2 * tolerance(dtype)


@pytest.mark.parametrize("name", MUTATED[:1])
def test_the_comparison_sees_every_change(run: ModuleType, name: str) -> None:
    params, grads, lrs = data()
    expected = referee(build(name), params, grads, lrs, "float64")
    unseen = [
        what
        for what, spec in mutants(build(name))
        if not seen(expected, run.snapshots(spec, params, grads, lrs, "float64"))
    ]
    assert not unseen


@pytest.mark.parametrize("name", ["adamw", "momentum", "adagrad"])
def test_starts_from_any_state(run: ModuleType, name: str) -> None:
    params, grads, lrs = data()
    expected = referee(build(name), params, grads, lrs, "float64")
    middle = expected[11]
    found = run.snapshots(
        build(name), middle.params, grads[12:], lrs[12:], "float64", slots=middle.slots, steps=middle.steps
    )
    assert worst(expected[12:], found) <= tolerance("float64")


def test_groups_of_several_learning_rates(run: ModuleType) -> None:
    params, grads, _ = data()
    (group,) = build("momentum").groups
    slow = replace(
        group, params=("b",), hyperparameters={**group.hyperparameters, "lr": 0.0007, "weight_decay": 0.0}
    )
    spec = Spec((slow, group))
    expected = referee(spec, params, grads, [None] * len(grads), "float64")
    # The ratio of two learning rates is rounded once more.
    assert worst(expected, run.snapshots(spec, params, grads, dtype="float64")) <= 2 * tolerance("float64")
    with pytest.raises(HyperparameterError, match="lrs: expected one learning rate"):
        run.snapshots(spec, params, grads, [0.1] * len(grads))


def net(mx: ModuleType, seed: int) -> Any:
    """A tiny network with its loss left out; gluon's names end in _weight and _bias."""
    mx.random.seed(seed)
    model = mx.gluon.nn.HybridSequential(prefix="net_")
    with model.name_scope():
        model.add(mx.gluon.nn.Dense(4, activation="tanh", in_units=3), mx.gluon.nn.Dense(2, in_units=4))
    model.initialize(mx.init.Xavier())
    return model


def train(mx: ModuleType, model: Any, trainer: Any, seeds: range) -> None:
    for seed in seeds:
        x = mx.nd.array(np.random.default_rng(seed).standard_normal((6, 3)))
        with mx.autograd.record():
            loss = (model(x) ** 2).sum()
        loss.backward()
        trainer.step(6)


@pytest.mark.parametrize("name", ["adamw", "momentum", "rmsprop_centered", "sgd"])
def test_gluon_trainer_saves_and_loads(mx: ModuleType, make: Any, name: str, tmp_path: Any) -> None:
    whole, half = net(mx, 1), net(mx, 2)
    first = mx.gluon.Trainer(whole.collect_params(), make(build(name)))
    train(mx, whole, first, range(7))
    first.save_states(str(tmp_path / "states"))
    whole.save_parameters(str(tmp_path / "params"))
    half.load_parameters(str(tmp_path / "params"))
    second = mx.gluon.Trainer(half.collect_params(), make(build(name)))
    second.load_states(str(tmp_path / "states"))
    train(mx, whole, first, range(7, 15))
    train(mx, half, second, range(7, 15))
    pairs = zip(whole.collect_params().values(), half.collect_params().values(), strict=True)
    assert all(np.array_equal(a.data().asnumpy(), b.data().asnumpy()) for a, b in pairs)


def test_gluon_trainer_equals_the_referee(mx: ModuleType, make: Any) -> None:
    spec, model = build("adamw"), net(mx, 3)
    params = model.collect_params()
    params["net_dense1_bias"].wd_mult = 0.0
    params["net_dense0_weight"].lr_mult = 0.5
    state = ox.init(spec, {n: p.data().asnumpy() for n, p in params.items()}, dtype="float32")
    (group,) = spec.groups
    slow = replace(group, params=("net_dense0_weight",), lr_mult=0.5)
    plain = replace(
        group, params=("net_dense1_bias",), hyperparameters={**group.hyperparameters, "weight_decay": 0.0}
    )
    state = replace(state, spec=Spec((slow, plain, group)).settle(params))
    trainer = mx.gluon.Trainer(params, make(spec))
    for t in range(10):
        if t == 5:
            trainer.set_learning_rate(0.002)
        train(mx, model, trainer, range(t, t + 1))
        grads = {n: p.grad().asnumpy() * np.float32(1 / 6) for n, p in params.items()}
        state = ox.step(state, grads, lr=0.01 if t < 5 else 0.002)
    for n, p in params.items():
        assert np.abs(p.data().asnumpy() - state.params[n]).max() <= tolerance("float32", 10)


@pytest.mark.parametrize("whole", [True, False])
def test_updater_states(mx: ModuleType, make: Any, whole: bool) -> None:
    params, grads, _ = data()
    ours = [mx.nd.array(params[n], dtype="float32") for n in ("w", "b")]
    updater = mx.optimizer.get_updater(make(build("adamw")))
    advance(updater, ours, [{"w": g["w"], "b": g["w"][0, :1].repeat(5)} for g in grads[:9]], mx)
    theirs = [a.copy() for a in ours]
    # Without the optimizer the file has no step counts.
    again = mx.optimizer.get_updater(make(build("adamw"), begin_num_update=0 if whole else 9))
    again.set_states(updater.get_states(dump_optimizer=whole))
    for u, arrays in ((updater, ours), (again, theirs)):
        advance(u, arrays, grads[9:], mx)
    assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(ours, theirs, strict=True))
    assert isinstance(updater.states[0], tuple) and len(updater.states[0]) == 2


def test_states_are_tuples_in_the_rules_order(mx: ModuleType, make: Any) -> None:
    weight = mx.nd.ones((2,), dtype="float64")
    (only,) = make(build("adagrad")).create_state(0, weight)
    assert only.asnumpy().tolist() == [0.2, 0.2] and only.dtype == np.float64
    assert make(build("sgd")).create_state(0, weight) is None
    optimizer = make(build("amsgrad"))
    assert len(optimizer.create_state(0, weight)) == 3
    with pytest.raises(ValueError, match="expected a state of 3 arrays"):
        optimizer.update(0, weight, weight, (weight,))


@pytest.mark.parametrize("name", ["adamw", "momentum", "sgd"])
def test_multi_precision(mx: ModuleType, make: Any, name: str) -> None:
    params, grads, _ = data()
    start = {n: v.astype(np.float16) for n, v in params.items()}
    halves = [{n: v.astype(np.float16) for n, v in g.items()} for g in grads]
    weights = [mx.nd.array(start[n], dtype="float16") for n in ("w", "b")]
    updater = mx.optimizer.get_updater(make(build(name), multi_precision=True))
    advance(updater, weights, halves, mx)
    last = referee(build(name), start, halves, [None] * len(grads), "float32")[-1]
    for i, n in enumerate(("w", "b")):
        master = updater.states[i][0]
        assert master.dtype == np.float32
        assert np.abs(master.asnumpy() - last.params[n]).max() <= tolerance("float32")
        assert np.array_equal(weights[i].asnumpy(), master.asnumpy().astype(np.float16))


def test_names_do_not_switch_decay_off(mx: ModuleType, make: Any) -> None:
    optimizer = make(build("adamw"), param_idx2name={0: "bias", 1: "fc_weight"})
    assert [optimizer._get_wd(i) for i in (0, 1)] == [0.05, 0.05]
    optimizer.set_wd_mult({"bias": 0.5})
    assert [optimizer._get_wd(i) for i in (0, 1)] == [0.025, 0.05]
    assert optimizer.idx2name == {0: "bias", 1: "fc_weight"}


def test_schedulers(mx: ModuleType, make: Any) -> None:
    params, grads, _ = data()
    spec = build("momentum")
    scheduler = mx.lr_scheduler.FactorScheduler(step=10, factor=0.5, base_lr=0.02)
    optimizer = make(spec, lr_scheduler=scheduler)
    weight = mx.nd.array(params["w"], dtype="float64")
    advance(mx.optimizer.get_updater(optimizer), [weight], [{"w": g["w"]} for g in grads], mx)
    # MXNet counts the update before it asks the scheduler, and halves after more than 10.
    lrs = [0.02 * 0.5 ** (t // 10) for t in range(len(grads))]
    last = referee(spec, {"w": params["w"]}, [{"w": g["w"]} for g in grads], lrs, "float64")[-1]
    assert np.abs(weight.asnumpy() - last.params["w"]).max() <= tolerance("float64")


def test_module(mx: ModuleType) -> None:
    spec = build("adamw")
    source.execute(ox.emit(spec, "mxnet", class_name="ForModule"))  # registers the class
    symbol = mx.sym.MakeLoss(mx.sym.sum(mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, name="fc")))
    module = mx.mod.Module(symbol, data_names=("data",), label_names=None)
    module.bind([("data", (4, 3))])
    module.init_params(mx.init.Uniform(1))
    module.init_optimizer(optimizer="formodule", optimizer_params={"learning_rate": 0.1})
    start = {n: v.asnumpy() for n, v in module.get_params()[0].items()}
    x = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    state = ox.init(spec, start, dtype="float32")
    # Module sets rescale_grad to 1 / batch size.
    grads = {"fc_weight": np.tile(x.sum(0), (2, 1)) / 4, "fc_bias": np.full(2, 1, np.float32)}
    for _ in range(3):
        module.forward_backward(mx.io.DataBatch([mx.nd.array(x)]))
        module.update()
        state = ox.step(state, grads, lr=0.1)
    for n, v in module.get_params()[0].items():
        assert np.abs(v.asnumpy() - state.params[n]).max() <= tolerance("float32", 3) * 4


def test_numpy_mode(mx: ModuleType, make: Any, numpy_mode: None) -> None:
    params, grads, _ = data()
    optimizer = make(build("adamw"))
    weight = mx.np.array(params["w"], dtype="float64")
    updater = mx.optimizer.get_updater(optimizer)
    for g in grads:
        updater(0, mx.np.array(g["w"], dtype="float64"), weight)
    some = [{"w": g["w"]} for g in grads]
    last = referee(build("adamw"), {"w": params["w"]}, some, [None] * len(grads), "float64")[-1]
    assert np.abs(weight.asnumpy() - last.params["w"]).max() <= tolerance("float64")


def test_a_row_sparse_gradient_is_a_dense_one_with_zeros(mx: ModuleType, make: Any) -> None:
    weights = [mx.nd.ones((4, 2)) for _ in range(2)]
    dense = mx.nd.array([[0, 0], [1, 2], [0, 0], [3, 4]])
    for weight, grad in zip(weights, (dense, dense.tostype("row_sparse")), strict=True):
        mx.optimizer.get_updater(make(build("adamw")))(0, grad, weight)
    assert np.array_equal(weights[0].asnumpy(), weights[1].asnumpy())


def test_what_the_rule_does_not_have_is_refused(mx: ModuleType, make: Any) -> None:
    with pytest.raises(ValueError, match="the rule does not clip"):
        make(build("adamw"), clip_gradient=1.0)
    with pytest.raises(ValueError, match="the rule has no decay"):
        make(build("sgd", decay="none"), wd=0.1)
    with pytest.raises(ValueError, match="no name"):
        make(grouped()).create_state(0, mx.nd.ones(1))
    closed = Spec(tuple(replace(g, params=g.params or ("x",)) for g in grouped().groups))
    with pytest.raises(ValueError, match="expected a name that GROUPS lists"):
        make(closed, param_idx2name={0: "other"}).create_state(0, mx.nd.ones(1))
    plain, scaled = build("sgd").groups[0], build("sgd", rescale=True).groups[0]
    with pytest.raises(HyperparameterError, match="'rescale' expected alike"):
        ox.emit(Spec((replace(plain, params=("w",)), scaled)), "mxnet")


def test_pickles(make: Any) -> None:
    optimizer = make(build("adamw"), beta1=0.5, learning_rate=0.3)
    again = pickle.loads(pickle.dumps(optimizer))
    assert type(again) is type(optimizer) and (again.beta1, again.lr) == (0.5, 0.3)


@pytest.mark.parametrize(
    "spec", [*(s for s in CASES.values() if not lacking(s)), every_operator(), grouped()]
)
def test_the_text_stands_alone(spec: Spec) -> None:
    # Where a rule depends on shapes, it needs them.
    shaped = any(families()[g.rule.family].fit for g in spec.groups if g.rule.family in families())
    text = ox.emit(spec, "mxnet", data(spec=spec)[0] if shaped else None)
    tree = ast.parse(text, feature_version=(3, 10))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {"math", "numpy", "mxnet"}
    assert not any(isinstance(n, ast.ImportFrom) for n in ast.walk(tree))
    for group in spec.groups if not shaped else ():
        assert group.rule.digest in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("mxnet:sgd", {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.1, "clip_gradient": 0.5}),
        ("mxnet:adam", {"wd": 0.1, "rescale_grad": 0.5}),
        ("mxnet:rmsprop", {"centered": True}),
        ("mxnet:rmsprop", {}),
        ("mxnet:adagrad", {"wd": 0.1}),
        ("mxnet:adamw_update", {"wd": 0.1}),
    ],
)
def test_native_runs_and_resumes(
    run: ModuleType, mx: ModuleType, optimizer: str, arguments: dict[str, Any], tmp_path: Any
) -> None:
    params, grads, lrs = data()
    whole = list(run.native_snapshots(optimizer, arguments, params, grads, lrs))
    last = referee(ox.native(optimizer, **arguments), params, grads, lrs, "float32")[-1]
    for n, v in last.params.items():
        assert np.abs(v - whole[-1][0][n]).max() <= 4 * tolerance("float32")
    if optimizer.endswith("_update"):
        return
    updater = mx.optimizer.get_updater(mx.optimizer.create(optimizer.partition(":")[2], **arguments))
    rates = [updater.optimizer.lr if lr is None else lr for lr in lrs]
    arrays = [mx.nd.array(params[n], dtype="float32") for n in ("w", "b")]
    for g, lr in zip(grads[:10], rates, strict=False):
        updater.optimizer.set_learning_rate(lr)
        advance(updater, arrays, [g], mx)
    (tmp_path / "s").write_bytes(updater.get_states(dump_optimizer=True))
    middle = {n: a.asnumpy() for n, a in zip(("w", "b"), arrays, strict=True)}
    rest = run.native_resume(tmp_path / "s", optimizer, {}, middle, grads[10:], lrs[10:])
    for (p, s), (q, r) in zip(whole[10:], rest, strict=True):
        assert all(np.array_equal(p[n], q[n]) for n in p)
        assert all(np.array_equal(s[n][k], r[n][k]) for n in s for k in s[n])
