"""Files with several optimizers, and files of one format that no other claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.cli import main
from optexport.converters.torch.checkpoint import read
from optexport.errors import CheckpointError, OptexportError
from optexport.state.formats import find_format, formats
from optexport.state.inspect import inspect
from tests.make_golden import BUNDLE

from .making import DATA, save, tensor

OWN = {
    **{str(path): "torch" for path in sorted((DATA / "torch").glob("*.pt"))},
    **{str(path): "torch" for path in sorted((DATA / "lightning").glob("*.ckpt"))},
    **{str(path.parent): "torch-dcp" for path in sorted(DATA.glob("torch_dcp*/*/.metadata"))},
    str(DATA / "hf_trainer" / "checkpoint-3"): "hf-trainer",
    **{str(path): "safetensors" for path in sorted((DATA / "safetensors").glob("*.safetensors"))},
    str(BUNDLE): "bundle",
}  # fmt: skip


@pytest.mark.parametrize("path", OWN, ids=lambda p: f"{Path(p).parent.name}-{Path(p).stem}")
def test_every_sample_is_claimed_by_its_own_format_alone(path):
    from optexport.state import bundle

    claims = [name for name in formats() if (bundle if name == "bundle" else find_format(name)).sniff(path)]
    assert claims == [OWN[path]]


def one(value: float, kind: str) -> dict[str, Any]:
    group = {"lr": 0.1 * value, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    group |= {"maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None}
    slots = {s: tensor(f"{kind}{s}", (2,), (1,), count=2) for s in ("exp_avg", "exp_avg_sq")}
    slots["step"] = tensor(f"{kind}step", (), (), count=1)
    return {
        "state": {0: slots},
        "param_groups": [{**group, "decoupled_weight_decay": False, "params": [0]}],
    }


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    """A checkpoint of two optimizers, as Lightning keeps them."""
    storages = {}
    for kind, value in (("g", 1.0), ("d", 2.0)):
        storages |= {
            f"{kind}{s}": np.full(2, value, "<f4").tobytes() for s in ("exp_avg", "exp_avg_sq", "step")
        }
    root = {"epoch": 4, "optimizer_states": [one(1.0, "g"), one(2.0, "d")], "lr_schedulers": []}
    return save(tmp_path / "gan.ckpt", root, storages)


def test_a_file_with_several_optimizers_is_asked_about(gan):
    with pytest.raises(CheckpointError) as caught:
        read(gan)
    assert str(caught.value) == (
        f"{gan}: holds 2 optimizers, under optimizer_states.0, optimizer_states.1; choose one by its key "
        "(--optimizer-key)"
    )
    for index, value in ((0, 1.0), (1, 2.0)):
        state = ox.load(gan, optimizer_key=f"optimizer_states.{index}", names=["w"])
        assert state.slots["w"]["exp_avg"].tolist() == [value, value]
        assert inspect(str(gan), optimizer_key=f"optimizer_states.{index}").step == int(value)
    aside = read(gan, optimizer_key="optimizer_states.1").extras
    assert aside["epoch"] == 4 and aside["optimizer_states.0"]["state"]["0"]["exp_avg"].tolist() == [1, 1]
    with pytest.raises(CheckpointError, match="has no optimizer under generator; found optimizer_states"):
        ox.load(gan, optimizer_key="generator")


def test_the_key_on_the_command_line(gan, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("w\n")
    arguments = ["convert", str(gan), str(tmp_path / "d.pt"), "--names", str(names), "--json"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "choose one by its key (--optimizer-key)" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--optimizer-key", "optimizer_states.1"])
    assert stop.value.code == 0 and json.loads(capsys.readouterr().out)["verdict"] == "exact"
    assert read(tmp_path / "d.pt").slots["w"]["exp_avg"].tolist() == [2, 2]
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(gan), "--optimizer-key", "optimizer_states.0", "--json"])
    assert stop.value.code == 0 and json.loads(capsys.readouterr().out)["step"] == 1


def test_a_key_for_a_format_of_one_optimizer():
    path = DATA / "mxnet" / "trainer_adam.states"
    with pytest.raises(
        OptexportError, match="files of the format mxnet hold one optimizer; leave the key 'a' out"
    ):
        ox.load(path, optimizer_key="a")


def test_several_optimizers_in_a_directory(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the directory")
    import torch.distributed.checkpoint as dcp

    held = {}
    for name, lr in (("generator", 0.1), ("critic", 0.2)):
        param = torch.nn.Parameter(torch.ones(3))
        opt = torch.optim.Adam([param], lr=lr)
        param.grad = torch.ones(3) * lr
        opt.step()
        held[name] = opt.state_dict()
    dcp.save(held, checkpoint_id=str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="holds 2 optimizers, under generator, critic"):
        ox.load(tmp_path / "a")
    state = ox.load(tmp_path / "a", optimizer_key="critic", names=["w"])
    assert state.spec.groups[0].hyperparameters["lr"] == 0.2


@pytest.mark.parametrize(
    ("fmt", "path"),
    [
        ("torch-dcp", DATA / "torch" / "adam.pt"),
        ("torch", DATA / "torch_dcp" / "adamw_fqn"),
        ("hf-trainer", DATA / "torch_dcp" / "adamw_fqn"),
        ("safetensors", DATA / "torch" / "adam.pt"),
        ("torch", DATA / "safetensors" / "adamw.safetensors"),
    ],
)
def test_a_format_that_the_file_is_not_of(fmt, path):
    with pytest.raises(CheckpointError) as caught:
        ox.load(path, format=fmt)
    message = str(caught.value)
    assert str(path) in message and ("expected" in message or "no safetensors file" in message)


@pytest.mark.parametrize("to", ["torch", "torch-dcp", "hf-trainer", "safetensors"])
@pytest.mark.parametrize(
    "source",
    [
        *("torch/adam_named.pt", "torch_dcp/adamw_fqn", "torch_dcp_2ranks/adamw_fqn_2ranks"),
        *("lightning/adamw_steplr.ckpt", "hf_trainer/checkpoint-3", "safetensors/adamw_bf16.safetensors"),
    ],
)
def test_every_format_becomes_every_other_on_the_command_line(tmp_path, capsys, source, to):
    target = tmp_path / ("out" if to in ("torch-dcp", "hf-trainer") else f"out.{to}")
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(DATA / source), str(target), "--to", to, "--json"])
    assert stop.value.code == 0 and json.loads(capsys.readouterr().out)["verdict"] == "exact"
    before, after = ox.load(DATA / source), ox.load(target)
    assert set(after.names) == set(before.names) and after.steps == before.steps
    for name, slots in before.slots.items():
        for slot, array in slots.items():
            assert after.slots[name][slot].dtype == array.dtype
            assert np.asarray(after.slots[name][slot]).tobytes() == np.asarray(array).tobytes()
