"""Files that we write, loaded by MXNet: training goes on as if it had never stopped, bit for bit."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from optexport.converters.mxnet import _pickled, checkpoint
from optexport.state.native import NativeGroup, NativeState

SHAPES = [(4, 3), (5, 2), (3, 1)]
INDEXES = [7, 0, 2]
FP16 = {"multi_precision": True}

# Every class of the registry that can be stepped, in the forms that change what its state looks like.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9, "wd": 0.01}),
    ("sgd", {"momentum": 0.9, **FP16}),
    ("sgd", FP16),
    ("ccsgd", {"momentum": 0.9}),
    ("nag", {"momentum": 0.9, "wd": 0.01}),
    ("nag", {"momentum": 0.9, **FP16}),
    ("adam", {"beta2": 0.99, "wd": 0.01, "clip_gradient": 0.05}),
    ("adam", FP16),
    ("rmsprop", {"wd": 0.01}),
    ("rmsprop", {"centered": True, "gamma1": 0.95}),
    ("rmsprop", {"centered": True, **FP16}),
    ("adagrad", {"wd": 0.01, "eps": 1e-6}),
    ("adadelta", {"rho": 0.8}),
    ("adamax", {}),
    ("nadam", {}),
    ("ftml", {}),
    ("ftrl", {}),
    ("lamb", {}),
    ("lamb", FP16),
    ("lars", {"momentum": 0.9, "eta": 0.1}),
    ("lars", {"momentum": 0.9, **FP16}),
    ("lbsgd", {"momentum": 0.9, "batch_scale": 2}),
    ("lbsgd", {"momentum": 0.9, **FP16}),
    ("lbsgd", FP16),
    ("lars", FP16),
    ("nag", FP16),
    ("dcasgd", FP16),
    ("ftml", FP16),
    ("dcasgd", {}),
    ("signum", {}),
    ("signum", {"momentum": 0.0, **FP16}),
    ("groupadagrad", {}),
]


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(k for k in case[1])])


def gradients(step: int) -> list[np.ndarray]:
    random = np.random.RandomState(step)
    return [random.standard_normal(shape).astype("f4") * 0.1 for shape in SHAPES]


def new_weights(mx: ModuleType, dtype: str) -> list[Any]:
    random = np.random.RandomState(99)
    return [mx.nd.array(random.standard_normal(shape), dtype=dtype) for shape in SHAPES]


def advance(mx: ModuleType, updater: Any, weights: list[Any], steps: range) -> None:
    """The last parameter gets a gradient in every second step only: its count lags behind."""
    for step in steps:
        for position, (index, weight, gradient) in enumerate(
            zip(INDEXES, weights, gradients(step), strict=True)
        ):
            if position < 2 or step % 2 == 0:
                updater(index, mx.nd.array(gradient, dtype=weight.dtype), weight)


def bits(arrays: list[Any]) -> list[bytes]:
    return [array.asnumpy().tobytes() for array in arrays]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_updater_goes_on(mx: ModuleType, tmp_path: Path, case: tuple[str, dict[str, Any]]) -> None:
    name, arguments = case
    weights = new_weights(mx, "float16" if "multi_precision" in arguments else "float32")
    updater = mx.optimizer.get_updater(mx.optimizer.create(name, **arguments))
    advance(mx, updater, weights, range(3))
    native, ours = tmp_path / "native.states", tmp_path / "ours.states"
    native.write_bytes(updater.get_states(dump_optimizer=True))
    copies = [weight.copy() for weight in weights]
    checkpoint.write(checkpoint.read(native), ours)

    # An updater of another class shows that everything comes from the file.
    other = mx.optimizer.get_updater(mx.optimizer.create("test"))
    other.set_states(ours.read_bytes())
    assert type(other.optimizer) is type(updater.optimizer)
    assert vars(other.optimizer).keys() == vars(updater.optimizer).keys()
    other.aggregate_updates = updater.aggregate_updates
    advance(mx, updater, weights, range(3, 7))
    advance(mx, other, copies, range(3, 7))
    assert bits(copies) == bits(weights)
    native.write_bytes(updater.get_states(dump_optimizer=True))
    ours.write_bytes(other.get_states(dump_optimizer=True))
    first, second = checkpoint.read(native), checkpoint.read(ours)
    assert first.groups == second.groups and first.steps == second.steps
    assert {k: {s: a.tobytes() for s, a in v.items()} for k, v in first.slots.items()} == {
        k: {s: a.tobytes() for s, a in v.items()} for k, v in second.slots.items()
    }


# Those whose optimizer has state of its own need that given: see test_updater_goes_on.
OWN_STATE = {"nadam", "lars", "lbsgd"}


@pytest.mark.parametrize("case", [case for case in CASES if case[0] not in OWN_STATE], ids=case_id)
def test_arguments_and_steps_are_enough(
    mx: ModuleType, tmp_path: Path, case: tuple[str, dict[str, Any]]
) -> None:
    """What a conversion from another framework has: constructor arguments, slots and steps."""
    name, arguments = case
    weights = new_weights(mx, "float16" if "multi_precision" in arguments else "float32")
    optimizer = mx.optimizer.create(name, learning_rate=0.03, **arguments)
    updater = mx.optimizer.get_updater(optimizer)
    advance(mx, updater, weights, range(3))
    copies = [weight.copy() for weight in weights]
    native, ours = tmp_path / "native.states", tmp_path / "ours.states"
    native.write_bytes(updater.get_states(dump_optimizer=True))
    read = checkpoint.read(native)
    made = NativeState(
        "mxnet",
        checkpoint.FORMAT,
        name,  # the registry's spelling
        [NativeGroup({"learning_rate": 0.03, "param_idx2name": None, **arguments}, read.groups[0].params)],
        read.slots,
        read.steps,
    )
    checkpoint.write(made, ours)
    other = mx.optimizer.get_updater(mx.optimizer.create(name))
    other.set_states(ours.read_bytes())
    assert vars(other.optimizer) == vars(optimizer)
    counts = other.optimizer._all_index_update_counts
    assert other.optimizer._index_update_count is counts[0]
    advance(mx, updater, weights, range(3, 7))
    advance(mx, other, copies, range(3, 7))
    assert bits(copies) == bits(weights)


def test_attributes_of_every_class(mx: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MXNET_OPTIMIZER_AGGREGATION_SIZE", raising=False)
    registry = mx.optimizer.Optimizer.opt_registry
    ours = {cls.__name__: cls for cls in registry.values() if cls.__module__.startswith("mxnet.")}
    assert set(ours) == set(_pickled.OPTIMIZERS)
    for name, cls in ours.items():
        fresh = dict(vars(cls()))
        assert fresh.pop("param_dict") == {}
        assert fresh.pop("_index_update_count") is fresh.pop("_all_index_update_counts")[0]
        assert _pickled.attributes(name) == fresh, name
        assert _pickled.module_of(name) == cls.__module__
    schedulers = {c.__name__: c for c in vars(mx.lr_scheduler).values() if isinstance(c, type)}
    assert set(schedulers) == set(_pickled.SCHEDULERS)


def make_trainer(
    mx: ModuleType, name: str, arguments: dict[str, Any], dtype: str
) -> tuple[Any, Callable[[range], None]]:
    """A gluon Trainer and what makes it step over a range."""
    random = np.random.RandomState(99)
    params = [mx.gluon.Parameter(f"p{i}", shape=shape, dtype=dtype) for i, shape in enumerate(SHAPES)]
    for param in params:
        param.initialize(ctx=mx.cpu())
        param.set_data(mx.nd.array(random.standard_normal(param.shape), dtype=dtype))
    params[1].lr_mult = 0.5
    trainer = mx.gluon.Trainer(params, name, dict(arguments), kvstore=None)

    def go(steps: range) -> None:
        for step in steps:
            for param, gradient in zip(params, gradients(step), strict=True):
                param.grad()[:] = mx.nd.array(gradient, dtype=dtype)
                param.data()._fresh_grad = True
            trainer.step(2)

    return trainer, go


TRAINED = [case for case in CASES if case[0] in ("sgd", "nag", "adam", "rmsprop", "adagrad")]


@pytest.mark.parametrize("case", TRAINED, ids=case_id)
def test_trainer_goes_on(mx: ModuleType, tmp_path: Path, case: tuple[str, dict[str, Any]]) -> None:
    name, arguments = case
    dtype = "float16" if "multi_precision" in arguments else "float32"
    trainer, go = make_trainer(mx, name, arguments, dtype)
    go(range(3))
    native, ours = str(tmp_path / "native.states"), str(tmp_path / "ours.states")
    trainer.save_states(native)
    checkpoint.write(checkpoint.read(native), ours)
    other, other_go = make_trainer(mx, name, {}, dtype)
    for param, source in zip(other._params, trainer._params, strict=True):
        param.set_data(source.data())
    other.load_states(ours)
    go(range(3, 7))
    other_go(range(3, 7))
    assert bits([p.data() for p in other._params]) == bits([p.data() for p in trainer._params])


def test_scheduler_goes_on(mx: ModuleType, tmp_path: Path) -> None:
    scheduler = mx.lr_scheduler.MultiFactorScheduler(step=[2, 4, 5], factor=0.5, base_lr=0.1)
    optimizer = mx.optimizer.create("sgd", lr_scheduler=scheduler, momentum=0.9)
    updater, weights = mx.optimizer.get_updater(optimizer), new_weights(mx, "float32")
    advance(mx, updater, weights, range(3))
    copies = [weight.copy() for weight in weights]
    path = tmp_path / "x.states"
    path.write_bytes(updater.get_states(dump_optimizer=True))
    checkpoint.write(checkpoint.read(path), path)
    other = mx.optimizer.get_updater(mx.optimizer.create("sgd"))
    other.set_states(path.read_bytes())
    advance(mx, updater, weights, range(3, 7))
    advance(mx, other, copies, range(3, 7))
    assert bits(copies) == bits(weights)
    assert vars(other.optimizer.lr_scheduler) == vars(scheduler)


def make_module(
    mx: ModuleType, contexts: list[Any], kvstore: str | None
) -> tuple[Any, Callable[[int], None]]:
    net = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=3, name="fc1")
    net = mx.sym.LinearRegressionOutput(net, name="lro")
    module = mx.mod.Module(net, data_names=["data"], label_names=["lro_label"], context=contexts)
    module.bind(data_shapes=[("data", (4, 2))], label_shapes=[("lro_label", (4, 3))])
    values = {"fc1_weight": mx.nd.ones((3, 2)), "fc1_bias": mx.nd.zeros((3,))}
    module.init_params(arg_params=values)
    module.init_optimizer(kvstore=kvstore, optimizer="adam", optimizer_params={"learning_rate": 0.1})
    random = np.random.RandomState(5)

    def go(steps: int) -> None:
        for _ in range(steps):
            data = mx.nd.array(random.standard_normal((4, 2)))
            module.forward_backward(mx.io.DataBatch([data], [mx.nd.ones((4, 3))]))
            module.update()

    return module, go


# Without a kvstore, the devices of a Module drift apart: that could not be compared.
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Module leaves the file open
@pytest.mark.parametrize(("devices", "kvstore"), [(1, None), (2, "local")])
def test_module_goes_on(mx: ModuleType, tmp_path: Path, devices: int, kvstore: str | None) -> None:
    contexts = [mx.cpu(i) for i in range(devices)]
    module, go = make_module(mx, contexts, kvstore)
    go(3)
    native, ours = str(tmp_path / "native.states"), str(tmp_path / "ours.states")
    if kvstore is None:
        Path(native).write_bytes(module._updater.get_states(dump_optimizer=True))
    else:
        module._kvstore.save_optimizer_states(native, dump_optimizer=True)
    read = checkpoint.read(native)
    assert read.named and ("keys" in read.extras) == (kvstore is not None)
    assert set(read.steps.values()) == {3}
    checkpoint.write(read, ours)
    other, other_go = make_module(mx, contexts, kvstore)
    other_go(3)
    other.set_params(*module.get_params())
    other.load_optimizer_states(ours)
    go(3)
    other_go(3)
    expected, found = module.get_params()[0], other.get_params()[0]
    names = list(expected)
    assert bits([found[name] for name in names]) == bits([expected[name] for name in names])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Module leaves the file open
def test_states_only_file_of_a_module(mx: ModuleType, tmp_path: Path) -> None:
    module, go = make_module(mx, [mx.cpu()], None)
    go(2)
    path = str(tmp_path / "x.states")
    module.save_optimizer_states(path)
    before = Path(path).read_bytes()
    checkpoint.write(checkpoint.read(path), path, dump_optimizer=False)
    module.load_optimizer_states(path)
    assert module._updater.get_states() == before


def test_numpy_mode(mx: ModuleType, tmp_path: Path, numpy_mode: None) -> None:
    def go(updater: Any, weights: list[Any], steps: range) -> None:
        for step in steps:
            for index, (weight, gradient) in enumerate(zip(weights, gradients(step), strict=True)):
                updater(index, mx.np.array(gradient), weight)

    weights = [mx.np.array(gradient) for gradient in gradients(99)]
    updater = mx.optimizer.get_updater(mx.optimizer.create("adam"))
    go(updater, weights, range(3))
    copies = [weight.copy() for weight in weights]
    path = tmp_path / "x.states"
    path.write_bytes(updater.get_states(dump_optimizer=True))
    checkpoint.write(checkpoint.read(path), path)
    other = mx.optimizer.get_updater(mx.optimizer.create("adam"))
    other.set_states(path.read_bytes())
    go(updater, weights, range(3, 6))
    go(other, copies, range(3, 6))
    assert bits(copies) == bits(weights)


def test_emitted_optimizer(mx: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OptexportSum(mx.optimizer.Optimizer):  # type: ignore[misc]
        """w −= lr · rho · sum of the gradients, whose state is a tuple of one."""

        def __init__(self, rho: float = 0.5, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.rho = rho

        def create_state(self, index: int, weight: Any) -> Any:
            return (mx.nd.zeros(weight.shape),)

        def update(self, index: int, weight: Any, grad: Any, state: Any) -> None:
            self._update_count(index)
            state[0][:] += grad
            weight[:] -= self._get_lr(index) * self.rho * state[0]

    module = ModuleType("my_optimizers")
    module.OptexportSum = OptexportSum  # type: ignore[attr-defined]
    OptexportSum.__module__, OptexportSum.__qualname__ = "my_optimizers", "OptexportSum"
    monkeypatch.setitem(sys.modules, "my_optimizers", module)
    updater, weights = mx.optimizer.get_updater(OptexportSum(rho=0.25)), new_weights(mx, "float32")
    advance(mx, updater, weights, range(3))
    copies = [weight.copy() for weight in weights]
    path = tmp_path / "x.states"
    path.write_bytes(updater.get_states(dump_optimizer=True))
    read = checkpoint.read(path)
    arguments = {"__module__": "my_optimizers", "learning_rate": 0.01, "rho": 0.25}
    read.groups = [NativeGroup(arguments, read.groups[0].params)]
    checkpoint.write(read, path)
    other = mx.optimizer.get_updater(OptexportSum())
    other.set_states(path.read_bytes())
    assert vars(other.optimizer) == vars(updater.optimizer)
    advance(mx, updater, weights, range(3, 6))
    advance(mx, other, copies, range(3, 6))
    assert bits(copies) == bits(weights)


def test_row_sparse_state(mx: ModuleType, tmp_path: Path) -> None:
    weight = mx.nd.array(np.ones((6, 2), "f4")).tostype("row_sparse")
    gradient = mx.nd.sparse.row_sparse_array((np.ones((2, 2), "f4"), [1, 4]), shape=(6, 2))
    updater = mx.optimizer.get_updater(mx.optimizer.create("adam"))
    updater(0, gradient, weight)
    mx.nd.waitall()
    path = tmp_path / "x.states"
    path.write_bytes(updater.get_states(dump_optimizer=True))
    read = checkpoint.read(path)
    assert np.array_equal(read.slots["0"]["[0]"], updater.states[0][0].asnumpy())
    assert read.warnings == ["2 sparse arrays were made dense: rows without an entry are zeros"]


def test_our_pickle_is_the_standard_one(mx: ModuleType, tmp_path: Path) -> None:
    """No global beyond those that MXNet's own file names."""
    updater, weights = mx.optimizer.get_updater(mx.optimizer.create("adam")), new_weights(mx, "float32")
    advance(mx, updater, weights, range(2))
    native = updater.get_states(dump_optimizer=True)
    (tmp_path / "x.states").write_bytes(native)
    checkpoint.write(checkpoint.read(tmp_path / "x.states"), tmp_path / "y.states")
    assert globals_of((tmp_path / "y.states").read_bytes()) == globals_of(native)


def globals_of(data: bytes) -> set[tuple[str, str]]:
    found = set()

    class Watch(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add((module, name))
            return super().find_class(module, name)

    Watch(io.BytesIO(data)).load()
    return found
