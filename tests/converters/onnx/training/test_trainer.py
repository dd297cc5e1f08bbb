"""The trainer: in place is bit for bit the copying run, a resumed run is the uninterrupted one, errors leave no half."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import optexport as ox
from optexport.errors import (
    CheckpointError,
    HyperparameterError,
    ModelError,
    OptexportError,
    UnknownNameError,
)

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
torch = pytest.importorskip("torch", reason="needs torch, which is not in this environment")
pytest.importorskip(
    "onnxscript", reason="torch's exporter needs onnxscript, which is not in this environment"
)

from optexport.converters.onnx._aliases import safe_aliases  # noqa: E402
from optexport.converters.onnx.runtime import Trainer  # noqa: E402
from optexport.converters.onnx.training.barrier import BARRIER, with_barrier  # noqa: E402
from optexport.converters.onnx.training_graph import Meant, build  # noqa: E402

from .torch_models import CASES, exported  # noqa: E402

LOSS = "softmax_cross_entropy"
SPECS = {
    "adamw": ox.spec("adamw", lr=1e-2, weight_decay=0.1),
    "momentum": ox.spec("momentum", lr=1e-2, momentum=0.9),
    "sgd": ox.spec("sgd", lr=1e-2),
}


def wide() -> onnx.ModelProto:
    """Weights that are each updated alone: no bucket happens to wait for the gradients of others."""
    rng = np.random.default_rng(1)
    held = {f"w{i}": (0.06 * rng.standard_normal((260, 260))).astype(np.float32) for i in range(4)}
    nodes, at = [], "x"
    for i in range(4):
        nodes.append(helper.make_node("MatMul", [at, f"w{i}"], [f"h{i}" if i < 3 else "y"]))
        if i < 3:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
            at = f"r{i}"
    tensors = [helper.make_tensor_value_info(n, T.FLOAT, ["N", 260]) for n in ("x", "y")]
    initial = [numpy_helper.from_array(a, n) for n, a in held.items()]
    graph = helper.make_graph(nodes, "wide", tensors[:1], tensors[1:], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def trainer(name: str, rule: str = "adamw", **options) -> Trainer:
    return Trainer(exported(name, False), LOSS, SPECS[rule], threads=2, **{**CASES[name].meant, **options})


def same(a: ox.TrainingState, b: ox.TrainingState) -> None:
    assert a.steps == b.steps
    assert a.buffers.keys() == b.buffers.keys() and a.params.keys() == b.params.keys()
    for name, x in a.params.items():
        assert x.tobytes() == b.params[name].tobytes(), name
        assert a.slots[name].keys() == b.slots[name].keys()
        assert all(s.tobytes() == b.slots[name][k].tobytes() for k, s in a.slots[name].items()), name
    assert all(x.tobytes() == b.buffers[n].tobytes() for n, x in a.buffers.items())


# In place.


def optimized(model: onnx.ModelProto, path) -> onnx.ModelProto:
    """The graph that the runtime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


@pytest.mark.parametrize("rule", SPECS)
@pytest.mark.parametrize("name", ["mlp", "cnn", "encoder", "gpt", "vit"])
def test_in_place_is_bit_for_bit_the_copying_run(name, rule):
    runs = []
    for in_place in (False, True):
        t = trainer(name, rule, in_place=in_place)
        assert set(t.in_place.values()) == {in_place}
        runs.append(([t.step(*CASES[name].batch(i)) for i in range(25)], t.state()))
    (losses, state), (others, other) = runs
    assert losses == others
    assert len(set(losses)) == 25  # it did train
    same(state, other)


def test_in_place_where_no_rate_is_an_input():
    """The gradients themselves are behind the barrier then."""
    runs = []
    for in_place in (False, True):
        t = trainer("mlp", "sgd", in_place=in_place, runtime=())
        assert set(t.in_place.values()) == {in_place}
        runs.append(([t.step(*CASES["mlp"].batch(i)) for i in range(25)], t.state()))
    assert runs[0][0] == runs[1][0]
    same(runs[0][1], runs[1][1])


def test_bytes_of_state():
    """Adam: a parameter and its two moments, once each in place, twice when copied."""
    for in_place, times in ((True, 3), (False, 6)):
        t = trainer("mlp", in_place=in_place)
        assert t.state_bytes == times * sum(a.nbytes for a in t.state().params.values())


WIDE = {f"w{i}{s}": f"w{i}{s}.new" for i in range(4) for s in ("", ".exp_avg", ".exp_avg_sq")}


WRAPPED = {
    "adamw": ({}, {}),
    "global norm": ({"clip_norm": "global", "max_norm": 0.05}, {}),
    "accumulated": ({"accumulate": "mean", "accumulation_steps": 3}, {}),
    "scaled": ({"overflow": "dynamic", "loss_scale": 256.0}, {}),
    "half": ({"overflow": "dynamic", "loss_scale": 256.0}, {"compute": "float16"}),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_that_are_updated_alone(kind):
    """A skipped or accumulating step writes the old numbers over the old ones."""
    rng = np.random.default_rng(2)
    data = [(rng.standard_normal((4, 260)).astype(np.float32), rng.integers(0, 260, 4)) for _ in range(25)]
    given, options = WRAPPED[kind]
    spec = ox.spec("adamw", lr=1e-2, **given)
    runs = []
    for in_place in (False, True):
        t = Trainer(wide(), LOSS, spec, threads=2, in_place=in_place, **options)
        runs.append((t.fit(data, quiet=True), t.state()))
        assert set(t.in_place.values()) == {in_place}
    assert runs[0][0] == runs[1][0]
    same(runs[0][1], runs[1][1])


def test_without_the_barrier_the_proof_refuses_what_the_backward_pass_reads(tmp_path):
    model = build(wide(), LOSS, SPECS["adamw"]).model
    # Nothing reads the first weight but the first product, which its own gradient needs.
    assert set(WIDE) - safe_aliases(optimized(model, tmp_path / "a.onnx"), WIDE) == {"w1", "w2", "w3"}
    behind = optimized(with_barrier(model), tmp_path / "b.onnx")
    assert safe_aliases(behind, WIDE, BARRIER) == set(WIDE)
    assert safe_aliases(behind, WIDE) == set(WIDE)  # naming the barrier makes the proof short, not true


def test_a_barrier_that_forgets_a_gradient_is_noticed(tmp_path):
    model = with_barrier(build(wide(), LOSS, SPECS["adamw"]).model)
    parts = next(n for n in model.graph.node if n.output[0] == f"{BARRIER}/parts")
    kept = [i for i in parts.input if "w0" not in i]
    assert len(kept) == len(parts.input) - 1
    del parts.input[:]
    parts.input.extend(kept)
    # What reads the second weight on the way to the first one's gradient is ordered by nothing else.
    assert set(WIDE) - safe_aliases(optimized(model, tmp_path / "a.onnx"), WIDE, BARRIER) == {"w1"}


def tiny(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, T.FLOAT, [2, 2]) for n in ("w", "x", "new", "y")]
    return helper.make_model(helper.make_graph(list(nodes), "tiny", values[:2], values[2:]))


def test_the_proof_on_small_graphs():
    node = helper.make_node
    write = node("Sub", ["w", "x"], ["new"])

    def proven(*nodes: onnx.NodeProto) -> bool:
        return safe_aliases(tiny(*nodes), {"w": "new"}) == {"w"}

    assert proven(write)
    # A reader that nothing orders before the writer.
    assert not proven(node("Mul", ["w", "x"], ["y"]), write)
    # One that the writer needs.
    assert proven(node("Mul", ["w", "x"], ["y"]), node("Sub", ["w", "y"], ["new"]))
    # The writer itself, not element by element.
    assert not proven(node("MatMul", ["w", "x"], ["new"]))
    # A view of the input, read by another.
    view = node("Reshape", ["w", "s"], ["v"])
    assert not proven(view, node("MatMul", ["v", "x"], ["y"]), write)
    assert proven(view, node("MatMul", ["v", "x"], ["y"]), node("Sub", ["w", "y"], ["new"]))
    # An inner graph that takes it from outside.
    inner = helper.make_graph(
        [node("Neg", ["w"], ["n"])], "inner", [], [helper.make_tensor_value_info("n", T.FLOAT, None)]
    )
    assert not proven(node("If", ["c"], ["y"], then_branch=inner, else_branch=inner), write)
    # No node writes it.
    assert not proven(node("Neg", ["w"], ["y"]))


# Going on.


def dropping() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    held = {
        "a": rng.standard_normal((4, 16)).astype(np.float32), "b": rng.standard_normal((16, 3)).astype(np.float32),
        "scale": np.ones(16, np.float32), "shift": np.zeros(16, np.float32),
        "mean": np.zeros(16, np.float32), "var": np.ones(16, np.float32), "ratio": np.float32(0.4).reshape(()),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Dropout", ["n", "ratio"], ["d"]),
        helper.make_node("MatMul", ["d", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "dropping", [helper.make_tensor_value_info("x", T.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["N", 3])],
        [numpy_helper.from_array(a, n) for n, a in held.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def batches(n: int):
    rng = np.random.default_rng(5)
    return [(rng.standard_normal((6, 4)).astype(np.float32), rng.integers(0, 3, 6)) for _ in range(n)]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """Dropout, running statistics, moments and a schedule: all of it goes on."""
    spec = replace_lr(SPECS["adamw"])
    made = {"batch_norm": "train", "threads": 1, "freeze": ["ratio"]}
    data = batches(20)
    whole = Trainer(dropping(), LOSS, spec, seed=11, **made)
    expected = whole.fit(data, quiet=True)
    first = Trainer(dropping(), LOSS, spec, seed=11, **made)
    losses = first.fit(data[:8], quiet=True)
    first.save(tmp_path / "run.safetensors")
    again = Trainer.resume(tmp_path / "run.safetensors", dropping(), LOSS, **made)
    assert (again.step_count, again.seed) == (8, 11)
    losses += again.fit(data[8:], quiet=True)
    assert losses == expected
    same(whole.state(), again.state())
    other = Trainer(dropping(), LOSS, spec, seed=12, **made)
    assert other.fit(data, quiet=True) != expected
    found = ox.load(tmp_path / "run.safetensors")
    assert set(found.buffers) == {"mean", "var", "seed"} and found.buffers["seed"] == 11


def replace_lr(spec: ox.Spec) -> ox.Spec:
    from optexport.specs import Spec

    schedule = ox.schedule("cosine", base=1e-2, total=40)
    return Spec(tuple(replace(g, schedules={"lr": schedule}) for g in spec.groups))


def test_a_failed_step_is_not_gone_on_from():
    t = trainer("mlp")
    x, label = CASES["mlp"].batch(0)
    t.step(x, label)
    before = t.state()
    with pytest.raises(ModelError, match=r"step 2: .*"):
        t.step(x, label + 100)
    with pytest.raises(ModelError, match="an earlier step failed after it had begun to write over the state"):
        t.step(x, label)
    t.load_state(before)
    assert t.step_count == 1
    assert np.isfinite(t.step(x, label))


def test_a_failed_step_of_a_copying_run_changes_nothing():
    t, other = (trainer("mlp", in_place=False) for _ in range(2))
    x, label = CASES["mlp"].batch(0)
    with pytest.raises(ModelError, match="step 1: "):
        t.step(x, label + 100)
    assert t.step(x, label) == other.step(x, label)
    same(t.state(), other.state())


def test_the_learning_rate_of_a_step():
    a, b = trainer("mlp", "sgd"), trainer("mlp", "sgd")
    x, label = CASES["mlp"].batch(0)
    a.step(x, label, lr=0.0)
    same(replace(a.state(), steps={}), replace(b.state(), steps={}))
    assert a.step(x, label) == b.step(x, label)  # the spec's own again
    same(replace(a.state(), steps={}), replace(b.state(), steps={}))


# Measuring, and handing on.


def test_outputs_that_are_kept():
    """Those of the step, before its update."""
    t = trainer("mlp", keep=["y"])
    for i in range(3):
        x, label = CASES["mlp"].batch(i)
        before = t.evaluate(x).outputs["y"]
        t.step(x, label)
        assert set(t.kept) == {"y"}
        assert np.abs(t.kept["y"] - before).max() <= 64 * 2.0**-24 * np.abs(before).max()
    assert trainer("mlp").kept == {}


def test_evaluation_is_the_exported_model_and_torchs(tmp_path):
    t = trainer("cnn")
    for i in range(5):
        t.step(*CASES["cnn"].batch(i))
    x, label = CASES["cnn"].batch(9)
    found = t.evaluate(x, label)
    t.export_inference(tmp_path / "out.onnx")
    session = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": x})[0]
    module = CASES["cnn"].module().eval()
    state = t.state()
    with torch.no_grad():
        for name, value in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
            if name in state.params or name in state.buffers:
                value.copy_(torch.from_numpy({**state.params, **state.buffers}[name]))
        expected = module(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(expected, torch.from_numpy(label)).item()
    # Two roundings of a sum of a few dozen terms.
    bound = 64 * 2.0**-24 * float(expected.abs().max())
    assert np.abs(y - expected.numpy()).max() <= bound
    assert np.abs(found.outputs["y"] - expected.numpy()).max() <= bound
    assert found.loss is not None and abs(found.loss - loss) <= 2 * bound
    alone = t.evaluate(x)
    assert alone.loss is None and np.array_equal(alone.outputs["y"], found.outputs["y"])
    same(state, t.state())


def test_a_plot_of_the_losses(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib, which is not in this environment")
    t = trainer("mlp")
    data = [CASES["mlp"].batch(i) for i in range(4)]
    losses = t.fit(data, plot=tmp_path / "loss.png", quiet=True)
    assert len(losses) == 4
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n")
    with pytest.raises(ModelError):  # what there was is plotted
        t.fit([data[0], (data[0][0],)], plot=tmp_path / "part.svg", quiet=True)
    assert b"<svg" in (tmp_path / "part.svg").read_bytes()


def test_a_plot_that_cannot_be_is_said_before_the_first_step(tmp_path, monkeypatch):
    t = trainer("mlp")
    data = [CASES["mlp"].batch(0)]
    with pytest.raises(
        OptexportError, match=r"loss\.txt: expected a picture's name, \.png, \.svg, \.pdf, found \.txt"
    ):
        t.fit(data, plot=tmp_path / "loss.txt")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        OptexportError, match=r"a plot needs matplotlib, which is not installed; run pip install"
    ):
        t.fit(data, plot=tmp_path / "loss.png")
    assert t.step_count == 0


# Errors.


def test_a_provider_that_is_not_installed():
    with pytest.raises(UnknownNameError) as caught:
        trainer("mlp", providers=("NoSuchProvider",))
    assert str(caught.value) == (
        f"provider 'NoSuchProvider': expected one of {', '.join(ort.get_available_providers())}"
    )


def test_no_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        OptexportError, match=r"Trainer: expected onnxruntime, found none installed; run pip install"
    ):
        trainer("mlp")


def test_batches_that_do_not_fit():
    t = trainer("mlp")
    x, label = CASES["mlp"].batch(0)
    for batch, said in (
        ((x,), "input 'label': expected an array, found none"),
        ((x, label, x), r"expected 2 arrays \(x, label\), found 3"),
        (
            (x.astype(np.float64), label),
            r"input 'x': expected float32, found float64; convert it \(\.astype\('float32'\)\)",
        ),
        ((x, label.astype(np.float32)), "input 'label': expected int64, found float32"),
        ((x[:, :3], label), r"input 'x': expected shape \[6, 12\], found \[6, 3\]"),
        ((x, label[:, None]), r"input 'label': expected shape \[6\], found \[6, 1\]"),
    ):
        with pytest.raises(ModelError, match=said):
            t.step(*batch)
    with pytest.raises(UnknownNameError, match="input 'y': expected one of x, label"):
        t.step(x, y=label)
    with pytest.raises(HyperparameterError, match=r"lr: expected one value or 1 \(lr\), found 2"):
        t.step(x, label, lr=[1.0, 2.0])
    with pytest.raises(UnknownNameError, match="'beta1': expected a runtime input among lr"):
        t.step(x, label, hyper={"beta1": 0.5})
    assert t.step_count == 0
    assert t.step(x, label.astype(np.int32)) == trainer("mlp").step(x, label)  # widened without loss


def test_a_batch_whose_parts_have_different_sizes():
    t = Trainer(dropping(), LOSS, SPECS["sgd"], batch_norm="train", freeze=["ratio"])
    x, label = batches(1)[0]
    with pytest.raises(ModelError, match=r"input 'label': expected shape \['N'\], found \[5\]"):
        t.step(x, label[:5])


def test_a_state_of_another_model():
    state = trainer("encoder").state()
    with pytest.raises(
        CheckpointError,
        match=r"parameter 'embed\.weight': no parameter of the model that trains; the state is of",
    ):
        trainer("mlp").load_state(state)
    t = trainer("mlp")
    with pytest.raises(
        CheckpointError,
        match=r"'layers\.0\.weight': expected the slots of adam.* translate the state first",
    ):
        t.load_state(trainer("mlp", "momentum").state())
    short = t.state()
    wrong = {**short.params, "layers.0.bias": np.zeros(3, np.float32)}
    with pytest.raises(
        CheckpointError, match=r"tensor 'layers\.0\.bias': expected shape \[24\], found \[3\]"
    ):
        t.load_state(replace(short, params=wrong))
    steps = {**short.steps, "layers.0.bias": 4}
    with pytest.raises(
        CheckpointError, match="step counts that differ in another way than when the graph was made"
    ):
        t.load_state(replace(short, steps=steps))


def test_what_a_trainer_needs():
    with pytest.raises(HyperparameterError, match="Trainer: expected a spec, or a state that has one"):
        Trainer(exported("mlp", False), LOSS)
    with pytest.raises(UnknownNameError, match="Trainer: unknown option 'los'; expected one of loss_options"):
        Trainer(exported("mlp", False), LOSS, SPECS["sgd"], los=1)
    assert ox.Trainer is Trainer
    assert Meant().batch_norm is None
