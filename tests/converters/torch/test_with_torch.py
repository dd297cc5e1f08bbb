"""Files go both ways between the library and PyTorch itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.torch.checkpoint import read, read_weights, write

from .making import DATA, optimizer

# -- with PyTorch -----------------------------------------------------------------------------------

SHAPES = [("fc1.weight", (16, 8)), ("fc1.bias", (16,)), ("fc2.weight", (4, 16)), ("fc2.bias", (4,))]

MAKERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "Adam": {"lr": 1e-2, "amsgrad": True},
    "AdamW": {"lr": 1e-2, "weight_decay": 0.1},
    "NAdam": {"lr": 1e-2},
    "RAdam": {"lr": 1e-2, "decoupled_weight_decay": True},
    "Adamax": {"lr": 1e-2},
    "Adagrad": {"lr": 1e-2, "initial_accumulator_value": 0.1},
    "Adadelta": {"lr": 1.0},
    "RMSprop": {"lr": 1e-2, "momentum": 0.8, "centered": True},
    "Rprop": {"lr": 1e-2},
    "ASGD": {"lr": 1e-2},
    "Adafactor": {"lr": 1e-2},
}


def parameters(torch: Any, dtype: Any) -> list[tuple[str, Any]]:
    source = torch.Generator().manual_seed(3)
    return [
        (name, torch.nn.Parameter(torch.randn(shape, generator=source).to(dtype))) for name, shape in SHAPES
    ]


def train(torch: Any, params: list[tuple[str, Any]], opt: Any, seed: int, steps: int = 3) -> None:
    source = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for _, param in params:
            param.grad = torch.randn(param.shape, generator=source).to(param.dtype)
        opt.step()


@pytest.mark.parametrize("named", [False, True], ids=["index", "named"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MAKERS)
def test_pytorch_continues_exactly_from_a_written_file(tmp_path, name, dtype, named):
    torch = pytest.importorskip("torch", reason="compares with the real optimizer")
    params = parameters(torch, getattr(torch, dtype))
    make = getattr(torch.optim, name)
    given = params if named else [param for _, param in params]
    opt = make([{"params": given[:2]}, {"params": given[2:], "lr": 0.05}], **MAKERS[name])
    train(torch, params, opt, 1)
    torch.save(opt.state_dict(), tmp_path / "theirs.pt")
    state = read(tmp_path / "theirs.pt", verify=True)
    assert state.optimizer == name and state.named == named and state.warnings == []
    write(state, tmp_path / "ours.pt")
    loaded = torch.load(tmp_path / "ours.pt", weights_only=True)
    theirs = opt.state_dict()
    assert loaded["param_groups"] == theirs["param_groups"]
    for identity, slots in theirs["state"].items():
        for slot, value in slots.items():
            assert torch.equal(loaded["state"][identity][slot], value)
            assert loaded["state"][identity][slot].dtype == value.dtype
    runs = [(params, opt)]
    for source in (torch.load(tmp_path / "theirs.pt", weights_only=True), loaded):
        twins = [(key, torch.nn.Parameter(param.detach().clone())) for key, param in params]
        given = twins if named else [param for _, param in twins]
        other = make([{"params": given[:2]}, {"params": given[2:], "lr": 0.05}], **MAKERS[name])
        other.load_state_dict(source)
        runs.append((twins, other))
    for run in runs:
        train(torch, *run, seed=2)
    uninterrupted, from_theirs, from_ours = ([param for _, param in run[0]] for run in runs)
    assert all(map(torch.equal, from_ours, from_theirs))
    # PyTorch itself rounds float32 state of bfloat16 parameters (mu_product, eta) when it loads.
    if dtype == "float32":
        assert all(map(torch.equal, from_ours, uninterrupted))


def test_pytorch_takes_a_combined_file(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with the real reader")
    write(read(DATA / "torch" / "checkpoint_combined.pt"), tmp_path / "out.pt", combined=True)
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    theirs = torch.load(DATA / "torch" / "checkpoint_combined.pt", weights_only=True)
    assert type(loaded["model"]) is type(theirs["model"])
    assert all(torch.equal(loaded["model"][name], value) for name, value in theirs["model"].items())
    assert loaded["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_dtype_goes_both_ways(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="writes the file")
    names = [
        *("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        *("complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
    ]
    if legacy:
        names = names[:12]
    slots = {name: torch.tensor([0, 1, 2, 3]).to(getattr(torch, name)) for name in names}
    value = {"state": {0: slots}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    state = read(tmp_path / "a.pt")
    write(state, tmp_path / "b.pt")
    loaded = torch.load(tmp_path / "b.pt", weights_only=True)["state"][0]
    for name, want in slots.items():
        assert state.slots["0"][name].dtype.name == name
        assert loaded[name].dtype == want.dtype
        assert torch.equal(loaded[name].view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_model_files_with_parameters_buffers_and_views(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="writes the file")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    weights = model.state_dict()
    weights["tied"] = weights["0.weight"].transpose(0, 1)
    weights["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save(weights, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    found = read_weights(tmp_path / "m.pt")
    assert list(found.tensors) == list(weights) and found.ordered
    for name, value in weights.items():
        assert np.array_equal(found.tensors[name], value.detach().numpy())
        assert found.tensors[name].strides == tuple(s * value.element_size() for s in value.stride())


def test_files_without_checksums_are_read(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the file")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(optimizer({"m": torch.ones(2)}), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read(tmp_path / "a.pt", verify=True).slots["0"]["m"].tolist() == [1, 1]


def test_lbfgs_is_kept_aside(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the file")
    param = torch.nn.Parameter(torch.ones(3))
    opt = torch.optim.LBFGS([param])

    def closure() -> Any:
        opt.zero_grad()
        loss = (param**4).sum()
        loss.backward()
        return loss

    opt.step(closure)
    torch.save(opt.state_dict(), tmp_path / "a.pt")
    state = read(tmp_path / "a.pt")
    assert state.optimizer == "LBFGS" and state.slots == {}
    assert state.extras["state"]["0"]["n_iter"] == opt.state[param]["n_iter"]
    assert "LBFGS keeps one flat state" in state.warnings[-1]


def test_sgd_before_its_first_step_and_empty_groups(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the file")
    param = torch.nn.Parameter(torch.ones(3))
    opt = torch.optim.SGD([param], lr=0.1, momentum=0.9)
    state = opt.state_dict()
    state["state"] = {0: {"momentum_buffer": None}}
    torch.save(state, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    assert found.optimizer == "SGD" and found.slots == {} and found.groups[0].params == ["0"]


def test_groups_that_shapes_cut_are_written_as_the_optimizers_own(tmp_path):
    """Adafactor's factored and other parameters are groups of their own in a rule, and one in PyTorch;
    the second group, whose values are the first's, stays a second."""
    torch = pytest.importorskip("torch", reason="compares with the real optimizer")
    shapes = [(7, 5), (5,), (4, 6), (5,), (3, 3), (2,)]
    source = torch.Generator().manual_seed(3)
    params = [
        (f"p{i}", torch.nn.Parameter(torch.randn(shape, generator=source))) for i, shape in enumerate(shapes)
    ]
    given = [param for _, param in params]
    opt = torch.optim.Adafactor([{"params": given[:4]}, {"params": given[4:]}], lr=0.01, eps=(1e-30, 1e-3))
    train(torch, params, opt, 1)
    torch.save(opt.state_dict(), tmp_path / "theirs.pt")

    state = ox.load(tmp_path / "theirs.pt", optimizer="torch:Adafactor", names=[name for name, _ in params])
    ox.save(state, tmp_path / "ours.pt", format="torch")

    assert state.ordered_names == [name for name, _ in params]
    ours = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert [g["params"] for g in ours["param_groups"]] == [[0, 1, 2, 3], [4, 5]]
    theirs = opt.state_dict()["state"]
    opt.load_state_dict(ours)
    assert opt.state_dict()["state"].keys() == theirs.keys()
    for i, held in opt.state_dict()["state"].items():
        assert held.keys() == theirs[i].keys()
        for name, tensor in held.items():
            assert tensor.shape == theirs[i][name].shape
            assert torch.equal(tensor, theirs[i][name])
