"""``.keras`` files written for the real Keras, which loads them and goes on with ``fit``, bit for bit."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.keras.checkpoint import read, read_weights
from optexport.errors import CheckpointError
from optexport.parity import problem, referee, relative_error
from tests.parity.backends import require_native

h5py = pytest.importorskip("h5py", reason="needs h5py, which is not in this environment")

DATA = Path(__file__).parents[2] / "data" / "keras"


@pytest.fixture
def keras() -> Any:
    require_native("keras:Adam")
    from optexport.converters.keras import run  # chooses the backend

    run.keras.utils.set_random_seed(0)
    return run.keras


def model(keras: Any, optimizer: Any) -> Any:
    """A nested model, a frozen layer, running statistics, a layer with a seed (Keras saves none)."""
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, name="a"),
            layers.BatchNormalization(name="bn"),
            layers.Dropout(0.0),
        ],
        name="inner",
    )
    frozen = layers.Dense(6, name="frozen")
    frozen.trainable = False
    x = keras.Input((5,), name="x")
    h = layers.Dense(6, name="b")(inner(x))
    made = keras.Model(x, layers.Dense(2, name="head")(frozen(h)), name="whole")
    made.compile(optimizer, "mse", run_eagerly=True)
    return made


def fit(made: Any, epochs: int = 1) -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal((24, 5)), random.standard_normal((24, 2))
    made.fit(x.astype("f"), y.astype("f"), batch_size=8, epochs=epochs, shuffle=False, verbose=0)


def everything(keras: Any, made: Any) -> dict[str, np.ndarray]:
    held = [*made.weights, *made.optimizer.variables]
    return {f"{i} {v.path}": np.array(keras.ops.convert_to_numpy(v.value)) for i, v in enumerate(held)}


OPTIMIZERS = {
    "Adam": lambda o: o.Adam(0.01, amsgrad=True),
    "SGD without state": lambda o: o.SGD(0.1),
    "AdamW, averaged": lambda o: o.AdamW(0.01, use_ema=True, ema_overwrite_frequency=3),
    "Nadam, accumulating": lambda o: o.Nadam(0.01, gradient_accumulation_steps=2, clipnorm=1.0),
    "RMSprop": lambda o: o.RMSprop(0.01, momentum=0.9, centered=True),
    "Adafactor": lambda o: o.Adafactor(0.01),
    "Adam with a schedule": lambda o: o.Adam(
        o.schedules.CosineDecay(0.01, 40, warmup_target=0.02, warmup_steps=9)
    ),
    "scaled Adam": lambda o: o.LossScaleOptimizer(
        o.Adam(0.01), initial_scale=2.0**120, dynamic_growth_steps=4
    ),
    "scaled SGD": lambda o: o.LossScaleOptimizer(o.SGD(0.01, momentum=0.9), dynamic_growth_steps=4),
}


@pytest.mark.parametrize(("name", "way"), [("Adam", "straight"), *((n, "bundle") for n in OPTIMIZERS)])
def test_keras_goes_on_with_what_is_written_as_if_nothing_had_happened(tmp_path, keras, name, way):
    """Keras fits and saves; the file is read, perhaps through a bundle, and written; Keras fits on."""
    made = model(keras, OPTIMIZERS[name](keras.optimizers))
    fit(made)
    made.save(tmp_path / "theirs.keras")
    fit(made)

    state = ox.load(tmp_path / "theirs.keras")
    assert state.names and not any(n.isdigit() for n in state.names)
    if way == "bundle":
        ox.save(state, tmp_path / "x.safetensors", format="bundle")
        state = ox.load(tmp_path / "x.safetensors")
    ox.save(state, tmp_path / "ours.keras", format="keras", model=tmp_path / "theirs.keras")
    assert {p.suffix for p in tmp_path.iterdir()} <= {".keras", ".safetensors"}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = keras.saving.load_model(tmp_path / "ours.keras")
    before = everything(keras, keras.saving.load_model(tmp_path / "theirs.keras"))
    for (_, want), (where, got) in zip(before.items(), everything(keras, again).items(), strict=True):
        assert (got.dtype, got.tobytes()) == (want.dtype, want.tobytes()), where
    fit(again)
    for (_, want), (where, got) in zip(
        everything(keras, made).items(), everything(keras, again).items(), strict=True
    ):
        np.testing.assert_array_equal(got, want, err_msg=where)


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional"])
def test_parameters_are_named_in_the_models_order_or_not_at_all(tmp_path, keras, kind):
    """A layer of one layer is known from its configuration; one of two is not."""
    layers = keras.layers
    middle = layers.LSTM(3) if kind == "LSTM" else layers.Bidirectional(layers.LSTM(3))
    made = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6),
            layers.Reshape((2, 3)),
            middle,
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    made.compile("adam", "mse")
    made.optimizer.build(made.trainable_variables)
    made.save(tmp_path / "x.keras")
    native = read(tmp_path / "x.keras")
    if kind == "Bidirectional":
        assert not native.named
        with pytest.raises(
            CheckpointError, match="the order of the model's trainable weights is not in its conf"
        ):
            names = [f"w{i}" for i in range(len(made.trainable_variables))]
            state = ox.load(tmp_path / "x.keras", names=names)
            ox.save(state, tmp_path / "y.keras", format="keras", model=tmp_path / "x.keras")
        return
    assert native.named
    for n, v in zip(native.slots, made.trainable_variables, strict=True):
        np.testing.assert_array_equal(native.weights[n], np.array(v.value))


def test_a_file_is_made_from_another_optimizers_state(tmp_path, keras):
    """A model trained with SGD goes on with Adam whose state comes from elsewhere; its weights are the model's."""
    made = model(keras, keras.optimizers.SGD(0.1))
    fit(made)
    made.save(tmp_path / "model.keras")
    weights = read_weights(tmp_path / "model.keras")
    names = [n for n in weights.tensors if n not in weights.fixed and weights.tensors[n].dtype.kind == "f"]
    spec = ox.native("keras:Adam", learning_rate=0.02)
    state = ox.init(spec, {n: weights.tensors[n] for n in names}, dtype="float32")
    random = np.random.default_rng(2)
    for _ in range(3):
        state = ox.step(state, {n: random.standard_normal(a.shape) for n, a in state.params.items()})
    ox.save(state, tmp_path / "new.keras", format="keras", model=tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "new.keras")
    assert int(again.optimizer.iterations.value) == 3
    assert again.optimizer.get_config()["learning_rate"] == pytest.approx(0.02)
    for n, v in zip(names, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(np.array(v.value), state.params[n].astype("f"))
    fit(again)


def test_the_command_takes_the_model_from_the_option(tmp_path):
    from optexport.convert import convert

    source = DATA / "adam.keras"
    ox.save(ox.load(source), tmp_path / "x.safetensors", format="bundle")
    done = convert(str(tmp_path / "x.safetensors"), str(tmp_path / "y.keras"), model=str(source))
    assert done.verdict == "exact"
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(tmp_path / "y.keras") as b:
        assert a.namelist() == b.namelist()
        old, new = (json.loads(z.read("config.json")) for z in (a, b))
    ours, theirs = (c["compile_config"].pop("optimizer") for c in (new, old))
    assert new == old
    assert ours["config"] == theirs["config"] and ours["class_name"] == "Adam"
    first = (tmp_path / "y.keras").read_bytes()
    convert(str(tmp_path / "x.safetensors"), str(tmp_path / "y.keras"), model=str(source))
    assert (tmp_path / "y.keras").read_bytes() == first


def test_a_schedule_is_read_and_written(tmp_path):
    state = ox.load(DATA / "adamw_schedule.keras")
    (group,) = state.spec.groups
    assert group.schedules["lr"].native == "keras:CosineDecay"
    assert group.hyperparameters["lr"] == group.schedules["lr"].at(3)
    ox.save(state, tmp_path / "x.weights.h5", format="keras")
    ox.save(state, tmp_path / "y.keras", format="keras", model=DATA / "adamw_schedule.keras")
    theirs = read(DATA / "adamw_schedule.keras")
    for ours in (read(tmp_path / "x.weights.h5"), read(tmp_path / "y.keras")):
        assert ours.extras["schedule"] == theirs.extras["schedule"]
        assert "learning_rate" not in ours.groups[0].arguments
    given = ox.load(DATA / "adamw_schedule.keras", arguments={"learning_rate": 0.5})
    assert not given.spec.groups[0].schedules
    assert given.warnings == ("learning_rate=0.5 stands in for the file's schedule",)


def test_a_schedule_of_the_users_own_is_asked_for(tmp_path):
    with zipfile.ZipFile(DATA / "adamw_schedule.keras") as a, zipfile.ZipFile(tmp_path / "x.keras", "w") as b:
        config = json.loads(a.read("config.json"))
        config["compile_config"]["optimizer"]["config"]["learning_rate"]["class_name"] = "Mine"
        b.writestr("config.json", json.dumps(config))
        b.writestr("model.weights.h5", a.read("model.weights.h5"))
    with pytest.raises(
        CheckpointError, match=r"the learning rate is a schedule \(Mine\); give the next step's"
    ):
        ox.load(tmp_path / "x.keras")


def test_what_is_no_model_of_the_state_is_refused(tmp_path):
    state = ox.load(DATA / "adam.keras")
    path = tmp_path / "x.keras"
    with pytest.raises(CheckpointError, match=r"the model itself is not known; give its file with --model"):
        ox.save(state, path, format="keras")
    with pytest.raises(
        CheckpointError, match=r"expected the model as a \.keras file, found .*adam\.weights\.h5"
    ):
        ox.save(state, path, format="keras", model=DATA / "adam.weights.h5")
    other = state.renamed({"layers/dense/vars/0": "fc1/kernel"})
    with pytest.raises(
        CheckpointError, match=r"missing layers/dense/vars/0, found fc1/kernel in their place"
    ):
        ox.save(other, path, format="keras", model=DATA / "adam.keras")
    assert not list(tmp_path.iterdir())


def test_nan_payloads_and_denormals_keep_their_bits(tmp_path):
    native = read(DATA / "adam.keras")
    strange = np.array([0x7FC12345, 0xFFFFFFFF, 0x7F800001, 1, 0x80000001, 0x7F800000], np.uint32)
    key = next(iter(native.slots))
    for slot, array in native.slots[key].items():
        native.slots[key][slot] = np.resize(strange, array.shape).view(np.float32)
    from optexport.state.lift import lift

    state = lift(native, "x")
    ox.save(state, tmp_path / "x.safetensors", format="bundle")
    ox.save(
        ox.load(tmp_path / "x.safetensors"), tmp_path / "y.keras", format="keras", model=DATA / "adam.keras"
    )
    again = read(tmp_path / "y.keras")
    for slot, array in native.slots[key].items():
        assert again.slots[key][slot].tobytes() == array.tobytes()


# -- shards, and a wrapper without its configuration --------------------------------------------------


def test_shards_are_read_as_one_file(tmp_path, keras):
    made = model(keras, keras.optimizers.Adam(0.01))
    fit(made)
    made.save_weights(tmp_path / "x.weights.json", max_shard_size=3e-7)
    made.save_weights(tmp_path / "x.weights.h5")
    assert len(list(tmp_path.glob("x_*.weights.h5"))) > 2
    shards, whole = (read(tmp_path / f"x.weights.{kind}") for kind in ("json", "h5"))
    assert set(shards.slots) == set(whole.slots) and set(shards.weights) == set(whole.weights)
    for n, held in whole.slots.items():
        assert shards.slots[n]["vars"].tobytes() == held["vars"].tobytes()
    for n, array in whole.weights.items():
        assert shards.weights[n].tobytes() == array.tobytes()
    from optexport.state.store import detect

    assert detect(str(tmp_path / "x.weights.json")) == "keras"


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (
            {"/optimizer/vars": "../y.weights.h5"},
            "expected the name of a file beside it, found '../y.weights.h5'",
        ),
        ({"/optimizer/vars": "/etc/y.weights.h5"}, "expected the name of a file beside it"),
        ({"/optimizer/vars": ["link.weights.h5"]}, "is a link that leads out of its folder"),
        ({"/optimizer/vars": ["a.weights.h5", "a.weights.h5"]}, "expected names of files"),
        ({"/optimizer/vars": ["a.weights.h5", "b.weights.h5"]}, "two files have a variable of one name"),
        ({"/optimizer/vars": "gone.weights.h5"}, "no such file"),
        ({}, "expected a weight_map"),
    ],
)
def test_a_list_of_shards_that_lies_is_refused(tmp_path, listing, message):
    outside, folder = tmp_path / "y.weights.h5", tmp_path / "in"
    folder.mkdir()
    for path in (outside, folder / "a.weights.h5", folder / "b.weights.h5"):
        with h5py.File(path, "w") as f:
            f["optimizer/vars/0"] = np.int64(1)
    (folder / "link.weights.h5").symlink_to(outside)
    path = folder / "x.weights.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": listing}))
    with pytest.raises(CheckpointError, match=message):
        read(path)


def test_a_wrapper_without_its_configuration_is_told_of(tmp_path, keras):
    made = model(keras, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=64.0))
    fit(made)
    made.save_weights(tmp_path / "x.weights.h5")
    names = [f"w{i}" for i in range(len(made.trainable_variables))]
    state = ox.load(tmp_path / "x.weights.h5", optimizer="keras:Adam", names=names)
    assert any("holds a LossScaleOptimizer and not its arguments" in w for w in state.warnings)
    (group,) = state.spec.groups
    assert group.rule.options["overflow"] == "dynamic"
    held = state.slots["w0"]
    assert (float(held["loss_scale"]), int(held["growth_tracker"]), int(held["updates"])) == (64.0, 3, 3)


def test_the_optimizer_in_a_wrapper_is_run_with_it(keras):
    """An overflow at the fifth update is skipped, and the scale halved."""
    from optexport.converters.keras.run import native_snapshots

    p = problem("float64", 12, seed=1, drop=1.0)
    p.grads[4] = {n: np.where(g == g.max(), np.inf, g) for n, g in p.grads[4].items()}
    given = {"learning_rate": 0.01, "initial_scale": 8.0, "dynamic_growth_steps": 3}
    spec = ox.native("keras:Adam", **given)
    runs = native_snapshots("keras:Adam", given, p.params, p.grads, p.lrs(0.01), "float64")
    for (params, _), wanted in zip(runs, referee(spec, p.params, p.grads, p.lrs(0.01)), strict=True):
        for name, value in wanted.params.items():
            assert relative_error(params[name], value) < 1e-15
