"""Opening and writing files of any format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import optexport as ox
from optexport.converters.torch import checkpoint
from optexport.errors import (
    CheckpointError,
    HyperparameterError,
    NamingError,
    OptexportError,
    UnknownNameError,
)
from optexport.state import bundle, detect, formats
from optexport.state.native import NativeGroup, NativeState
from optexport.state.store import read_model, read_native
from tests.make_golden import BUNDLE

DATA = Path(__file__).parents[1] / "data"
TORCH = DATA / "torch"
NAMES = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
SHAPES = {"fc1.weight": (16, 8), "fc1.bias": (16,), "fc2.weight": (4, 16), "fc2.bias": (4,)}


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    save_file({n: np.full(s, i, np.float32) for i, (n, s) in enumerate(SHAPES.items())}, path)
    return str(path)


def refused(kind: type[OptexportError], call, *args, **kwargs) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_formats():
    assert formats()[0] == "bundle" and {"torch", "mxnet"} <= set(formats())


@pytest.mark.parametrize(
    ("path", "fmt"),
    [
        (BUNDLE, "bundle"),
        (TORCH / "adam.pt", "torch"),
        (TORCH / "adam_legacy.pt", "torch"),
        (TORCH / "checkpoint_combined.pt", "torch"),
        (DATA / "torch_dcp" / "adamw_fqn", "torch-dcp"),
        (DATA / "torch_dcp_2ranks" / "adamw_fqn_2ranks", "torch-dcp"),
        (DATA / "lightning" / "adamw_steplr.ckpt", "torch"),
        (DATA / "hf_trainer" / "checkpoint-3", "hf-trainer"),
        (DATA / "safetensors" / "adamw.safetensors", "safetensors"),
        (DATA / "safetensors" / "all_dtypes.safetensors", "safetensors"),
        (DATA / "mxnet" / "trainer_adam.states", "mxnet"),
        (DATA / "mxnet" / "module_adam.states", "mxnet"),
    ],
    ids=lambda p: getattr(p, "stem", p),
)
def test_formats_are_told_by_content_not_by_name(tmp_path, path, fmt):
    copy = tmp_path / "file.dat"
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    assert detect(str(copy)) == fmt


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 64, b"\0" * 100, b"{}"])
def test_other_files(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert refused(CheckpointError, ox.load, tmp_path / "x") == (
        f"{tmp_path / 'x'}: expected optimizer state in one of the formats {', '.join(formats())}; found none of them"
    )


def test_no_file(tmp_path):
    path = tmp_path / "none.pt"
    assert refused(CheckpointError, ox.load, path) == f"{path}: no such file or folder"
    assert "found none of them" in refused(CheckpointError, ox.load, tmp_path)


def test_a_format_that_is_not_there():
    path = str(TORCH / "adam.pt")
    assert refused(UnknownNameError, ox.load, path, format="pickle") == (
        f"unknown format 'pickle'; expected one of {', '.join(formats())}"
    )


def test_another_format_than_the_files():
    for fmt in formats():
        if fmt != "torch":
            message = refused(CheckpointError, ox.load, TORCH / "adam.pt", format=fmt)
            assert message.startswith(f"{TORCH / 'adam.pt'}: ")


def test_a_bundle_is_no_frameworks_file():
    assert "a bundle is no framework's own file; open it with load()" in refused(
        CheckpointError, read_native, str(BUNDLE)
    )


def test_without_names_parameters_are_called_by_index():
    state = ox.load(TORCH / "adam.pt")
    assert state.names == ("0", "1", "2", "3") and not state.params
    assert state.warnings == ("parameter names are not in the file; called by index",)


def test_names_by_a_list_a_file_and_a_model(tmp_path, model):
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for how in ({"names": NAMES}, {"names": tuple(NAMES)}, {"names": str(tmp_path / "names.txt")},
                {"names": tmp_path / "names.txt"}, {"model": model}, {"model": Path(model), "names": NAMES}):  # fmt: skip
        state = ox.load(TORCH / "adam.pt", **how)
        assert state.names == tuple(NAMES) and state.warnings == ()
        assert {n: state.shape(n) for n in NAMES} == SHAPES
        assert bool(state.params) == ("model" in how)


def test_a_list_that_does_not_fit():
    load = (ox.load, TORCH / "adam.pt")
    assert "holds 4 parameters, the list of names has 2" in refused(NamingError, *load, names=["a", "b"])
    # Two parameters under one name would leave one of them out.
    assert "'a' occurs twice; expected each parameter once" in refused(
        NamingError, *load, names=["a", "b", "a", "c"]
    )
    message = refused(NamingError, ox.load, BUNDLE, names=["a", "a", "b", "c", "d"])
    assert "'a' occurs twice" in message


def test_a_list_in_the_wrong_order_does_not_fit_the_model(model):
    message = refused(NamingError, ox.load, TORCH / "adam.pt", names=NAMES[::-1], model=model)
    assert message == (
        f"{TORCH / 'adam.pt'}: parameter 'fc2.bias': state has shape [16, 8], the model [4]; is it the right model?"
    )


def test_a_model_of_another_shape(tmp_path):
    save_file({n: np.zeros(s[::-1], np.float32) for n, s in SHAPES.items()}, tmp_path / "m.safetensors")
    message = refused(NamingError, ox.load, TORCH / "adam.pt", model=tmp_path / "m.safetensors")
    assert "parameter '0': expected a shape of the model, found [16, 8]; the model has " in message
    message = refused(NamingError, ox.load, TORCH / "adam_named.pt", model=tmp_path / "m.safetensors")
    assert "parameter 'fc1.weight': state has shape [16, 8], the model [8, 16]" in message


def plain_sgd(path: Path, slots: dict[str, dict[str, np.ndarray]], **groups: list[str]) -> Path:
    """A PyTorch file without names; ``groups`` is learning rate -> indexes."""
    arguments = {"momentum": 0.9 if slots else 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    arguments |= {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
    made = [NativeGroup({"lr": float(lr[1:]), **arguments}, keys) for lr, keys in groups.items()]
    keys = [k for g in made for k in g.params]
    checkpoint.write(NativeState("torch", "", "SGD", made, slots, dict.fromkeys(keys)), path)
    return path


def test_only_order_tells_two_parameters_apart(tmp_path):
    save_file({n: np.zeros((4, 4), np.float32) for n in "abcd"}, tmp_path / "m.safetensors")
    slots = {k: {"momentum_buffer": np.ones((4, 4), np.float32)} for k in "0123"}
    path = plain_sgd(tmp_path / "o.pt", slots, _1=list("0123"))
    message = refused(NamingError, ox.load, path, model=tmp_path / "m.safetensors", optimizer="torch:SGD")
    assert message == (
        f"{path}: parameter '0' of shape [4, 4] may be a or b or c or d; only order tells them apart: state it with "
        "--names (a list in the order the optimizer was given them)"
    )
    state = ox.load(path, names=list("cadb"), model=tmp_path / "m.safetensors", optimizer="torch:SGD")
    assert state.names == tuple("cadb")


def test_groups_of_plain_descent_are_not_told_by_order(tmp_path, model):
    """No state, two groups: which parameter has which learning rate is in no file."""
    path = plain_sgd(tmp_path / "o.pt", {}, _1=["0", "1"], _2=["2", "3"])
    message = refused(NamingError, ox.load, path, model=model, optimizer="torch:SGD")
    assert "holds no state that could tell which of its 2 groups a parameter is in" in message
    state = ox.load(path, names=NAMES, optimizer="torch:SGD")
    assert [g.params for g in state.spec.groups] == [tuple(NAMES[:2]), tuple(NAMES[2:])]
    assert ox.load(plain_sgd(path, {}, _1=list("0123")), model=model, optimizer="torch:SGD").names == tuple(
        sorted(NAMES)
    )


def test_a_combined_checkpoint_names_itself():
    state = ox.load(TORCH / "checkpoint_combined.pt")
    assert state.names == tuple(NAMES) and list(state.params) == NAMES


def test_weights_of_any_format(tmp_path, model):
    assert list(read_model(model).tensors) == sorted(SHAPES)
    assert not read_model(model).ordered
    assert list(read_model(str(TORCH / "checkpoint_combined.pt")).tensors) == NAMES
    assert read_model(str(TORCH / "checkpoint_combined.pt")).ordered
    assert set(read_model(str(BUNDLE)).tensors) == {"fc.weight", "emb", "norm.bias", "last", "scale"}
    message = refused(CheckpointError, ox.load, TORCH / "adam.pt", model=TORCH / "adam.pt")
    assert message.startswith(f"{TORCH / 'adam.pt'}: ")


def test_a_model_is_no_state(model):
    assert "it may be a model (--model), it is no optimizer state" in refused(CheckpointError, ox.load, model)


def test_a_step_below_zero():
    assert "step expected a number of completed updates ≥ 0, found -1" in refused(
        HyperparameterError, ox.load, TORCH / "sgd_momentum.pt", step=-1
    )


def test_tensors_are_mapped_not_read():
    state = ox.load(TORCH / "adam.pt")
    for slots in state.slots.values():
        for array in slots.values():
            assert not array.flags.writeable and not array.flags.owndata


# Writing.


def test_a_file_of_its_own_framework_comes_back(tmp_path):
    state = ox.load(TORCH / "adam.pt", names=NAMES)
    ox.save(state, tmp_path / "o.pt", format="torch")
    again = ox.load(tmp_path / "o.pt", optimizer="torch:Adam", names=NAMES)
    assert again.steps == state.steps and again.spec == state.spec
    for name, slots in state.slots.items():
        for slot, array in slots.items():
            assert again.slots[name][slot].tobytes() == array.tobytes()


def test_names_are_needed():
    state = ox.load(TORCH / "adam.pt")
    assert refused(NamingError, ox.save, state, "o.pt", format="torch") == (
        "o.pt: parameters are known by index only (0, 1, 2, 3…); pass --model or --names"
    )


def test_a_state_of_another_framework(tmp_path):
    state = ox.load(TORCH / "adam.pt", names=NAMES)
    path = tmp_path / "o.states"
    assert refused(CheckpointError, ox.save, state, path, format="mxnet") == (
        f"{path}: expected state of a mxnet optimizer, found torch:Adam; translate it first "
        "(translate(state, to='mxnet:NAME'))"
    )
    assert refused(UnknownNameError, ox.save, state, path, format="tf").startswith("unknown format 'tf'")
    assert os.listdir(tmp_path) == []


def test_a_bundle_takes_any_state(tmp_path):
    for state in (ox.load(TORCH / "adam.pt"), ox.init(ox.spec("adam"), {"w": np.ones(1)})):
        ox.save(state, tmp_path / "o.safetensors", format="bundle")
        assert bundle.read(str(tmp_path / "o.safetensors"), verify=True).names == state.names


@pytest.mark.parametrize("target", ["none/o.safetensors", "."])
def test_a_place_that_cannot_be_written(tmp_path, target):
    state = ox.init(ox.spec("sgd"), {"w": np.ones(1)})
    message = refused(CheckpointError, ox.save, state, tmp_path / target, format="bundle")
    assert message.startswith(f"{tmp_path}")


@pytest.mark.parametrize(
    ("suffix", "optimizer"), [(".pt", "torch:Adam"), (".states", "mxnet:adam"), (".safetensors", None)]
)
def test_progress_is_told_while_any_format_is_written(
    tmp_path: Path, suffix: str, optimizer: str | None
) -> None:
    from optexport.convert import convert

    state = ox.init(
        ox.native(optimizer or "torch:Adam"), {"w": np.ones((40, 5)), "b": np.ones(3)}, dtype="float32"
    )
    state = ox.step(state, {"w": np.ones((40, 5)), "b": np.ones(3)})
    ox.save(state, tmp_path / "a.safetensors", format="bundle")
    sizes: list[int] = []
    told: list[int] = []

    def on_size(total: int) -> Callable[[int], None]:
        sizes.append(total)
        return told.append

    convert(str(tmp_path / "a.safetensors"), str(tmp_path / f"b{suffix}"), on_size=on_size)
    assert sizes == [3 * 4 * 203]
    assert sum(told) >= 2 * 4 * 203
