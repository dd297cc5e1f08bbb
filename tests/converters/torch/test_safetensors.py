"""safetensors files with a PyTorch optimizer's state: the usual keys, and files that PyTorch goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optexport as ox
from optexport.converters.torch import checkpoint
from optexport.converters.torch.checkpoint import FORMATS
from optexport.errors import CheckpointError
from optexport.state.native import NativeGroup, NativeState, Weights
from optexport.state.safetensors import write_tensors

from .making import DATA, digest
from .test_with_torch import MAKERS, parameters, train

FORMAT = next(f for f in FORMATS if f.name == "safetensors")
FOLDER = DATA / "safetensors"
DOCUMENT = json.loads((FOLDER / "expected.json").read_text())["samples"]
SAMPLES = [pytest.param(FOLDER / s["files"][0], s, id=s["id"]) for s in DOCUMENT if s["state"]]
ONE = np.arange(6, dtype=np.float32).reshape(2, 3)
STEP = np.asarray(3, np.float32)


def read(path: Path) -> NativeState:
    assert FORMAT.read is not None
    return FORMAT.read(str(path))


def weights(path: Path) -> Weights:
    assert FORMAT.read_weights is not None
    return FORMAT.read_weights(str(path))


def write(state: NativeState, path: Path) -> None:
    assert FORMAT.write is not None
    FORMAT.write(state, str(path))


def saved(path: Path, tensors: dict[str, np.ndarray], **meta: Any) -> Path:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}
    with open(path, "wb") as file:
        write_tensors(file, str(path), tensors, texts)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_every_sample_is_read_to_the_bit(path, sample):
    assert FORMAT.sniff(str(path))
    state = read(path)
    assert state.named and state.optimizer == "AdamW" and state.warnings == []
    found = {(key, slot): array for key, slots in state.slots.items() for slot, array in slots.items()}
    for want in sample["state"]:
        array = found.pop((want["param"], want["slot"]))
        assert (list(array.shape), array.dtype.name) == (want["shape"], want["dtype"])
        assert digest(array) == want["sha256"]
    assert not found
    expected = {w["param"]: w["sha256"] for w in sample["weights"]}
    assert {n: digest(a) for n, a in state.weights.items()} == expected
    assert {n: digest(a) for n, a in weights(path).tensors.items()} == expected
    assert state.groups[0].arguments == {
        **sample["hyperparameters"],
        "betas": tuple(sample["hyperparameters"]["betas"]),
    }
    assert set(state.steps.values()) == {3}


# Every way to spell the key of one slot, and the weights' beside it.
KEYS = {
    "optimizer.{param}.{slot}": "model.{param}",
    "optimizer.state.{param}.{slot}": "model.{param}",
    "optim.{param}.{slot}": "module.{param}",
    "optim.state.{param}.{slot}": "{param}",
    "state.{param}.{slot}": "{param}",
    "{param}.{slot}": "{param}",
    "{slot}.{param}": "{param}",
    "optimizer.{slot}.{param}": "{param}",
    "optimizer_state.{slot}.{param}": "state_dict.{param}",
    "{param}/{slot}": "{param}",
    "optimizer/{param}/{slot}": "model/{param}",
    "opt/{slot}/{param}": "{param}",
}
CASES = {
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "SGD": ("momentum_buffer",),
    "RMSprop": ("step", "square_avg", "momentum_buffer", "grad_avg"),
    "Adagrad": ("step", "sum"),
    "Rprop": ("step", "prev", "step_size"),
    "ASGD": ("step", "eta", "mu", "ax"),
}
# A network whose own names are those of slots.
NAMES = ("encoder.mu.weight", "sum.bias", "layers.0.step")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.replace("/", "|"))
def test_the_usual_keys(tmp_path, key, name):
    slots: dict[str, dict[str, np.ndarray]] = {
        param: {slot: STEP if slot == "step" else ONE + 10 * i + j for j, slot in enumerate(CASES[name], 1)}
        for i, param in enumerate(NAMES)
    }
    tensors = {key.format(param=p, slot=s): a for p, held in slots.items() for s, a in held.items()}
    values = {KEYS[key].format(param=p): ONE for p in NAMES}
    groups = [{"lr": 0.1, "params": list(NAMES)}]
    path = saved(tmp_path / "a.safetensors", {**tensors, **values}, optimizer=name, param_groups=groups)
    state = read(path)
    assert state.optimizer == name and state.named and state.warnings == []
    assert {p: set(held) for p, held in state.slots.items()} == {p: set(CASES[name]) for p in NAMES}
    for param, held in slots.items():
        assert all(np.array_equal(state.slots[param][slot], array) for slot, array in held.items())
    assert set(state.weights) == set(NAMES) == set(weights(path).tensors)
    assert state.groups == [NativeGroup({"lr": 0.1}, list(NAMES))]


def test_numbers_instead_of_names(tmp_path):
    tensors = {f"state.{i}.exp_avg": ONE + i for i in range(12)}
    path = saved(tmp_path / "a.safetensors", tensors, param_groups=[{"lr": 0.1, "params": list(range(12))}])
    state = read(path)
    assert not state.named and state.groups[0].params == [str(i) for i in range(12)] == list(state.slots)
    names = [f"p{i}" for i in range(12)]
    saved(path, tensors, param_groups=[{"lr": 0.1, "params": list(range(12)), "param_names": names}])
    state = read(path)
    assert state.named and state.groups[0].params == names
    assert np.array_equal(state.slots["p11"]["exp_avg"], ONE + 11)


def test_groups_and_the_class(tmp_path):
    tensors = {f"optimizer.{p}.exp_avg": ONE for p in "ab"}
    groups = [{"lr": 0.1, "params": ["a"]}, {"lr": 0.2, "params": ["b"]}]
    state = read(saved(tmp_path / "a.safetensors", tensors, param_groups=groups, optimizer="AdamW"))
    assert state.groups == [NativeGroup({"lr": 0.1}, ["a"]), NativeGroup({"lr": 0.2}, ["b"])]
    state = read(saved(tmp_path / "a.safetensors", tensors))
    assert state.optimizer is None and state.groups == [NativeGroup({}, ["a", "b"])]
    assert "has no param_groups in its metadata" in state.warnings[0]
    loaded = ox.load(tmp_path / "a.safetensors", optimizer="torch:Adam", arguments={"lr": 0.5}, step=4)
    assert loaded.spec.groups[0].hyperparameters["lr"] == 0.5 and loaded.steps == {"a": 4, "b": 4}


def test_one_count_for_all_and_what_is_no_slot(tmp_path):
    tensors = {"optimizer.a.exp_avg": ONE, "optimizer.step": STEP, "optimizer.scale": ONE, "a": ONE}
    state = read(saved(tmp_path / "a.safetensors", tensors))
    assert state.steps == {"a": 3} and list(state.weights) == ["a"]
    assert list(state.extras) == ["optimizer.scale"]
    assert "optimizer.scale is no slot that is known; it is kept aside" in state.warnings[0]


def test_a_model_is_no_state(tmp_path):
    path = saved(tmp_path / "a.safetensors", {"encoder.mu.weight": ONE, "encoder.sum": ONE, "step": STEP})
    assert "it may be a model (--model), it is no optimizer state" in refused(path)
    assert sorted(weights(path).tensors) == ["encoder.mu.weight", "encoder.sum", "step"]
    assert FORMAT.sniff(str(FOLDER / "all_dtypes.safetensors"))
    assert len(weights(FOLDER / "all_dtypes.safetensors").tensors) == 14
    with pytest.raises(CheckpointError, match="holds no weights beside the optimizer's state"):
        weights(saved(path, {"optimizer.a.exp_avg": ONE}))


def test_files_of_others_are_left_to_them(tmp_path):
    path = tmp_path / "a.safetensors"
    for names in (
        ("w.m", "w.v", "step", "learning_rate"),
        ("w.exp_avg_sq_row", "w.exp_avg_sq_col", "b.exp_avg_sq", "step"),
        ("states.0.step", "states.0.learning_rate", "states.0.w.v", "states.1.step", "states.1.b.m"),
    ):
        held = {n: np.array(3, np.uint64) if n == "step" else ONE for n in names}
        assert not FORMAT.sniff(str(saved(path, held)))
    # Without a rate a step of another type is PyTorch's.
    assert FORMAT.sniff(str(saved(path, {"w.exp_avg": ONE, "w.exp_avg_sq": ONE, "step": STEP})))
    for names in (("w.exp_avg", "w.step"), ("w", "b", "step"), ("optimizer.w.exp_avg", "step", "w")):
        assert FORMAT.sniff(str(saved(path, dict.fromkeys(names, ONE))))
    ox.save(ox.load(FOLDER / "adamw.safetensors"), path, format="bundle")
    assert not FORMAT.sniff(str(path)) and not FORMAT.sniff(str(tmp_path))
    path.write_bytes(b"{}")
    assert not FORMAT.sniff(str(path)) and not FORMAT.sniff(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("tensors", "meta", "why"),
    [
        ({"state.0.exp_avg": ONE, "state.w.exp_avg": ONE}, {}, "some parameters have numbers and some names"),
        ({"optimizer.a.exp_avg": ONE}, {"param_groups": "["}, "param_groups of the metadata is"),
        ({"optimizer.a.exp_avg": ONE}, {"param_groups": "[" * 100_000}, "param_groups of the metadata is"),
        ({"optimizer.a.exp_avg": ONE}, {"param_groups": {}}, "expected a list of groups"),
        ({"optimizer.a.exp_avg": ONE}, {"param_groups": [{"lr": 1.0}] * 2}, "group 0 of 2 does not list its params"),
        ({"optimizer.a.exp_avg": ONE}, {"param_groups": [{"params": ["a"]}] * 2}, "a parameter is in two groups"),
        ({"optimizer.a.exp_avg": ONE}, {"param_groups": [{"params": ["b"]}]}, "a has state and is in no group"),
        ({"optimizer.a.exp_avg": ONE}, {"param_groups": [{"params": [0, 1]}]}, "the groups list numbers"),
        ({"state.7.exp_avg": ONE}, {"param_groups": [{"params": ["b"]}]}, "7 of 1 that the groups list"),
        ({"optimizer.a.exp_avg": ONE, "optimizer.a.step": -STEP}, {}, "expected one whole number from 0 up"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, tensors, meta, why):
    assert why in refused(saved(tmp_path / "a.safetensors", tensors, **meta))


# -- writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MAKERS)
def test_pytorch_goes_on_exactly(tmp_path, name, dtype, groups):
    """Loaded with the format's own library, put together as the documentation says."""
    torch = pytest.importorskip("torch", reason="compares with the real optimizer")
    from safetensors import safe_open

    params = parameters(torch, getattr(torch, dtype))
    cut = 2 if groups == 2 else 4
    given = [{"params": params[:cut]}, {"params": params[cut:], "lr": 0.05}][:groups]
    opt = getattr(torch.optim, name)(given, **MAKERS[name])
    train(torch, params, opt, 1)
    torch.save(opt.state_dict(), tmp_path / "theirs.pt")
    write(checkpoint.read(tmp_path / "theirs.pt"), tmp_path / "ours.safetensors")

    held: dict[str, dict[str, Any]] = {}
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        meta = file.metadata()
        for key in file.keys():  # noqa: SIM118
            param, _, slot = key.removeprefix("optimizer.").rpartition(".")
            held.setdefault(param, {})[slot] = file.get_tensor(key)
    saved_groups = json.loads(meta["param_groups"])
    ids = {param: i for i, param in enumerate(p for g in saved_groups for p in g["params"])}
    assert meta["optimizer"] == name and list(ids) == [key for key, _ in params]
    loaded = {
        "state": {ids[param]: slots for param, slots in held.items()},
        "param_groups": [{**g, "params": [ids[p] for p in g["params"]]} for g in saved_groups],
    }
    runs = []
    for source in (loaded, torch.load(tmp_path / "theirs.pt", weights_only=True)):
        twins = [(key, torch.nn.Parameter(param.detach().clone())) for key, param in params]
        given = [{"params": twins[:cut]}, {"params": twins[cut:]}][:groups]
        other = getattr(torch.optim, name)(given, **MAKERS[name])
        other.load_state_dict(source)
        train(torch, twins, other, 2)
        runs.append(twins)
    train(torch, params, opt, 2)
    for (_, mine), (_, theirs), (_, uninterrupted) in zip(*runs, params, strict=True):
        assert torch.equal(mine, theirs)
        assert dtype != "float32" or torch.equal(mine, uninterrupted)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_every_bit_pattern_comes_back(tmp_path, name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    raw = np.random.default_rng(1).integers(0, 256, 4096 * dtype.itemsize, np.uint8)
    array = raw.view(dtype).reshape(64, 64)
    slots = {"w": {"exp_avg": array, "exp_avg_sq": array[::-1]}}
    state = NativeState(
        "torch",
        "x",
        "Adam",
        [NativeGroup({"lr": 0.1}, ["w"])],
        slots,
        {"w": 1},
        named=True,
        weights={"w": array},
    )
    for name_ in ("a.safetensors", "b.safetensors"):
        write(state, tmp_path / name_)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    after = read(tmp_path / "a.safetensors")
    assert after.steps == {"w": 1} and after.groups == state.groups and after.optimizer == "Adam"
    assert after.weights["w"].tobytes() == array.tobytes()
    for slot, before in slots["w"].items():
        assert after.slots["w"][slot].tobytes() == before.tobytes()


def test_the_scheduler_goes_along(tmp_path):
    state = ox.load(DATA / "lightning" / "adamw_steplr.ckpt")
    ox.save(state, tmp_path / "a.safetensors", format="safetensors")
    again = ox.load(tmp_path / "a.safetensors")
    assert again.spec.groups[0].schedules == state.spec.groups[0].schedules != {}


def test_what_a_file_cannot_hold(tmp_path):
    state = NativeState("torch", "x", "LBFGS", [NativeGroup({"lr": 1.0}, ["w"])], named=True)
    with pytest.raises(CheckpointError, match="LBFGS keeps lists of vectors"):
        write(state, tmp_path / "a.safetensors")
    slots = {"w": {"exp_avg": np.ones(2, complex)}}
    state = NativeState("torch", "x", "Adam", [NativeGroup({"lr": 1.0}, ["w"])], slots, {"w": 1}, named=True)
    with pytest.raises(CheckpointError, match=r"tensor 'optimizer\.w\.exp_avg': safetensors has no dtype"):
        write(state, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
