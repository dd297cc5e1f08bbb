"""A checkpoint with weights and optimizer in one file, as training scripts save it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.errors import CheckpointError

torch = pytest.importorskip("torch")

SHAPES = {"0.weight": (3, 4), "0.bias": (3,)}


def bundle(folder: Path, *, weights: bool) -> Path:
    rng = np.random.default_rng(3)
    params = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    state = ox.init(ox.native("torch:AdamW", lr=1e-2), params, dtype="float32")
    state = ox.step(state, params)
    if not weights:
        state = ox.TrainingState(state.spec, {}, state.slots, state.steps, dtype="float32")
    ox.save(state, folder / "run.safetensors", format="bundle")
    return folder / "run.safetensors"


def test_torch_loads_both_and_they_read_back_bit_for_bit(tmp_path: Path) -> None:
    source, target = bundle(tmp_path, weights=True), tmp_path / "run.pt"
    done = convert(str(source), str(target), to_format="torch-combined")
    assert done.verdict == "exact"
    held = torch.load(target, weights_only=True)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    model.load_state_dict(held["model"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(held["optimizer"])
    before, after = ox.load(source), ox.load(target)
    assert float(optimizer.state[model[0].weight]["step"]) == 1
    assert optimizer.param_groups[0]["lr"] == 1e-2
    for name in SHAPES:
        assert after.params[name].tobytes() == before.params[name].tobytes()
        assert model.state_dict()[name].numpy().tobytes() == before.params[name].tobytes()
        for slot, value in before.slots[name].items():
            assert after.slots[name][slot].tobytes() == value.tobytes()


def test_state_without_weights_is_refused_and_nothing_written(tmp_path: Path) -> None:
    source, target = bundle(tmp_path, weights=False), tmp_path / "run.pt"
    with pytest.raises(CheckpointError, match="a combined file was asked for and there are no weights"):
        convert(str(source), str(target), to_format="torch-combined")
    assert not target.exists()
