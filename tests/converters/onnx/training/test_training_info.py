"""Training graphs in ONNX' standard form: checked by onnx, run by its evaluator, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import optexport as ox
from optexport.cli import cli
from optexport.convert import convert
from optexport.converters.onnx.training_info import joined
from optexport.errors import CheckpointError, ModelError, UnknownNameError
from optexport.state import TrainingState

from .small import BUFFERS, LOSS, OPTIONS, PARAMS, SHAPES, batches, model, values

Arrays = dict[str, np.ndarray]
SPECS = {
    "adamw": lambda: ox.native("torch:AdamW", lr=1e-2, weight_decay=0.1),
    "momentum": lambda: ox.spec("momentum", lr=1e-2, momentum=0.9),
    "groups": lambda: ox.spec(
        "adamw", lr=1e-2, groups=[{"params": ["head.bias", "norm.bias"], "lr": 3e-2, "weight_decay": 0.0}]
    ),
    "schedule": lambda: ox.spec("adam", lr=ox.schedule("exponential", base=1e-2, gamma=0.5, period=2)),
}


def info(spec: Any = None, **options: Any) -> onnx.ModelProto:
    return ox.training_info(model(), LOSS, spec, **OPTIONS, **options)


def tensors(held: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in (*held.graph.initializer, *held.training_info[0].algorithm.initializer)}


def stepped(held: onnx.ModelProto, batch: tuple[np.ndarray, np.ndarray]) -> tuple[onnx.ModelProto, float]:
    """The model after a step, as the standard says: outputs replace what update_binding names; and the loss."""
    run = joined(held)
    names = ["loss", *(b.value for b in held.training_info[0].update_binding)]
    out = dict(
        zip(names, ReferenceEvaluator(run).run(names, {"x": batch[0], "label": batch[1]}), strict=True)
    )
    made = onnx.ModelProto()
    made.CopyFrom(held)
    there = tensors(made)
    for b in made.training_info[0].update_binding:
        was = numpy_helper.to_array(there[b.key])
        assert np.shape(out[b.value]) == was.shape
        there[b.key].CopyFrom(numpy_helper.from_array(np.asarray(out[b.value], was.dtype), b.key))
    return made, float(out["loss"])


def trained(held: onnx.ModelProto, n: int, first: int = 0) -> tuple[onnx.ModelProto, list[float]]:
    losses = []
    for batch in batches(first + n)[first:]:
        held, loss = stepped(held, batch)
        losses.append(loss)
    return held, losses


def saved(held: onnx.ModelProto, folder: Path) -> str:
    # States are views of their files, so each has its own.
    path = folder / f"training{len(list(folder.iterdir()))}.onnx"
    path.write_bytes(held.SerializeToString())
    return str(path)


def same(a: TrainingState, b: TrainingState) -> None:
    assert dict(a.steps) == dict(b.steps)
    for x, y in ((a.params, b.params), (a.buffers, b.buffers)):
        assert set(x) == set(y) and all(np.array_equal(x[n], y[n]) and x[n].dtype == y[n].dtype for n in x)
    assert {n: set(s) for n, s in a.slots.items()} == {n: set(s) for n, s in b.slots.items()}
    assert all(np.array_equal(x, b.slots[n][s]) for n, held in a.slots.items() for s, x in held.items())


@pytest.mark.parametrize("name", SPECS)
def test_the_checker_takes_it_and_it_is_the_training_graph(name: str) -> None:
    """The joined graph makes what the step graph makes, bit for bit, in ONNX' own evaluator."""
    spec = SPECS[name]()
    held = info(spec)
    onnx.checker.check_model(held, full_check=True)
    onnx.checker.check_model(joined(held), full_check=True)
    step = ox.training_graph(model(), LOSS, spec, **OPTIONS)
    (batch,) = batches(1)
    feeds = {"x": batch[0], "label": batch[1]}
    known = {n: numpy_helper.to_array(t) for n, t in tensors(held).items()}
    feeds |= {i.name: known[i.name] for i in step.graph.input if i.name not in feeds}
    names = [o.name for o in step.graph.output]
    want = dict(zip(names, ReferenceEvaluator(step).run(names, feeds), strict=True))
    after, loss = stepped(held, batch)
    assert loss == float(want["loss"])
    bound = {b.key for b in held.training_info[0].update_binding}
    assert bound == {n.removesuffix(".new") for n in names if n.endswith(".new")}
    for n in bound:
        assert np.array_equal(numpy_helper.to_array(tensors(after)[n]), want[f"{n}.new"]), n


def test_what_both_graphs_have_stands_once() -> None:
    held = info(SPECS["adamw"]())
    algorithm = held.training_info[0].algorithm
    assert [n.op_type for n in held.graph.node] == [
        "Conv", "BatchNormalization", "Relu", "MaxPool", "Flatten", "Gemm",
    ]  # fmt: skip
    # Training normalises by the batch, so only what stands before that is shared.
    assert [n.op_type for n in algorithm.node if n.op_type == "BatchNormalization"] == []
    assert not any(n.op_type == "Conv" and n.input[0] == "x" and "c" in n.output for n in algorithm.node)
    assert sum("conv.weight" in n.input for n in algorithm.node) == 1  # the update; x needs no gradient
    made = [o for n in (*held.graph.node, *algorithm.node) for o in n.output]
    assert len(made) == len(set(made))
    assert [i.name for i in algorithm.input] == ["label", "lr"]


def test_the_model_itself_is_the_forward_model() -> None:
    """With running statistics, and with the run's values."""
    after, _ = trained(info(SPECS["adamw"]()), 2)
    own = model()
    for t in own.graph.initializer:
        t.CopyFrom(tensors(after)[t.name])
    x = batches(1)[0][0]
    plain = onnx.ModelProto()
    plain.CopyFrom(after)
    del plain.training_info[:]
    assert np.array_equal(
        ReferenceEvaluator(plain).run(None, {"x": x})[0], ReferenceEvaluator(own).run(None, {"x": x})[0]
    )


def test_onnxruntime_opens_it_as_the_forward_model(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
    session = ort.InferenceSession(
        saved(info(SPECS["adamw"]()), tmp_path), providers=["CPUExecutionProvider"]
    )
    assert [i.name for i in session.get_inputs()] == ["x"]
    (want,) = ReferenceEvaluator(model()).run(None, {"x": batches(1)[0][0]})
    np.testing.assert_allclose(session.run(None, {"x": batches(1)[0][0]})[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_read_back(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]()
    after, _ = trained(info(spec), 3)
    state = ox.load(saved(after, tmp_path))
    assert state.spec == spec.settle({n: SHAPES[n] for n in PARAMS}) and state.warnings == ()
    assert dict(state.steps) == dict.fromkeys(PARAMS, 3) and list(state.buffers) == BUFFERS
    there = {n: numpy_helper.to_array(t) for n, t in tensors(after).items()}
    for n in PARAMS:
        assert np.array_equal(state.params[n], there[n])
        assert all(np.array_equal(a, there[f"{n}.{s}"]) for s, a in state.slots[n].items())
        assert set(state.slots[n]) == set(state.spec.group(n).rule.slot_names)
    for n in BUFFERS:
        assert np.array_equal(state.buffers[n], there[n]) and not np.array_equal(there[n], values()[n])


@pytest.mark.parametrize("name", SPECS)
def test_steps_continue(name: str, tmp_path: Path) -> None:
    """Three steps, written and read, three more: the uninterrupted run's, bit for bit."""
    start = info(SPECS[name]())
    whole, losses = trained(start, 6)
    state = ox.load(saved(trained(start, 3)[0], tmp_path))
    again, more = trained(info(state=state), 3, first=3)
    assert more == losses[3:]
    same(ox.load(saved(again, tmp_path)), ox.load(saved(whole, tmp_path)))


def test_parameters_that_lag_behind(tmp_path: Path) -> None:
    state = ox.load(saved(trained(info(SPECS["adamw"]()), 3)[0], tmp_path))
    lagging = TrainingState(**{**vars(state), "steps": {**state.steps, "head.bias": 1}})
    path = saved(info(state=lagging), tmp_path)
    assert dict(ox.load(path).steps) == {**dict.fromkeys(PARAMS, 3), "head.bias": 1}
    after = ox.load(saved(stepped(onnx.load(path), batches(1)[0])[0], tmp_path))
    assert dict(after.steps) == {**dict.fromkeys(PARAMS, 4), "head.bias": 2}


def test_the_initialization_is_a_fresh_optimizer() -> None:
    spec = ox.spec("adagrad", lr=1e-2, initial_accumulator_value=0.5)
    held = info(spec)
    entry = held.training_info[0]
    names = {b.key: b.value for b in entry.initialization_binding}
    assert set(names) == {*(f"{p}.sum" for p in PARAMS), "step"} and len(entry.initialization.input) == 0
    graph = helper.make_model(
        entry.initialization, opset_imports=held.opset_import, ir_version=held.ir_version
    )
    onnx.checker.check_model(graph, full_check=True)
    first = dict(zip(names, ReferenceEvaluator(graph).run(list(names.values()), {}), strict=True))
    for n, array in first.items():
        now = numpy_helper.to_array(tensors(held)[n])
        assert np.array_equal(array, now) and array.dtype == now.dtype and array.shape == now.shape
    assert float(first["head.bias.sum"][0]) == 0.5 and first["step"] == 0


def test_a_run_that_goes_on_is_not_initialized_again(tmp_path: Path) -> None:
    state = ox.load(saved(trained(info(SPECS["adamw"]()), 1)[0], tmp_path))
    entry = info(state=state).training_info[0]
    assert len(entry.initialization_binding) == 0 and len(entry.initialization.node) == 0


def test_rates_are_initializers_and_inputs() -> None:
    held = info(SPECS["groups"]())
    algorithm = held.training_info[0].algorithm
    assert [i.name for i in algorithm.input] == ["label", "lr.0", "lr.1"]
    rates = {n: float(numpy_helper.to_array(tensors(held)[n])) for n in ("lr.0", "lr.1")}
    assert rates == {"lr.0": float(np.float32(1e-2)), "lr.1": float(np.float32(3e-2))} or rates == {
        "lr.1": float(np.float32(1e-2)), "lr.0": float(np.float32(3e-2)),
    }  # fmt: skip
    batch = batches(1)[0]
    feeds = {"x": batch[0], "label": batch[1], "lr.0": np.float32(0), "lr.1": np.float32(0)}
    (kept,) = ReferenceEvaluator(joined(held)).run(["head.weight.new"], feeds)
    assert np.array_equal(kept, values()["head.weight"])


def test_it_becomes_another_framework_s(tmp_path: Path) -> None:
    path = saved(trained(info(SPECS["adamw"]()), 2)[0], tmp_path)
    report = convert(path, str(tmp_path / "state.pt"), to_format="torch")
    assert str(report.verdict) == "exact"
    back = ox.load(tmp_path / "state.pt", names=PARAMS)
    state = ox.load(path)
    for n in PARAMS:
        assert all(np.array_equal(back.slots[n][s], a) for s, a in state.slots[n].items())


# -- what is refused ------------------------------------------------------------------------------


def test_spec_and_state() -> None:
    with pytest.raises(ModelError, match="expected a spec or a state, one of the two"):
        info()
    with pytest.raises(UnknownNameError, match="training_info: unknown option 'batchnorm'; expected one of"):
        ox.training_info(model(), LOSS, SPECS["adamw"](), batchnorm="train")


def test_a_state_of_another_model() -> None:
    params = {n: values()[n] for n in PARAMS}
    spec = SPECS["adamw"]()
    with pytest.raises(ModelError, match=r"the model trains 'head.bias', which the state does not have"):
        info(state=ox.init(spec, {n: a for n, a in params.items() if n != "head.bias"}, dtype="float32"))
    with pytest.raises(Exception, match=r"other"):
        info(state=ox.init(spec, {**params, "other": params["head.bias"]}, dtype="float32"))
    with pytest.raises(ModelError, match=r"'head.bias': the model's shape is \[3\], the state's \[4\]"):
        info(state=ox.init(spec, {**params, "head.bias": np.zeros(4, np.float32)}, dtype="float32"))


def test_numbers_that_would_be_rounded() -> None:
    params = {n: values()[n].astype(np.float64) for n in PARAMS}
    state = ox.init(SPECS["adamw"](), params)
    assert info(state=state) is not None  # doubles that float32 holds
    params["head.bias"] = params["head.bias"] + 1e-12
    state = ox.init(SPECS["adamw"](), params)
    with pytest.raises(
        ModelError, match=r"tensor 'head.bias': the graph has float32, the state float64, and its numbers"
    ):
        info(state=state)


def _without(held: onnx.ModelProto, name: str) -> None:
    for part in (held.graph, held.training_info[0].algorithm):
        for t in [t for t in part.initializer if t.name == name]:
            part.initializer.remove(t)


def _unbound(held: onnx.ModelProto, name: str) -> None:
    for b in [b for b in held.training_info[0].update_binding if b.key == name]:
        held.training_info[0].update_binding.remove(b)


def _step(held: onnx.ModelProto, array: np.ndarray) -> None:
    tensors(held)["step"].CopyFrom(numpy_helper.from_array(array, "step"))


def _told(held: onnx.ModelProto, text: str) -> None:
    next(p for p in held.metadata_props if p.key == "optexport.training").value = text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: _without(m, "head.bias.exp_avg"), "parameter 'head.bias', slot exp_avg: expected the initializer"),
        (lambda m: _without(m, "conv.weight"), "parameter 'conv.weight': expected the initializer 'conv.weight', found"),
        (lambda m: _without(m, "norm.running_var"), "running statistic 'norm.running_var': expected the initializer"),
        (lambda m: _unbound(m, "head.bias"), "expected an update_binding of 'head.bias', found none"),
        (lambda m: _step(m, np.asarray(-1)), r"step expected one whole number ≥ 0, found \[-1\]"),
        (lambda m: _step(m, np.asarray([1, 2])), r"step expected one whole number ≥ 0, found \[1, 2\]"),
        (lambda m: _step(m, np.asarray(1.5)), r"step expected one whole number ≥ 0, found \[1.5\]"),
        (lambda m: _told(m, "["), "metadata optexport.training: expected the names of parameters and statistics"),
        (lambda m: _told(m, '{"behind": {"head.bias": -1}}'), "metadata optexport.training: expected the names"),
        (lambda m: _told(m, '{"behind": {"head.bias": 7}}'), "parameter 'head.bias': -7 completed updates; expected ≥ 0"),
        (lambda m: _told(m, '{"params": [1]}'), "metadata optexport.training: expected the names"),
        (lambda m: m.training_info.append(m.training_info[0]), "expected one training_info with one algorithm, found 2"),
        (
            lambda m: m.graph.initializer.append(tensors(m)["step"]),
            "tensor 'step' stands in the model and in its algorithm; expected it once",
        ),
    ],
)  # fmt: skip
def test_damaged_files(change: Any, message: str, tmp_path: Path) -> None:
    held = info(SPECS["adamw"]())
    change(held)
    with pytest.raises(CheckpointError, match=message):
        ox.load(saved(held, tmp_path))


def test_joined_needs_training_information() -> None:
    with pytest.raises(CheckpointError, match="expected a model with one training_info, found 0"):
        joined(model())


# -- the command ----------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model().SerializeToString())
    made = [str(tmp_path / n) for n in ("model.onnx", "first.onnx", "second.onnx")]
    usual = ["training-graph", made[0], "--loss", LOSS, "--batch-norm", "train", "--form", "training-info"]
    result = CliRunner().invoke(
        cli, [*usual, "--rule", "adamw", "--hyper", "lr=0.01", "-o", made[1], "--json"]
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    assert record["params"] == {n: list(SHAPES[n]) for n in PARAMS} and record["inputs"] == [
        "x",
        "label",
        "lr",
    ]
    result = CliRunner().invoke(cli, [*usual, "--state", made[1], "-o", made[2]])
    assert result.exit_code == 0, result.output
    same(ox.load(made[1]), ox.load(made[2]))
    result = CliRunner().invoke(cli, ["inspect", made[2], "--json"])
    assert result.exit_code == 0, result.exception
    told = json.loads(result.output)
    assert told["optimizer"] is None and told["step"] == 0
    assert [(g["rule"], g["params"]) for g in told["groups"]] == [("adamw", PARAMS)]
    assert {t["role"] for t in told["tensors"]} == {"exp_avg", "exp_avg_sq"}
