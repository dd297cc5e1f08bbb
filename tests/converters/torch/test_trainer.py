"""Checkpoint folders of Hugging Face' Trainer: names of two groups, and folders that are resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.torch.checkpoint import FORMATS
from optexport.errors import CheckpointError, NamingError
from optexport.state.native import NativeState, Weights
from optexport.state.safetensors import write_tensors

from .making import DATA, digest

FORMAT = next(f for f in FORMATS if f.name == "hf-trainer")
FOLDER = DATA / "hf_trainer" / "checkpoint-3"
SAMPLE = json.loads((DATA / "hf_trainer" / "expected.json").read_text())["samples"][0]


def read(path: Path, **options: Any) -> NativeState:
    assert FORMAT.read is not None
    return FORMAT.read(str(path), **options)


def weights(path: Path) -> Weights:
    assert FORMAT.read_weights is not None
    return FORMAT.read_weights(str(path))


def write(state: NativeState, path: Path) -> None:
    assert FORMAT.write is not None
    FORMAT.write(state, str(path))


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def copied(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER, tmp_path / "checkpoint-3")
    return tmp_path / "checkpoint-3"


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        write_tensors(file, str(path), tensors, {"format": "pt"})


# -- reading ----------------------------------------------------------------------------------------


def test_the_sample_is_read_to_the_bit_with_names():
    assert FORMAT.sniff(str(FOLDER))
    state = read(FOLDER)
    assert state.named and state.optimizer == "AdamW" and state.warnings == []
    assert [group.params for group in state.groups] == [
        ["fc1.weight", "fc2.weight"],
        ["fc1.bias", "fc2.bias"],
    ]
    found = {(key, slot): array for key, slots in state.slots.items() for slot, array in slots.items()}
    for want in SAMPLE["state"]:
        array = found.pop((want["param"], want["slot"]))
        assert (list(array.shape), array.dtype.name) == (want["shape"], want["dtype"])
        assert digest(array) == want["sha256"]
    assert not found
    assert {n: digest(a) for n, a in state.weights.items()} == {
        w["param"]: w["sha256"] for w in SAMPLE["weights"]
    }
    assert set(state.steps.values()) == {3}
    for group, want in zip(state.groups, SAMPLE["hyperparameters"]["param_groups"], strict=True):
        assert group.arguments == {**want, "betas": tuple(want["betas"])}
    assert state.extras["trainer_state"]["global_step"] == 3 and "lr_lambdas" in state.extras["lr_scheduler"]


def trained(torch: Any, model: Any, folder: Path, groups: list[list[str]], kind: str = "AdamW") -> Any:
    """An optimizer of ``model`` in these groups, after two steps, saved as optimizer.pt."""
    named = dict(model.named_parameters())
    given = [
        {"params": [named[n] for n in names], "weight_decay": 0.1 * (i == 0)}
        for i, names in enumerate(groups)
    ]
    opt = getattr(torch.optim, kind)(given, lr=0.01)
    step(torch, named, opt, 1)
    folder.mkdir(exist_ok=True)
    torch.save(opt.state_dict(), folder / "optimizer.pt")
    return opt


def step(torch: Any, named: dict[str, Any], opt: Any, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    for _ in range(2):
        for param in named.values():
            param.grad = torch.randn(param.shape, generator=source)
        opt.step()


def square(torch: Any) -> Any:
    """Layers of one shape, which only order tells apart, and a norm whose name does not say that it is one."""
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    for name, layer in (
        ("zeta", torch.nn.Linear(6, 6)),
        ("ln", torch.nn.LayerNorm(6)),
        ("alpha", torch.nn.Linear(6, 6)),
    ):
        model.add_module(name, layer)
    return model


GROUPS = [["zeta.weight", "alpha.weight"], ["zeta.bias", "ln.weight", "ln.bias", "alpha.bias"]]


def test_one_shape_twice_is_left_unnamed_and_asked_about(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the folder")
    from safetensors.torch import save_file

    model, folder = square(torch), tmp_path / "a"
    trained(torch, model, folder, GROUPS)
    save_file(model.state_dict(), folder / "model.safetensors")
    state = read(folder)
    assert not state.named and [g.params for g in state.groups] == [["0", "1"], ["2", "3", "4", "5"]]
    assert "model.safetensors cannot be told apart" in state.warnings[-1]
    assert "safetensors does not keep the model's order" in state.warnings[-1]
    with pytest.raises(NamingError, match=r"may be alpha\.weight or zeta\.weight; only order"):
        ox.load(folder)
    # The same folder, with the order said: by a list, or by weights that keep it.
    names = [name for group in GROUPS for name in group]
    listed = ox.load(folder, names=names)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    ordered = ox.load(folder)
    assert list(ordered.names) == list(listed.names) == names
    assert ordered.ordered_names == [name for name, _ in model.named_parameters()]
    for name in names:
        assert np.array_equal(ordered.slots[name]["exp_avg"], listed.slots[name]["exp_avg"])


def test_a_norm_is_told_by_its_shape_where_its_name_is_silent(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the folder")
    model, folder = square(torch), tmp_path / "a"
    opt = trained(torch, model, folder, GROUPS)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    state = read(folder)
    assert [group.params for group in state.groups] == GROUPS
    named = dict(model.named_parameters())
    for name, param in named.items():
        assert np.array_equal(state.slots[name]["exp_avg"], opt.state[param]["exp_avg"].numpy())


def test_groups_that_no_way_of_parting_gives_stay_unnamed(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the folder")
    model, folder = square(torch), tmp_path / "a"
    trained(torch, model, folder, [["zeta.bias", "zeta.weight"], ["alpha.weight", "ln.weight", "ln.bias"]])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    state = read(folder)
    assert not state.named and "cannot be told apart by groups, counts and shapes" in state.warnings[-1]


def test_tied_weights_and_buffers_are_no_parameters_of_their_own(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the folder")
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 5))
    model[2].weight = model[0].weight
    folder = tmp_path / "a"
    trained(torch, model, folder, [["0.weight", "1.weight"], ["1.bias", "2.bias"]])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert list(torch.load(folder / "pytorch_model.bin"))[-2:] == ["2.weight", "2.bias"]
    state = read(folder)
    assert [group.params for group in state.groups] == [["0.weight", "1.weight"], ["1.bias", "2.bias"]]


def test_shards_with_an_index(tmp_path):
    folder = copied(tmp_path)
    whole = weights(folder).tensors
    (folder / "model.safetensors").unlink()
    files = {"fc1.weight": "model-00001-of-00002.safetensors", "fc1.bias": "model-00001-of-00002.safetensors"}
    files |= {
        "fc2.weight": "model-00002-of-00002.safetensors",
        "fc2.bias": "model-00002-of-00002.safetensors",
    }
    for file in set(files.values()):
        save_tensors(folder / file, {n: whole[n] for n, f in files.items() if f == file})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    state = read(folder)
    assert state.named and sorted(state.weights) == sorted(whole)
    for name, array in whole.items():
        assert np.array_equal(state.weights[name], array)
    assert FORMAT.sniff(str(folder))

    index.write_text(json.dumps({"weight_map": {**files, "fc3.weight": "model-00002-of-00002.safetensors"}}))
    assert "lacks fc3.weight; the shards are of different saves" in refused(folder)
    index.write_text(json.dumps({"weight_map": {k: v for k, v in files.items() if k != "fc1.bias"}}))
    assert "holds fc1.bias, which is not listed there" in refused(folder)
    index.write_text(json.dumps({"weight_map": {**files, "fc1.bias": "../other.safetensors"}}))
    assert "../other.safetensors is not inside the directory; refused" in refused(folder)
    index.write_text(json.dumps({"weight_map": []}))
    assert "expected weight_map, from tensor to file, found" in refused(folder)
    index.write_text("[" * 100_000)
    assert "expected JSON, found other bytes" in refused(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": files}))
    assert "model-00001-of-00002.safetensors: no such file" in refused(folder)


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "trainer_state.json", "scheduler.pt"])
def test_links_are_refused(tmp_path, name):
    folder = copied(tmp_path)
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    assert f"{name} is a symbolic link; refused" in refused(folder)


def test_a_folder_without_an_optimizer(tmp_path):
    folder = copied(tmp_path)
    (folder / "optimizer.pt").unlink()
    assert not FORMAT.sniff(str(folder)) and not FORMAT.sniff(str(tmp_path / "none"))
    assert "has no optimizer.pt; expected a checkpoint folder of Trainer" in refused(folder)
    assert sorted(weights(folder).tensors) == ["fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"]
    with pytest.raises(CheckpointError, match=r"holds no weights; expected model\.safetensors"):
        weights(tmp_path)


def test_the_step_of_the_run_is_taken_where_the_optimizer_counts_none(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the folder")
    model, folder = square(torch), tmp_path / "a"
    named = dict(model.named_parameters())
    opt = torch.optim.SGD([{"params": [named[n] for n in names]} for names in GROUPS], lr=0.1, momentum=0.9)
    step(torch, named, opt, 1)
    folder.mkdir()
    torch.save(opt.state_dict(), folder / "optimizer.pt")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "trainer_state.json").write_text('{"global_step": 2}')
    assert set(read(folder).steps.values()) == {2}
    (copied(tmp_path) / "trainer_state.json").write_text('{"global_step": 5, "log_history": []}')
    state = read(tmp_path / "checkpoint-3")
    assert set(state.steps.values()) == {3}
    assert "says 5 steps, the optimizer counts 3; the optimizer's count is taken" in state.warnings[-1]


# -- writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["hf-trainer", "torch-dcp", "safetensors", "bundle"])
def test_the_optimizer_goes_on_exactly_after_a_way_through(tmp_path, through):
    torch = pytest.importorskip("torch", reason="compares with the real optimizer")
    model, folder = square(torch), tmp_path / "a"
    opt = trained(torch, model, folder, GROUPS)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    ox.save(ox.load(folder), tmp_path / "between", format=through)
    ox.save(ox.load(tmp_path / "between"), tmp_path / "ours", format="hf-trainer")
    twin = square(torch)
    twin.load_state_dict(model.state_dict())
    named, theirs = dict(twin.named_parameters()), dict(model.named_parameters())
    # As Trainer makes it and loads into it.
    other = torch.optim.AdamW([{"params": [named[n] for n in names]} for names in GROUPS], lr=1.0)
    other.load_state_dict(torch.load(tmp_path / "ours" / "optimizer.pt", weights_only=True))
    assert [g["weight_decay"] for g in other.param_groups] == [0.1, 0.0]
    step(torch, theirs, opt, 2)
    step(torch, named, other, 2)
    assert all(torch.equal(named[name], param) for name, param in theirs.items())
    said = json.loads((tmp_path / "ours" / "trainer_state.json").read_text())
    assert said["global_step"] == 2
    again = ox.load(tmp_path / "ours")
    assert [list(g.params or ()) for g in again.spec.groups] == GROUPS


def test_one_group_is_parted_as_trainer_has_it(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with the real optimizer")
    ox.save(ox.load(DATA / "torch_dcp" / "adamw_fqn"), tmp_path / "optimizer.pt", format="hf-trainer")
    held = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert [g["param_names"] for g in held["param_groups"]] == [
        ["fc1.weight", "fc2.weight"],
        ["fc1.bias", "fc2.bias"],
    ]
    assert [g["params"] for g in held["param_groups"]] == [[0, 1], [2, 3]]
    # Each parameter keeps what it had: the decay of the file is not Trainer's.
    assert [g["weight_decay"] for g in held["param_groups"]] == [0.01, 0.01]
    before = read_slots(DATA / "torch_dcp" / "adamw_fqn")
    names = [name for g in held["param_groups"] for name in g["param_names"]]
    for position, name in enumerate(names):
        assert np.array_equal(held["state"][position]["exp_avg"].numpy(), before[name]["exp_avg"])


def read_slots(path: Path) -> Any:
    return ox.load(path).slots


def test_groups_that_trainer_cannot_have(tmp_path):
    state = read(FOLDER)
    first = state.groups[0]
    first.arguments["weight_decay"] = 0.0
    state.groups[0].params = ["fc1.weight", "fc1.bias"]
    state.groups[1].params = ["fc2.weight", "fc2.bias"]
    state.groups[1].arguments["lr"] = 0.5
    with pytest.raises(
        CheckpointError, match=r"'fc1\.weight' and 'fc2\.weight' both decay in Trainer"
    ) as caught:
        write(state, tmp_path / "a")
    assert "write the format torch" in str(caught.value)
    state.named = False
    with pytest.raises(CheckpointError, match="parameters have no names; Trainer's groups follow from them"):
        write(state, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_written_whole_and_over_nothing(tmp_path):
    state = read(FOLDER)
    write(state, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        *("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
    ]
    again = read(tmp_path / "a")
    assert again.slots.keys() == state.slots.keys()
    for key, slots in state.slots.items():
        assert all(again.slots[key][slot].tobytes() == array.tobytes() for slot, array in slots.items())
    with pytest.raises(CheckpointError, match="already exists and is not an empty directory"):
        write(state, tmp_path / "a")
    state.slots["fc1.bias"]["exp_avg"] = np.empty(16, "S3")
    with pytest.raises(CheckpointError, match="PyTorch has no dtype"):
        write(state, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_trainer_itself_resumes(tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with the real Trainer")
    pytest.importorskip("accelerate", reason="Trainer needs it")
    import torch

    class Data(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> dict[str, Any]:
            source = torch.Generator().manual_seed(index)
            return {"x": torch.randn(6, generator=source), "labels": torch.randn(6, generator=source)}

    class Model(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = square(torch)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            y = self.net(x)
            return {"loss": ((y - labels) ** 2).mean(), "logits": y}

    def run(out: Path, resume: Path | None = None) -> list[Any]:
        arguments = transformers.TrainingArguments(
            str(out), max_steps=6, per_device_train_batch_size=4, save_steps=3, learning_rate=1e-2, weight_decay=0.1,
            use_cpu=True, report_to=[], seed=1, data_seed=1, disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(model=Model(), args=arguments, train_dataset=Data())
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return list(trainer.model.parameters())

    whole = run(tmp_path / "a")
    source, ours = tmp_path / "a" / "checkpoint-3", tmp_path / "ours"
    torch.manual_seed(0)
    names = [f"net.{name}" for group in GROUPS for name in group]
    ox.save(ox.load(source, names=names), tmp_path / "between", format="torch-dcp")
    shutil.copytree(source, ours)
    ox.save(ox.load(tmp_path / "between"), ours / "optimizer.pt", format="hf-trainer")
    assert (ours / "optimizer.pt").read_bytes() != (source / "optimizer.pt").read_bytes()
    assert all(map(torch.equal, whole, run(tmp_path / "b", ours)))
    # The comparison can fail: other moments give other weights.
    held = torch.load(ours / "optimizer.pt", weights_only=True)
    held["state"][0]["exp_avg"].mul_(2)
    torch.save(held, ours / "optimizer.pt")
    assert not all(map(torch.equal, whole, run(tmp_path / "c", ours)))
