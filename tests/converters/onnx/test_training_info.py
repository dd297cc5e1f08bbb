"""Models with training information: read, written, checked by onnx and run by its reference evaluator."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import external_data_helper, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import optexport as ox
from optexport.convert import convert
from optexport.converters.onnx import _training_info, checkpoint
from optexport.converters.onnx.run import native_snapshots
from optexport.dialects import find
from optexport.errors import CheckpointError, NamingError
from optexport.specs import Spec
from optexport.state import TrainingState
from optexport.state.formats import find_format, formats
from optexport.state.inspect import inspect
from optexport.state.lift import native_state
from optexport.state.native import NativeState
from optexport.state.store import read_model, read_native

from .making import DATA, SHAPES, gradients, samples, sha256, special, weights

HERE = DATA / "onnx"
DOMAIN = "ai.onnx.preview.training"
OPTIMIZERS = [
    ("Adam", {"lr": 0.02, "alpha": 0.8, "beta": 0.97, "epsilon": 1e-7, "norm_coefficient": 0.01, "t0": 0}),
    ("Adam", {"lr": 0.02, "alpha": 0.8, "beta": 0.97, "norm_coefficient_post": 0.03, "t0": 1}),
    ("Adagrad", {"lr": 0.02, "decay_factor": 0.1, "epsilon": 1e-7, "t0": 1}),
    ("Adagrad", {"lr": 0.02, "decay_factor": 0.1, "norm_coefficient": 0.01, "t0": 0}),
    (
        "Momentum",
        {"lr": 0.02, "alpha": 0.8, "beta": 0.5, "mode": "nesterov", "norm_coefficient": 0.01, "t0": 0},
    ),
    (
        "Momentum",
        {"lr": 0.02, "alpha": 0.8, "beta": 1.0, "mode": "standard", "norm_coefficient": 0.0, "t0": 1},
    ),
]


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def after(name: str, arguments: dict[str, Any], steps: int) -> TrainingState:
    """The state after some updates of the operator itself."""
    grads = [gradients(i) for i in range(steps)]
    *_, (params, slots) = native_snapshots(f"onnx:{name}", arguments, weights(), grads)
    state = ox.init(ox.native(f"onnx:{name}", **arguments), weights(), dtype="float32")
    group = state.spec.groups[0]
    roles = dict(find(f"onnx:{name}").slots)
    return replace(
        state,
        spec=Spec((replace(group, params=tuple(SHAPES)),)),
        params=params,
        slots={n: {roles[s]: a for s, a in held.items()} for n, held in slots.items()},
        steps=dict.fromkeys(SHAPES, steps),
        dialect=f"onnx:{name}",
    )


def runnable(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The algorithm joined with the model's own initializers, as the specification combines them."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.training_info[0].algorithm)
    graph.initializer.extend(model.graph.initializer)
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    del joined.training_info[:]
    joined.graph.CopyFrom(graph)
    made = ReferenceEvaluator(joined)
    for node in made.rt_nodes_:
        for name in ("alpha", "beta", "epsilon", "norm_coefficient", "norm_coefficient_post", "decay_factor"):
            if hasattr(node, name):
                # An attribute is a float32 number; as a NumPy scalar it would round 1 − β, too.
                setattr(node, name, np.float32(getattr(node, name)).item())
    return made


def loaded(path: Path) -> onnx.ModelProto:
    """The model with all of its data; onnx leaves out what the algorithm has outside of the file."""
    model = onnx.load(path)
    for tensor in model.training_info[0].algorithm.initializer:
        if external_data_helper.uses_external_data(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = T.DEFAULT
            del tensor.external_data[:]
    return model


def stepped(model: onnx.ModelProto, step: int) -> onnx.ModelProto:
    """The model after one update: what ``update_binding`` names replaces the initializers."""
    run, info = runnable(model), model.training_info[0]
    outputs = [b.value for b in info.update_binding]
    made = dict(
        zip(outputs, run.run(outputs, {f"{n}.grad": g for n, g in gradients(step).items()}), strict=True)
    )
    new = onnx.ModelProto()
    new.CopyFrom(model)
    held = {t.name: t for t in (*new.graph.initializer, *new.training_info[0].algorithm.initializer)}
    for b in info.update_binding:
        was = numpy_helper.to_array(held[b.key])
        held[b.key].CopyFrom(numpy_helper.from_array(np.asarray(made[b.value], was.dtype), b.key))
    return new


def hashes(native: NativeState) -> dict[str, str]:
    found = {f"{p}::{s}": sha256(a) for p, held in native.slots.items() for s, a in held.items()}
    return found | {p: sha256(a) for p, a in native.weights.items()}


# -- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", samples("onnx"), ids=lambda s: s["id"])
def test_every_tensor_of_every_sample(sample: dict[str, Any]) -> None:
    path = str(HERE / sample["files"][0])
    assert [f for f in formats() if f != "bundle" and find_format(f).sniff(path)] == ["onnx"]
    model = read_model(path)
    assert {w["param"]: (w["sha256"], w["dtype"], w["shape"]) for w in sample["weights"]} == {
        n: (sha256(a), a.dtype.name, list(a.shape)) for n, a in model.tensors.items()
    }
    if not sample["state"]:
        assert "holds no optimizer state (training_info); pass it as weights" in refused(read_native, path)
        return
    native = read_native(path)
    assert f"{DOMAIN}.{native.optimizer}" == sample["optimizer"] and native.named
    found = {
        f"{p}::{s}": (sha256(a), a.flags.writeable)
        for p, held in native.slots.items()
        for s, a in held.items()
    }
    assert found == {e["name"]: (e["sha256"], False) for e in sample["state"]}
    expected = {("lr" if k == "R" else k): v for k, v in sample["hyperparameters"].items()}
    assert native.groups[0].arguments == {**expected, "norm_coefficient_post": 0.0}
    assert native.groups[0].params == [p["name"] for p in sample["parameters"]]
    assert set(native.steps.values()) == {sample["step"]} == {inspect(path).step}
    assert "--hyper t0=1" in native.warnings[0]
    state = ox.load(path)
    assert (state.dialect, set(state.steps.values())) == ("onnx:Adam", {sample["step"]})
    assert set(ox.load(path, arguments={"t0": 1}).steps.values()) == {sample["step"] - 1}


# -- written models -------------------------------------------------------------------------------


@pytest.mark.parametrize("above", [0, 1 << 30], ids=["external", "inside"])
@pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS, ids=lambda v: v if isinstance(v, str) else "")
def test_the_operator_goes_on_bit_for_bit(
    tmp_path: Path, name: str, arguments: dict[str, Any], above: int
) -> None:
    path = tmp_path / "m.onnx"
    _training_info.write_state(native_state(after(name, arguments, 3), "x"), str(path), external_above=above)
    assert sorted(os.listdir(tmp_path)) == (["m.onnx"] if above else ["m.onnx", "m.onnx.data"])
    onnx.checker.check_model(str(path))
    state = ox.load(path)
    assert set(state.steps.values()) == {3} and not state.warnings
    model = loaded(path)
    for step in range(3, 6):
        model = stepped(model, step)
    (tmp_path / "on").mkdir()
    onnx.save(model, tmp_path / "on" / "m.onnx")
    ported = read_native(str(tmp_path / "on" / "m.onnx"))
    # One node of all parameters against one node each: the same operations on each element.
    assert hashes(ported) == hashes(native_state(after(name, arguments, 6), "x"))
    assert set(ox.load(tmp_path / "on" / "m.onnx").steps.values()) == {6}
    assert ported.groups[0].arguments == ox.native(f"onnx:{name}", **arguments).groups[0].arguments


def test_the_rule_takes_the_steps_that_the_operator_takes(tmp_path: Path) -> None:
    """The dialect's word for the state that was read, against the reference evaluator's next step."""
    name, arguments = OPTIMIZERS[1]
    path = tmp_path / "m.onnx"
    ox.save(after(name, arguments, 3), path, format="onnx")
    state = ox.step(ox.load(path), gradients(3))
    onnx.save(stepped(onnx.load(path), 3), tmp_path / "next.onnx")
    found = read_native(str(tmp_path / "next.onnx"))
    for n in SHAPES:
        np.testing.assert_allclose(found.weights[n], state.params[n], rtol=2e-6, atol=2e-8)
        np.testing.assert_allclose(found.slots[n]["V"], state.slots[n]["exp_avg"], rtol=2e-6, atol=1e-8)
        np.testing.assert_allclose(found.slots[n]["H"], state.slots[n]["exp_avg_sq"], rtol=2e-6, atol=1e-9)


def test_every_bit_survives_native_bundle_native(tmp_path: Path) -> None:
    native = native_state(after(*OPTIMIZERS[0], 3), "x")
    for i, n in enumerate(SHAPES):
        native.slots[n] = {s: np.roll(special(SHAPES[n]), i + k) for k, s in enumerate(native.slots[n])}
        native.weights[n] = special(SHAPES[n])
    checkpoint.write_model_state(native, tmp_path / "a.onnx")
    ox.save(ox.load(tmp_path / "a.onnx"), tmp_path / "b.safetensors", format="bundle")
    ox.save(ox.load(tmp_path / "b.safetensors"), tmp_path / "c.onnx", format="onnx")
    assert hashes(read_native(str(tmp_path / "c.onnx"))) == hashes(native)
    assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()


def test_groups_and_steps_become_nodes_of_their_own(tmp_path: Path) -> None:
    native = native_state(after(*OPTIMIZERS[0], 3), "x")
    (group,) = native.groups
    first, second = SHAPES
    native.groups = [
        replace(group, params=[first]),
        replace(group, params=[second], arguments={**group.arguments, "lr": 0.5}),
    ]
    native.steps = {first: 3, second: 0}
    del native.slots[second]
    path = tmp_path / "m.onnx"
    checkpoint.write_model_state(native, path)
    onnx.checker.check_model(str(path))
    again = read_native(str(path))
    assert [(g.params, g.arguments["lr"]) for g in again.groups] == [([first], 0.02), ([second], 0.5)]
    assert again.steps == {first: 3, second: 0} and not again.slots[second]["V"].any()
    model = stepped(onnx.load(path), 3)
    onnx.save(model, path)
    assert read_native(str(path)).steps == {first: 4, second: 1}


def test_a_data_file_that_stands_there_is_not_replaced(tmp_path: Path) -> None:
    native = native_state(after(*OPTIMIZERS[0], 1), "x")
    path = str(tmp_path / "m.onnx")
    for names in (["m.onnx", "m.onnx.data"], ["m.onnx", "m.onnx.1.data", "m.onnx.data"]):
        _training_info.write_state(native, path, external_above=0)
        assert sorted(os.listdir(tmp_path)) == names
        assert hashes(read_native(path)) == hashes(native)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"weights": {}}, CheckpointError, "parameter 'layers.10': expected its values.*--model"),
        ({"slots": {"layers.2": {"V": np.zeros((5, 7)), "H": np.zeros((5, 7))}}}, CheckpointError,
         "the same for parameter and slots; found values float32, V float64, H float64; cast them first"),
        ({"slots": {"layers.2": {"V": np.zeros(35, "f4")}}}, CheckpointError, r"its shape \[5, 7\], found V \[35\]"),
        ({"slots": {"layers.2": {"master": np.zeros((5, 7), "f4")}}}, CheckpointError, "expected slots V, H"),
    ],
)  # fmt: skip
def test_what_the_operators_do_not_take_is_refused(
    tmp_path: Path, change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    native = replace(native_state(after(*OPTIMIZERS[0], 1), "x"), **change)
    with pytest.raises(kind) as caught:
        checkpoint.write_model_state(native, tmp_path / "m.onnx")
    assert re.search(message, str(caught.value)) and not os.listdir(tmp_path)


def test_a_parameter_that_is_called_like_another_s_slot(tmp_path: Path) -> None:
    native = native_state(after(*OPTIMIZERS[0], 1), "x")
    called = {"layers.2": "w", "layers.10": "w.V"}
    native.groups = [replace(g, params=[called[p] for p in g.params]) for g in native.groups]
    native.weights, native.slots, native.steps = (
        {called[k]: v for k, v in d.items()} for d in (native.weights, native.slots, native.steps)
    )
    with pytest.raises(NamingError, match=re.escape("two tensors would be called 'w.V'")):
        checkpoint.write_model_state(native, tmp_path / "m.onnx")


# -- other people's models ------------------------------------------------------------------------


def info_model(**change: Any) -> onnx.ModelProto:
    """Adagrad over one parameter, with constants where others have initializers."""
    x = numpy_helper.from_array(np.ones(2, np.float32), "x")
    h = numpy_helper.from_array(np.full(2, 0.25, np.float32), "h")
    rate = helper.make_node("Constant", [], ["r"], value_float=0.5)
    count = helper.make_node("Identity", ["t"], ["now"])
    node = helper.make_node(
        change.get("op", "Adagrad"),
        change.get("inputs", ["r", "now", "x", "g", "h"]),
        change.get("outputs", ["x2", "h2"]),
        domain=DOMAIN,
        **change.get("attributes", {"epsilon": 1e-5}),
    )
    t = numpy_helper.from_array(np.array(change.get("t", [7]), np.int64), "t")
    algorithm = helper.make_graph([rate, count, node], "a", [], [], change.get("tensors", [h, t]))
    info = onnx.TrainingInfoProto()
    info.algorithm.CopyFrom(algorithm)
    for key, value in change.get("bindings", [("x", "x2"), ("h", "h2")]):
        b = info.update_binding.add()
        b.key, b.value = key, value
    graph = helper.make_graph([], "m", [], [], [x])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    )
    model.training_info.append(info)
    return model


def test_constants_and_identities_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(info_model(), path)
    native = read_native(str(path))
    assert (native.optimizer, native.steps) == ("Adagrad", {"x": 7})
    assert native.groups[0].arguments == {
        "lr": 0.5,
        "epsilon": 1e-5,
        "decay_factor": 0.0,
        "norm_coefficient": 0.0,
    }
    assert native.slots["x"]["H"].tolist() == [0.25, 0.25]


def test_a_learning_rate_that_is_an_input_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(info_model(inputs=["rate", "now", "x", "g", "h"]), path)
    assert "does not hold lr" in refused(ox.load, path)
    assert ox.load(path, arguments={"lr": 0.25}).spec.groups[0].hyperparameters["lr"] == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["r", "now", "x", "g"]}, "Adagrad has 4 inputs and 2 outputs; expected R, T, then"),
        ({"inputs": ["r", "now", "x", "g", "absent"]}, "parameter 'x', slot H: expected the initializer 'absent'"),
        ({"bindings": [("x", "h2")]}, "update_binding replaces 'x' by 'h2'; expected the update's 'x2'"),
        ({"bindings": [("x", "x2"), ("x", "h2")]}, "update_binding has 'x' twice"),
        ({"t": [1, 2]}, "'t' has the shape [2]; expected one number"),
        ({"t": [-1]}, "T is -1; expected a whole number ≥ 0"),
        ({"attributes": {"gamma": 1.0}}, "Adagrad has the attribute 'gamma'; expected lr, decay_factor"),
        ({"op": "Gradient"}, "expected a node Momentum, Adam, Adagrad of ai.onnx.preview.training"),
    ],
)  # fmt: skip
def test_an_algorithm_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(info_model(**change), path)
    assert message in refused(read_native, str(path))


def test_an_update_graph_holds_no_state(tmp_path: Path) -> None:
    model = ox.emit(ox.spec("adamw", lr=1e-3), "onnx", {"w": (2,)})
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert "is an update graph, which holds no state; open the bundle" in refused(read_native, str(path))


def test_an_emitted_graph_has_its_state_in_a_bundle(tmp_path: Path) -> None:
    ox.save(after(*OPTIMIZERS[0], 2), tmp_path / "m.onnx", format="onnx")
    source, target = str(tmp_path / "m.onnx"), str(tmp_path / "n.onnx")
    message = refused(convert, source, target, emit_optimizer=str(tmp_path / "graph.onnx"))
    assert "write the state as a bundle (--to bundle) beside it" in message
    assert os.listdir(tmp_path) == ["m.onnx"]


# -- weights, and files that lie ------------------------------------------------------------------


def weights_model(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([], "w", [], [], tensors))


def test_typed_fields_of_every_kind(tmp_path: Path) -> None:
    """As onnx reads them itself, negative and packed numbers included."""
    rng = np.random.default_rng(3)
    made = [
        helper.make_tensor("f", T.FLOAT, [300], rng.standard_normal(300)),
        helper.make_tensor("d", T.DOUBLE, [2], [1.5, -2.5]),
        helper.make_tensor("i", T.INT32, [200], rng.integers(-(2**31), 2**31, 200)),
        helper.make_tensor("l", T.INT64, [200], rng.integers(-(2**63), 2**63, 200, np.int64)),
        helper.make_tensor("u", T.UINT64, [3], [0, 1, 2**64 - 1]),
        helper.make_tensor("s", T.INT8, [3], [-128, 0, 127]),
        helper.make_tensor("b", T.BOOL, [2], [True, False]),
        helper.make_tensor("h", T.FLOAT16, [2], [1.5, -0.0]),
        helper.make_tensor("c", T.COMPLEX64, [2], [1 + 2j, -3j]),
        helper.make_tensor("empty", T.FLOAT, [0, 3], []),
        helper.make_tensor("text", T.STRING, [1], [b"not a parameter"]),
    ]
    path = tmp_path / "m.onnx"
    onnx.save(weights_model(*made), path)
    found = read_model(str(path)).tensors
    assert set(found) == {t.name for t in made} - {"text"}
    for t in made[:-1]:
        np.testing.assert_array_equal(found[t.name], numpy_helper.to_array(t))
        assert found[t.name].tobytes() == numpy_helper.to_array(t).tobytes()


def changed(**fields: Any) -> onnx.TensorProto:
    t = numpy_helper.from_array(np.ones(4, np.float32), "w")
    for name, value in fields.items():
        if name == "dims":
            del t.dims[:]
            t.dims.extend(value)
        elif name == "external":
            t.ClearField("raw_data")
            t.data_location = T.EXTERNAL
            for key, text in value.items():
                e = t.external_data.add()
                e.key, e.value = key, text
        else:
            setattr(t, name, value)
    return t


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dims": [1 << 40]}, "tensor 'w': raw_data has 16 bytes; its shape needs 4398046511104"),
        ({"dims": [-4]}, "tensor 'w' has the shape [-4]"),
        ({"dims": [1] * 33}, "expected at most 32 sizes"),
        ({"dims": [2]}, "raw_data has 16 bytes; its shape needs 8"),
        ({"external": {"location": "../secret"}}, "found '../secret', which leads out of it"),
        ({"external": {"location": "/etc/passwd"}}, "which leads out of it"),
        ({"external": {"location": "C:\\x"}}, "which leads out of it"),
        ({"external": {"location": ""}}, "which leads out of it"),
        ({"external": {"location": "absent"}}, "absent: no such file; keep the files of one model together"),
        ({"external": {"location": "link"}}, "'link' is a link that leads out of the folder"),
        ({"external": {"location": "data", "offset": "-1"}}, "external_data's offset is '-1'; expected a number"),
        ({"external": {"location": "data", "offset": "32"}}, "expected 16 bytes at 32 of 'data', which has 40"),
        ({"external": {"location": "data", "length": "4"}}, "length has 4 bytes; its shape needs 16"),
        ({"external": {"location": "data", "length": "9" * 40}}, "expected a number ≥ 0"),
    ],
)  # fmt: skip
def test_a_tensor_that_lies_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "data").write_bytes(bytes(40))
    (folder / "link").symlink_to(tmp_path / "secret")
    path = folder / "m.onnx"
    path.write_bytes(weights_model(changed(**fields)).SerializeToString())
    assert message in refused(read_model, str(path))


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(40))
    tensors = [changed(external={"location": "data"}) for _ in range(3)]
    for i, t in enumerate(tensors):
        t.name = f"w{i}"
    path = tmp_path / "m.onnx"
    path.write_bytes(weights_model(*tensors).SerializeToString())
    assert "tensors have more bytes together than are there; they overlap" in refused(read_model, str(path))


def test_every_truncation_and_every_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    whole = (HERE / "adam_training_info.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    rng = np.random.default_rng(2)
    cases = [whole[:n] for n in range(0, len(whole), 61)]
    cases += [
        whole[:at] + bytes([v]) + whole[at + 1 :]
        for at in rng.integers(0, len(whole), 400)
        for v in (0, 1, 0x7F, 0xFF)
    ]
    refusals = 0
    for data in cases:
        path.write_bytes(data)
        find_format("onnx").sniff(str(path))
        try:
            read_native(str(path), "onnx")
        except CheckpointError as error:
            refusals += 1
            assert str(path) in str(error)
    assert refusals > len(range(0, len(whole), 61))


def test_no_other_bytes_are_taken_for_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for data in (
        b"",
        b"\x08",
        b"PK\x03\x04" + bytes(99),
        b"\x89HDF\r\n\x1a\n",
        b"{}",
        b"\x80\x02}.",
        bytes(100),
        b"\x08\x08",
    ):
        path.write_bytes(data)
        assert not checkpoint.sniff_model(path)
    assert not checkpoint.sniff_model(tmp_path)
