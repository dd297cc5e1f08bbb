"""Paddle's .pdopt and .pdparams: read to the byte, the step out of powers, written for the real Paddle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optexport as ox
from optexport.converters.paddle import checkpoint
from optexport.converters.paddle._keys import Key, split
from optexport.converters.paddle._steps import power
from optexport.dialects import converter, find
from optexport.errors import CheckpointError
from optexport.parity import problem
from optexport.state.formats import find_format, formats
from optexport.state.pickles import Global, Reduce, dumps
from optexport.state.store import detect, read_model, save
from tests.parity.backends import require_native

DATA = Path(__file__).parents[2] / "data" / "paddle"
SAMPLES = {s["id"]: s for s in json.loads((DATA / "expected.json").read_text())["samples"]}
FILES = sorted(p.name for p in DATA.glob("*.pd*"))


def sha(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize("name", SAMPLES)
def test_every_array_is_read_to_the_byte(name: str) -> None:
    sample = SAMPLES[name]
    file, weights_file = (DATA / f for f in sample["files"])
    weights = checkpoint.read_weights(weights_file)
    found = checkpoint.read(file)
    seen = 0
    for record in sample["state"]:
        key = split(record["where"])
        assert key is not None and weights.called[key.param] == record["param"]
        array = found.slots[key.param][key.slot]
        assert (list(array.shape), array.dtype.name, sha(array)) == (
            record["shape"],
            record["dtype"],
            record["sha256"],
        )
        seen += 1
    assert seen == sum(len(own) for own in found.slots.values())
    assert {n: sha(a) for n, a in weights.tensors.items()} == {
        w["param"]: w["sha256"] for w in sample["weights"]
    }


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_paddles_and_no_others(name: str) -> None:
    path = str(DATA / name)
    assert detect(path) == "paddle"
    assert [n for n in formats() if n != "bundle" and find_format(n).sniff(path)] == ["paddle"]


@pytest.mark.parametrize(
    ("name", "optimizer", "arguments"),
    [
        ("momentum", "Momentum", {"learning_rate": 0.1}),
        ("adam", "Adam", {"learning_rate": 1e-3, "beta2": 0.99}),
        ("adamw", "AdamW", {"learning_rate": 1e-3}),
        ("layer_adamw", "AdamW", {}),
        ("rmsprop", "RMSProp", {"learning_rate": 1e-3, "momentum": 0.9, "centered": True}),
    ],
)
def test_a_file_is_a_training_state(name: str, optimizer: str, arguments: dict[str, Any]) -> None:
    sample = SAMPLES[name]
    file, weights = (str(DATA / f) for f in sample["files"])
    step = None if "adam" in name else 3
    state = ox.load(file, model=weights, optimizer=f"paddle:{optimizer}", arguments=arguments, step=step)
    assert set(state.steps.values()) == {3}
    assert list(state.params) == [p["name"] for p in sample["parameters"]]
    assert {n: list(a.shape) for n, a in state.params.items()} == {
        p["name"]: p["shape"] for p in sample["parameters"]
    }


def test_the_schedulers_rate_is_in_the_file() -> None:
    state = ox.load(DATA / "layer_adamw.pdopt", optimizer="paddle:AdamW")
    last = SAMPLES["layer_adamw"]["hyperparameters"]["LR_Scheduler"]["last_lr"]
    assert state.spec.groups[0].hyperparameters["lr"] == last
    assert any("assumed paddle:AdamW's defaults" in w for w in state.warnings)


# The step.


def test_powers_of_other_betas_say_so() -> None:
    with pytest.raises(CheckpointError) as caught:
        ox.load(DATA / "adam.pdopt", optimizer="paddle:Adam", arguments={"learning_rate": 1e-3})
    assert "holds no step count, which paddle:Adam needs; give it with --step N" in str(caught.value)
    assert "after the 3 updates that beta1_pow_acc says, it is that of beta2=0.99;" in str(caught.value)


def test_a_step_that_is_given_comes_first() -> None:
    given = {"learning_rate": 1e-3, "beta2": 0.99}
    state = ox.load(DATA / "adam.pdopt", optimizer="paddle:Adam", arguments=given, step=7)
    assert set(state.steps.values()) == {7}
    assert "the file's own numbers say 3 updates; --step says 7, which is taken" in state.warnings
    state = ox.load(DATA / "adam.pdopt", optimizer="paddle:Adam", arguments={"learning_rate": 1e-3}, step=3)
    assert set(state.steps.values()) == {3}


@pytest.mark.parametrize("steps", [0, 1, 2, 100, 800, 20000])
def test_a_power_says_every_step_that_it_can(steps: int, tmp_path: Path) -> None:
    powers = {
        "w_beta1_pow_acc_0": power("float32", 0.9, 1, steps)[-1:],
        "w_beta2_pow_acc_0": power("float32", 0.999, 1, steps)[-1:],
        "w_moment1_0": np.ones(3, np.float32),
        "w_moment2_0": np.ones(3, np.float32),
    }
    path = made(tmp_path / "x.pdopt", powers)
    state = ox.load(path, optimizer="paddle:Adam", arguments={"learning_rate": 0.1})
    assert state.steps == {"w": steps}


def made(path: Path, root: dict[str, Any]) -> Path:
    """A file like `paddle.save`'s."""
    from optexport.converters.paddle._write import _array

    names = {k: k for k, v in root.items() if isinstance(v, np.ndarray)}
    spelt = {k: _array(v) if isinstance(v, np.ndarray) else v for k, v in root.items()}
    path.write_bytes(dumps({**spelt, "StructuredToParameterName@@": names}, 4))
    return path


# Masters, bfloat16, slices.


def test_masters_and_bfloat16() -> None:
    found = checkpoint.read(DATA / "adamw_masters.pdopt")
    own = found.slots["linear_0.w_0"]
    assert own["master"].dtype == np.float32 and own["moment1"].dtype == np.float32
    np.testing.assert_array_equal(own["moment2"], np.full((3, 2), 0.5, np.float32))
    weights = checkpoint.read_weights(DATA / "masters_bf16.pdparams").tensors["w"]
    assert weights.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(own["master"], weights.astype(np.float32))
    momentum = checkpoint.read(DATA / "momentum_bf16.pdopt").slots["w_b"]["velocity"]
    assert momentum.dtype == ml_dtypes.bfloat16 and momentum.tolist() == [[1.5, -2.0]]


def test_masters_are_written_as_paddle_does(tmp_path: Path) -> None:
    given = {"optimizer": "paddle:AdamW", "arguments": {"learning_rate": 0.01}}
    state = ox.load(DATA / "adamw_masters.pdopt", step=0, **given)
    save(state, tmp_path / "new.pdopt", format="paddle")
    own, new = (checkpoint.read(p).slots for p in (DATA / "adamw_masters.pdopt", tmp_path / "new.pdopt"))
    assert {n: {s: sha(a) for s, a in held.items()} for n, held in own.items()} == {
        n: {s: sha(a) for s, a in held.items()} for n, held in new.items()
    }
    assert detect(str(tmp_path / "new.pdopt")) == "paddle"


def test_the_real_paddle_loads_masters(tmp_path: Path) -> None:
    require_native("paddle:AdamW")
    import paddle

    given = {"optimizer": "paddle:AdamW", "arguments": {"learning_rate": 0.01}}
    save(ox.load(DATA / "adamw_masters.pdopt", step=0, **given), tmp_path / "new.pdopt", format="paddle")
    own, new = (paddle.load(str(p)) for p in (DATA / "adamw_masters.pdopt", tmp_path / "new.pdopt"))
    assert sorted(own) == sorted(new)
    for key in own.keys() - {"master_weights"}:
        assert new[key].numpy().tobytes() == own[key].numpy().tobytes()
    (name,) = own["master_weights"]
    assert (new["master_weights"][name].numpy() == own["master_weights"][name].numpy()).all()


def test_slices_are_joined(tmp_path: Path) -> None:
    cut = {"w_velocity_0": {"OriginShape": (2, 3), "slices": ["w_velocity_0@@.0", "w_velocity_0@@.1"]}}
    parts = {"w_velocity_0@@.0": np.arange(4.0), "w_velocity_0@@.1": np.arange(4.0, 6.0)}
    found = checkpoint.read(made(tmp_path / "x.pdopt", {**parts, "UnpackBigParamInfor@@": cut}))
    np.testing.assert_array_equal(found.slots["w"]["velocity"], np.arange(6.0).reshape(2, 3))
    cut["w_velocity_0"]["OriginShape"] = (2, 4)
    with pytest.raises(CheckpointError, match=r"expected slices of \[2, 4\], found 6 elements"):
        checkpoint.read(made(tmp_path / "y.pdopt", {**parts, "UnpackBigParamInfor@@": cut}))


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("linear_0.w_0_moment1_0", Key("linear_0.w_0", "moment1", False)),
        ("w_fp32_master_0_beta1_pow_acc_3", Key("w", "beta1_pow_acc", True)),
        ("w__avg_squared_grad_0", Key("w", "_avg_squared_grad", False)),
        ("w_momentum_decay_pow_0", Key("w", "momentum_decay_pow", False)),
        ("w_momentum_0", Key("w", "momentum", False)),
        ("moment1_0", None),
        ("linear_0.w_0", None),
        ("LR_Scheduler", None),
    ],
)
def test_keys(key: str, parts: Key | None) -> None:
    assert split(key) == parts


# What is refused.


def test_nothing_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "x.pdopt"
    told = {"w_velocity_0": Reduce(Global("builtins", "eval"), ("1",)), "StructuredToParameterName@@": {}}
    path.write_bytes(dumps(told, 4))
    with pytest.raises(CheckpointError, match=r"x\.pdopt: .*builtins\.eval"):
        checkpoint.read(path)


def test_weights_are_no_state_and_state_no_weights() -> None:
    with pytest.raises(
        CheckpointError, match=r"expected keys PARAMETER_SLOT_N of an optimizer's state, found 'fc1\.weight'"
    ):
        checkpoint.read(DATA / "adam.pdparams")
    with pytest.raises(CheckpointError, match=r"found an optimizer's state; give the \.pdparams file"):
        read_model(str(DATA / "adam.pdopt"))


# The real Paddle.

RUNS = [
    ("Momentum", {"learning_rate": 0.1, "use_nesterov": True}),
    ("Adagrad", {"learning_rate": 0.1}),
    ("Adadelta", {"learning_rate": 0.1}),
    ("RMSProp", {"learning_rate": 0.01}),
    ("RMSProp", {"learning_rate": 0.01, "centered": True, "momentum": 0.9}),
    ("Adam", {"learning_rate": 0.01, "amsgrad": True}),
    ("AdamW", {"learning_rate": 0.01, "beta2": 0.95}),
    ("Adamax", {"learning_rate": 0.01}),
    ("NAdam", {"learning_rate": 0.01}),
    ("RAdam", {"learning_rate": 0.01, "beta2": 0.9}),
    ("Lamb", {"learning_rate": 0.01}),
    ("Rprop", {"learning_rate": 0.01}),
]


@pytest.mark.parametrize(("name", "arguments"), RUNS, ids=[f"{n}{i}" for i, (n, _) in enumerate(RUNS)])
def test_the_real_paddle_goes_on(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """Its own file, read and written again, is byte for byte the same state, and the run goes on as if nothing had been."""
    require_native(f"paddle:{name}")
    import paddle

    p, run = problem("float32", steps=8), converter("paddle", "run")
    tag = f"{name}{len(arguments)}"
    cut, rest = p.grads[:5], p.grads[5:]
    whole = list(run.native_snapshots(f"paddle:{name}", arguments, p.params, p.grads))
    with paddle.utils.unique_name.guard():
        tensors = run._parameters({n: (f"{tag}_{n}", v) for n, v in p.params.items()}, "float32")
        made_by = run._class(name)(parameters=list(tensors.values()), **arguments)
        list(run._steps(made_by, tensors, cut, None, "float32"))
        paddle.save(made_by.state_dict(), str(tmp_path / "own.pdopt"))
    state = ox.load(tmp_path / "own.pdopt", optimizer=f"paddle:{name}", arguments=arguments, step=5)
    assert all(w.startswith("the file holds no hyperparameters; assumed") for w in state.warnings)
    save(state, tmp_path / "new.pdopt", format="paddle")
    own, new = paddle.load(str(tmp_path / "own.pdopt")), paddle.load(str(tmp_path / "new.pdopt"))
    own = {k: v for k, v in own.items() if k != "StructuredToParameterName@@"}
    assert sorted(own) == sorted(k for k in new if k != "StructuredToParameterName@@")
    for key, value in own.items():
        assert value.numpy().tobytes() == new[key].numpy().tobytes(), key
    start = {f"{tag}_{n}": v for n, v in whole[4][0].items()}
    given = [{f"{tag}_{n}": g for n, g in step.items()} for step in rest]
    for (params, _), (want, _) in zip(
        run.native_resume(tmp_path / "new.pdopt", f"paddle:{name}", arguments, start, given),
        whole[5:],
        strict=True,
    ):
        assert {n: a.tobytes() for n, a in params.items()} == {
            f"{tag}_{n}": a.tobytes() for n, a in want.items()
        }


def test_every_optimizer_goes_on() -> None:
    assert {n for n, _ in RUNS} | {"SGD"} == {e.name for e in converter("paddle", "dialect").OPTIMIZERS}
    assert find("paddle:adamw").name == "AdamW"


def test_a_bundle_keeps_every_bit(tmp_path: Path) -> None:
    """NaN payloads and denormals included."""
    odd = np.array([0x7FC12345, 0xFFA00001, 1, 0x80000001], np.uint32).view(np.float32)
    path = made(tmp_path / "x.pdopt", {"w_velocity_0": odd})
    given = {"optimizer": "paddle:Momentum", "arguments": {"learning_rate": 0.1}}
    save(ox.load(path, step=1, **given), tmp_path / "x.safetensors", format="bundle")
    save(ox.load(tmp_path / "x.safetensors"), tmp_path / "y.pdopt", format="paddle")
    assert checkpoint.read(tmp_path / "y.pdopt").slots["w"]["velocity"].tobytes() == odd.tobytes()
