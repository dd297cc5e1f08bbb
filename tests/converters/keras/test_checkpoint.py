"""Keras files: every sample is read to the bit, and what is written Keras loads and goes on with."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optexport as ox
from optexport.converters.keras.checkpoint import read, read_weights, sniff, write
from optexport.dialects import find
from optexport.errors import CheckpointError, OptexportError
from optexport.state.native import NativeGroup, NativeState
from tests.parity.backends import require_native

h5py = pytest.importorskip("h5py", reason="needs h5py, which is not in this environment")

DATA = Path(__file__).parents[2] / "data" / "keras"
SAMPLES = [
    pytest.param(DATA / s["files"][0], s, id=s["id"])
    for s in json.loads((DATA / "expected.json").read_text())["samples"]
]


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def load(path: Path, sample: dict[str, Any]) -> ox.TrainingState:
    """The training state, with what the file does not hold."""
    given = {k: v for k, v in sample["hyperparameters"].items() if k not in ("name", "learning_rate")}
    if isinstance(sample["hyperparameters"]["learning_rate"], dict):
        given["learning_rate"] = 0.5
    return ox.load(path, optimizer=f"keras:{sample['optimizer']}", arguments=given)


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_every_tensor_of_every_sample_is_read_to_the_bit(path, sample):
    assert sniff(path)
    state = load(path, sample)

    entry = dict(find(state.dialect).slots)
    places = {"fc1.weight": "layers/dense/vars/0", "fc1.bias": "layers/dense/vars/1"}
    places |= {"fc2.weight": "layers/dense_1/vars/0", "fc2.bias": "layers/dense_1/vars/1"}
    found = {(n, s): a for n, slots in state.slots.items() for s, a in slots.items()}
    for want in sample["state"]:
        array = found.pop((places[want["param"]], entry[want["slot"]]))
        assert (list(array.shape), array.dtype.name) == (want["shape"], want["dtype"])
        assert digest(array) == want["sha256"]
        assert not array.flags.writeable
    assert not found
    assert {n: digest(a) for n, a in state.params.items()} == {
        places[w["param"]]: w["sha256"] for w in sample["weights"]
    }
    assert set(state.steps.values()) == {sample["step"]}


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_a_sample_says_what_it_holds_and_no_more(path, sample):
    state = read(path)
    whole = path.suffix == ".keras"
    assert state.optimizer == (sample["optimizer"] if whole else None)
    arguments, rate = dict(state.groups[0].arguments), sample["hyperparameters"]["learning_rate"]
    if isinstance(rate, dict):
        assert "learning_rate" not in arguments
        assert state.extras["schedule"] == rate
    else:
        assert arguments.pop("learning_rate") == rate
    if whole:
        assert arguments == {k: v for k, v in sample["hyperparameters"].items() if k != "learning_rate"}
    else:
        assert arguments == {}
        assert state.extras["positions"]


def test_what_the_file_does_not_hold_is_asked_for_or_said():
    with pytest.raises(OptexportError, match="does not say which optimizer wrote it"):
        ox.load(DATA / "adam.weights.h5")
    state = ox.load(DATA / "adam.weights.h5", optimizer="keras:AdamW", arguments={"beta_2": 0.99})
    assert state.warnings == (
        "the file holds no hyperparameters but the learning rate; assumed keras:AdamW's defaults "
        "weight_decay=0.004, beta_1=0.9, epsilon=1e-07, amsgrad=False",
    )
    with pytest.raises(
        CheckpointError, match=r"expected variables of keras:RMSprop .* velocity, momentum, average"
    ):
        ox.load(
            DATA / "adam.weights.h5",
            optimizer="keras:RMSprop",
            arguments={"momentum": 0.9, "centered": True},
        )


def test_weights_alone_are_read_in_the_models_order():
    weights = read_weights(DATA / "adam.keras")
    assert weights.ordered
    assert list(weights.tensors) == [f"layers/dense{n}/vars/{i}" for n in ("", "_1") for i in (0, 1)]
    assert not read_weights(DATA / "adam.weights.h5").ordered


def test_layers_are_ordered_as_numbers_where_nothing_tells_their_order(tmp_path):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as f:
        for n in ("dense", "dense_2", "dense_10"):
            f[f"layers/{n}/vars/0"] = np.zeros(2, np.float32)
    assert [n.split("/")[1] for n in read_weights(path).tensors] == ["dense", "dense_2", "dense_10"]


def state(**changes: Any) -> NativeState:
    rng = np.random.default_rng(0)
    slots = {
        n: {s: rng.standard_normal(shape).astype(np.float32) for s in ("momentum", "velocity")}
        for n, shape in {"a": (3, 2), "b": (2,)}.items()
    }
    arguments = {"learning_rate": 0.25, "beta_1": 0.5, "beta_2": 0.75, "epsilon": 1e-3, "amsgrad": False}
    fields: dict[str, Any] = {
        "optimizer": "Adam",
        "groups": [NativeGroup(arguments, ["a", "b"])],
        "slots": slots,
        "steps": {"a": 4, "b": 4},
        **changes,
    }
    return NativeState("keras", "", named=True, **fields)


def test_what_is_written_reads_back_the_same(tmp_path):
    path, wanted = tmp_path / "x.weights.h5", state()
    write(wanted, path)
    first = path.read_bytes()
    got = read(path)
    assert (got.optimizer, got.groups[0].arguments) == ("Adam", wanted.groups[0].arguments)
    assert list(got.steps.values()) == [4, 4]
    for key, name in (("0", "a"), ("1", "b")):
        for slot, array in wanted.slots[name].items():
            np.testing.assert_array_equal(got.slots[key][slot], array)
    write(wanted, path)
    assert path.read_bytes() == first


def test_bfloat16_keeps_its_bits(tmp_path):
    path, wanted = tmp_path / "x.weights.h5", state()
    for slots in wanted.slots.values():
        slots.update({s: a.astype(ml_dtypes.bfloat16) for s, a in slots.items()})
    write(wanted, path)
    got = read(path).slots["0"]["velocity"]
    assert got.dtype.name == "bfloat16"
    assert got.tobytes() == wanted.slots["a"]["velocity"].tobytes()


def test_what_keras_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "x.weights.h5"
    with pytest.raises(
        CheckpointError, match="parameters were updated 3, 4 times; Keras has one count for all"
    ):
        write(state(steps={"a": 3, "b": 4}), path)
    with pytest.raises(CheckpointError, match="expected one group of parameters, found 2"):
        write(state(groups=[NativeGroup({}, ["a"]), NativeGroup({}, ["b"])]), path)
    missing = state()
    del missing.slots["b"]
    with pytest.raises(CheckpointError, match="parameter 'b': expected the slot momentum, found none"):
        write(missing, path)
    with pytest.raises(CheckpointError, match=r"the model itself is not known; give its file with --model"):
        write(state(), tmp_path / "x.keras")
    assert list(tmp_path.iterdir()) == []


def test_groups_that_differ_are_refused():
    spec = ox.native("keras:AdamW", groups=[{"params": ["a"], "weight_decay": 0.0}])
    begun = ox.init(spec, {"a": np.ones(2), "b": np.ones(3)})
    done = ox.step(begun, {"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(CheckpointError, match=r"keras: groups differ in weight_decay: 0.0 and 0.004"):
        ox.save(done, "never.weights.h5", format="keras")


def test_without_h5py_the_message_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        CheckpointError, match=r"need h5py, which is not installed; pip install 'optexport\[keras\]'"
    ):
        read(DATA / "adam.keras")
    with pytest.raises(CheckpointError, match="need h5py"):
        write(state(), tmp_path / "x.weights.h5")
    assert sniff(DATA / "adam.keras")


# -- hostile files ------------------------------------------------------------------------------------


def made(path: Path, put: Any) -> Path:
    """A file with a step count and a learning rate, and what ``put`` adds."""
    with h5py.File(path, "w") as f:
        f["optimizer/vars/0"] = np.int64(1)
        f["optimizer/vars/1"] = np.float32(0.1)
        put(f)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


def external_storage(f: Any) -> None:
    f.create_dataset("optimizer/vars/2", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(f: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    f.create_virtual_dataset("optimizer/vars/2", layout)


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (
            lambda f: f.__setitem__("optimizer/vars/2", h5py.ExternalLink("other.h5", "/x")),
            "found ExternalLink",
        ),
        (lambda f: f.__setitem__("optimizer/vars/2", h5py.SoftLink("/optimizer/vars/1")), "found SoftLink"),
        (lambda f: f.__setitem__("layers", h5py.ExternalLink("other.h5", "/x")), "found ExternalLink"),
        (external_storage, "its bytes are in another file, which is never opened"),
        (virtual, "its bytes are in another file, which is never opened"),
        (
            lambda f: f.create_dataset("optimizer/vars/2", (1 << 40,), "f4"),
            "declares 4398046511104 bytes that the file does not have",
        ),
        (
            lambda f: f.create_dataset("optimizer/vars/2", data=np.zeros(100), compression="lzf"),
            "expected no filter but gzip and shuffle, found number 32000",
        ),
        (lambda f: f.create_dataset("optimizer/vars/2", data=[b"text"]), "expected numbers"),
        (lambda f: f.create_group("optimizer/vars/2"), "expected a dataset, found none"),
        (
            lambda f: f.__setitem__("optimizer/vars/5", 1.0),
            "expected variables numbered from 0 on, found 0, 1, 5",
        ),
        (lambda f: f.__setitem__("layers/a", f["optimizer"]), "a group that occurs twice"),
        (lambda f: f.__setitem__("optimizer/a", f["optimizer"]), "a group that occurs twice"),
        (
            lambda f: f.__setitem__("optimizer/inner_optimizer/vars/0", 1.0),
            "expected the four numbers of a LossScaleOptimizer and its inner optimizer's variables, found 2",
        ),
        (lambda f: f["optimizer/vars"].attrs.__setitem__("optexport", "{"), "expected JSON"),
    ],
)
def test_a_file_that_points_elsewhere_or_lies_is_refused(tmp_path, put, message):
    assert message in refused(made(tmp_path / "x.weights.h5", put))


def test_a_step_count_that_is_none_is_refused(tmp_path):
    def put(f: Any) -> None:
        del f["optimizer/vars/0"]
        f["optimizer/vars/0"] = np.float32(2.5)

    assert "expected the step count, a whole number ≥ 0" in refused(made(tmp_path / "x.weights.h5", put))


@pytest.mark.parametrize("name", ["adam.keras", "adam.weights.h5"])
def test_a_file_cut_anywhere_or_changed_anywhere_is_read_or_refused(tmp_path, name):
    whole = (DATA / name).read_bytes()
    path = tmp_path / name
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            read(path)
    for _ in range(200):
        bad = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            bad[place] = rng.integers(0, 256)
        path.write_bytes(bad)
        try:
            read(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def archive(path: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        z.writestr("config.json", members.get("config", b"{}"))
        z.writestr(members.get("name", b"model.weights.h5").decode(), members.get("weights", b""))
    return path


def test_archives_that_lie_are_refused(tmp_path):
    path = tmp_path / "x.keras"
    weights = (DATA / "adam.weights.h5").read_bytes()
    assert "compressed or encrypted" in refused(archive(path, zipfile.ZIP_DEFLATED, weights=weights))
    assert "sharded weights are not read" in refused(archive(path, name=b"model.weights.json"))
    assert "config.json: expected JSON" in refused(archive(path, weights=weights, config=b"[" * 100_000))
    assert "expected a JSON object, found list" in refused(archive(path, weights=weights, config=b"[]"))
    bad = b'{"compile_config": {"optimizer": {"class_name": 3}}}'
    assert "expected the optimizer's class_name and config" in refused(
        archive(path, weights=weights, config=bad)
    )
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as z:
        z.writestr("config.json", b"{}")
    assert "two members of one name" in refused(path)


def test_other_files_are_not_taken_for_keras_files(tmp_path):
    other = tmp_path / "x.zip"
    with zipfile.ZipFile(other, "w") as z:
        z.writestr("x/data.pkl", b"")
    assert not sniff(other)
    assert not sniff(tmp_path)
    assert not sniff(tmp_path / "missing")
    assert "expected a .keras or .weights.h5 file" in refused(other)


# -- with Keras ---------------------------------------------------------------------------------------


def keras_model(optimizer: Any) -> Any:
    import keras

    made = keras.Sequential(
        [keras.Input((8,), name="x"), keras.layers.Dense(16, name="fc1"), keras.layers.Dense(4, name="fc2")]
    )
    made.compile(optimizer, "mse")
    return made


@pytest.mark.parametrize(
    ("name", "optimizer", "arguments"),
    [
        ("adam.keras", "Adam", {"beta_2": 0.99}),
        ("rmsprop_centered.keras", "RMSprop", {"rho": 0.95, "momentum": 0.8, "centered": True}),
    ],
)
def test_keras_loads_what_is_written_with_the_model_and_goes_on(tmp_path, name, optimizer, arguments):
    require_native("keras:Adam")
    from optexport.converters.keras import run  # chooses the backend

    keras = run.keras
    path = tmp_path / "x.weights.h5"
    state = ox.load(DATA / name)
    ox.save(state, path, format="keras")
    model = keras_model(getattr(keras.optimizers, optimizer)(**arguments))
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    rng = np.random.default_rng(0)
    grads = [
        {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in state.params.items()}
        for _ in range(5)
    ]
    for g in grads:
        state = ox.step(state, g)
        model.optimizer.apply([keras.ops.convert_to_tensor(g[n]) for n in g], model.trainable_variables)
        for want, got in zip(state.params.values(), model.trainable_variables, strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(got.value), want, rtol=0, atol=2e-6)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations.value)) == 8


def test_a_real_run_goes_on_in_the_same_file_format(tmp_path):
    """Keras trains and saves; optexport reads, writes; Keras goes on as if nothing had happened."""
    require_native("keras:Adam")
    from optexport.converters.keras import run
    from optexport.parity import problem, relative_error

    p = problem("float32", 20)
    arguments = {"learning_rate": 0.01, "amsgrad": True, "weight_decay": 0.1}
    whole = list(run.native_snapshots("keras:Adam", arguments, p.params, p.grads))
    params, slots = whole[9]
    native = NativeState(
        "keras",
        "",
        "Adam",
        groups=[NativeGroup(arguments, list(params))],
        slots={n: dict(s) for n, s in slots.items()},
        steps=dict.fromkeys(params, 10),
        named=True,
    )
    write(native, tmp_path / "x.weights.h5")
    rest = run.native_resume(tmp_path / "x.weights.h5", "keras:Adam", arguments, params, p.grads[10:])
    for (got, got_slots), (want, want_slots) in zip(rest, whole[10:], strict=True):
        for n in want:
            assert relative_error(got[n], want[n]) == 0
            for s in want_slots[n]:
                assert relative_error(got_slots[n][s], want_slots[n][s]) == 0


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("Adafactor", {"learning_rate": 0.05, "weight_decay": 0.1, "epsilon_2": 0.01}),
        ("Muon", {"learning_rate": 0.02, "momentum": 0.8, "adam_beta_1": 0.7, "ns_steps": 3}),
    ],
)
def test_slots_that_follow_from_shapes_are_read_written_and_gone_on_with(tmp_path, optimizer, arguments):
    """Keras trains and saves; the file is read and written; Keras holds the same bits and goes on the same."""
    require_native(f"keras:{optimizer}")
    from optexport.converters.keras import run  # chooses the backend
    from optexport.parity import problem

    keras, name = run.keras, f"keras:{optimizer}"
    p = problem("float32", 20, shapes={"w": (7, 5), "b": (5,), "v": (4, 6), "k": (2, 3, 4), "s": (3, 3)})
    whole = list(run.native_snapshots(name, arguments, p.params, p.grads))
    params, slots = whole[9]
    made = getattr(keras.optimizers, optimizer)(**arguments)
    variables = [keras.Variable(v) for v in p.params.values()]
    for g in p.grads[:10]:
        made.apply([keras.ops.convert_to_tensor(g[n]) for n in p.params], variables)
    theirs, ours = tmp_path / "theirs.weights.h5", tmp_path / "ours.weights.h5"
    store = keras.src.saving.saving_lib.H5IOStore(str(theirs), mode="w")
    made.save_own_variables(store.make("optimizer"))
    store.close()

    state = ox.load(theirs, optimizer=name, arguments=arguments, names=list(p.params))
    ox.save(state, ours, format="keras")

    entry = find(name)
    assert set(state.steps.values()) == {10}
    for n, held in state.slots.items():
        rule = state.spec.settle(p.params).group(n).rule
        assert set(held) == set(rule.slot_names)
        for role, array in held.items():
            native = next(s for s, r in entry.slots if r == role)
            np.testing.assert_array_equal(entry.to_native(native, array, rule), slots[n][native])
    with h5py.File(theirs) as f, h5py.File(ours) as g:
        wanted, got = f["optimizer/vars"], g["optimizer/vars"]
        assert set(got) == set(wanted)
        for key in wanted:
            # The step and the learning rate are written in 64 bits; Keras casts them to its own when it loads.
            assert got[key].dtype == {"0": np.int64, "1": np.float64}.get(key, wanted[key].dtype)
            np.testing.assert_array_equal(np.asarray(got[key], wanted[key].dtype), np.asarray(wanted[key]))
    rest = run.native_resume(ours, name, arguments, params, p.grads[10:])
    for (weights, _), (want, _) in zip(rest, whole[10:], strict=True):
        for n in want:
            np.testing.assert_array_equal(weights[n], want[n])
