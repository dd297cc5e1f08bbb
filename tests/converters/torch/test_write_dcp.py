"""Directories of torch.distributed.checkpoint that are written: PyTorch loads them and goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optexport as ox
from optexport.converters.torch.checkpoint import FORMATS, read, read_weights
from optexport.errors import CheckpointError
from optexport.state.native import NativeGroup, NativeState

from .making import DATA, SAMPLES
from .test_with_torch import MAKERS

FORMAT = next(f for f in FORMATS if f.name == "torch-dcp")


def write(state: NativeState, path: Path) -> None:
    assert FORMAT.write is not None
    FORMAT.write(state, str(path))


def network(torch: Any, dtype: Any) -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)).to(dtype)


def made(torch: Any, model: Any, name: str, groups: int) -> Any:
    params = list(model.parameters())
    given: Any = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}] if groups == 2 else params
    return getattr(torch.optim, name)(given, **MAKERS[name])


def train(torch: Any, model: Any, opt: Any, seed: int, steps: int = 3) -> None:
    source = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=source).to(param.dtype)
        opt.step()


def load(torch: Any, folder: Path, model: Any, opt: Any) -> None:
    """As PyTorch's own documentation loads one."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_model, of_opt = get_state_dict(model, opt)
        held = {"model": of_model, "optim": of_opt}
        dcp.load(held, checkpoint_id=str(folder))
        set_state_dict(model, opt, model_state_dict=held["model"], optim_state_dict=held["optim"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_pytorch_goes_on_exactly(tmp_path, name, groups, dtype):
    torch = pytest.importorskip("torch", reason="compares with the real optimizer")
    kind = getattr(torch, dtype)
    model = network(torch, kind)
    opt = made(torch, model, name, groups)
    train(torch, model, opt, 1)
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "theirs.pt")
    names = [key for key, _ in model.named_parameters()]
    state = read(tmp_path / "theirs.pt")
    state.groups = [
        NativeGroup(group.arguments, [names[int(key)] for key in group.params]) for group in state.groups
    ]
    state.slots = {names[int(key)]: slots for key, slots in state.slots.items()}
    state.steps = {names[int(key)]: step for key, step in state.steps.items()}
    state.named = True
    write(state, tmp_path / "ours")

    # What a fresh process has; PyTorch rounds some float32 state of bfloat16 parameters when it loads.
    theirs, theirs_opt = (twin := network(torch, kind)), made(torch, twin, name, groups)
    theirs.load_state_dict(model.state_dict())
    theirs_opt.load_state_dict(torch.load(tmp_path / "theirs.pt", weights_only=True)["optimizer"])
    ours, ours_opt = (twin := network(torch, kind)), made(torch, twin, name, groups)
    with torch.no_grad():
        for param in ours.parameters():
            param.zero_()
    load(torch, tmp_path / "ours", ours, ours_opt)

    for run in ((model, opt), (theirs, theirs_opt), (ours, ours_opt)):
        train(torch, *run, seed=2)
    for mine, other, uninterrupted in zip(
        ours.parameters(), theirs.parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(mine, other)
        assert dtype != "float32" or torch.equal(mine, uninterrupted)


def test_an_optimizer_with_names_loads_it_too(tmp_path):
    """Its groups have ``param_names``, which DCP then expects in the directory."""
    torch = pytest.importorskip("torch", reason="compares with the real optimizer")
    model = network(torch, torch.float32)
    opt = torch.optim.AdamW(model.named_parameters(), lr=0.01)
    train(torch, model, opt, 1)
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "theirs.pt")
    ox.save(ox.load(tmp_path / "theirs.pt"), tmp_path / "ours", format="torch-dcp")
    other = network(torch, torch.float32)
    other_opt = torch.optim.AdamW(other.named_parameters(), lr=0.5)
    load(torch, tmp_path / "ours", other, other_opt)
    assert other_opt.param_groups[0]["lr"] == 0.01
    for run in ((model, opt), (other, other_opt)):
        train(torch, *run, seed=2)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_a_state_without_names_is_written_as_a_plain_state_dict(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with the real reader")
    import torch.distributed.checkpoint as dcp

    model = network(torch, torch.float32)
    opt = made(torch, model, "AdamW", 2)
    train(torch, model, opt, 1)
    torch.save(opt.state_dict(), tmp_path / "theirs.pt")
    write(read(tmp_path / "theirs.pt"), tmp_path / "ours")
    want = opt.state_dict()
    held = {"optimizer": made(torch, network(torch, torch.float32), "AdamW", 2).state_dict()}
    held["optimizer"]["state"] = {
        key: {slot: torch.zeros_like(value) for slot, value in slots.items()}
        for key, slots in want["state"].items()
    }
    dcp.load(held, checkpoint_id=str(tmp_path / "ours"))
    assert held["optimizer"]["param_groups"] == want["param_groups"]
    for key, slots in want["state"].items():
        assert all(torch.equal(held["optimizer"]["state"][key][slot], value) for slot, value in slots.items())


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_every_sample_goes_through_a_directory_to_the_bit(tmp_path, path, sample):
    before = read(path)
    write(before, tmp_path / "a")
    after = read(tmp_path / "a", verify=True)
    assert after.optimizer == before.optimizer and after.named == before.named
    assert after.groups == before.groups and after.steps == before.steps
    assert {key: list(slots) for key, slots in after.slots.items()} == {
        key: list(slots) for key, slots in before.slots.items()
    }
    for key, slots in before.slots.items():
        for slot, array in slots.items():
            found = np.asarray(after.slots[key][slot])
            assert found.dtype == array.dtype and found.shape == array.shape
            assert found.tobytes() == np.asarray(array).tobytes()
    assert list(after.weights) == list(before.weights)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "int64"])
def test_every_bit_pattern_comes_back(tmp_path, name):
    """NaN payloads, denormals, infinities and negative zero among them."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, 4096 * dtype.itemsize, np.uint8)
    array = raw.view(dtype).reshape(64, 64)
    state = NativeState(
        "torch", "x", None, [NativeGroup({"lr": 0.1}, ["w"])], {"w": {"m": array}}, {"w": None}, named=True
    )
    write(state, tmp_path / "a")
    assert read(tmp_path / "a").slots["w"]["m"].tobytes() == array.tobytes()


def test_equal_states_give_equal_bytes_and_no_path_is_written(tmp_path):
    state = read(DATA / "torch_dcp" / "adamw_fqn")
    for name in "ab":
        write(state, tmp_path / name)
    for name in (".metadata", "__0_0.distcp"):
        raw = (tmp_path / "a" / name).read_bytes()
        assert raw == (tmp_path / "b" / name).read_bytes()
        assert str(tmp_path).encode() not in raw
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".metadata", "__0_0.distcp"]


def test_ranks_are_put_together_into_one_file(tmp_path):
    write(read(DATA / "torch_dcp_2ranks" / "adamw_fqn_2ranks"), tmp_path / "a")
    one, two = read(tmp_path / "a"), read(DATA / "torch_dcp_2ranks" / "adamw_fqn_2ranks")
    for key, slots in two.slots.items():
        assert all(np.array_equal(one.slots[key][slot], array) for slot, array in slots.items())
    assert list(read_weights(tmp_path / "a").tensors) == list(two.weights)


def test_what_a_directory_cannot_hold(tmp_path):
    array = np.ones(2, np.float32)
    state = NativeState("torch", "x", "LBFGS", [NativeGroup({"lr": 1.0}, ["w"])], named=True)
    with pytest.raises(CheckpointError, match="LBFGS keeps one vector for all parameters"):
        write(state, tmp_path / "a")
    slots = {"w.m": {"x": array}, "w": {"m.x": array}}
    state = NativeState(
        "torch", "x", None, [NativeGroup({"lr": 1.0}, ["w.m", "w"])], slots, dict.fromkeys(slots), named=True
    )
    with pytest.raises(CheckpointError, match=r"two items have the key 'optim\.state\.w\.m\.x'"):
        write(state, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_bytes(b"")
    with pytest.raises(CheckpointError, match="already exists and is not an empty directory"):
        write(read(DATA / "torch" / "adam.pt"), tmp_path / "full")


def test_a_directory_is_found_by_a_program_that_nests_it(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the directory")
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model = network(torch, torch.float32)
    opt = made(torch, model, "AdamW", 1)
    train(torch, model, opt, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_model, of_opt = get_state_dict(model, opt)
        held = {"app": {"model": of_model, "optim": of_opt, "epoch": 7}}
        dcp.save(held, checkpoint_id=str(tmp_path / "a"))
    state = read(tmp_path / "a")
    assert list(state.weights) == [name for name, _ in model.named_parameters()]
    assert state.extras["app.epoch"] == 7 and state.optimizer == "AdamW"
    assert list(read_weights(tmp_path / "a").tensors) == list(state.weights)
