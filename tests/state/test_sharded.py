"""Weights in several files behind an index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import optexport as ox
from optexport.errors import CheckpointError
from optexport.state.store import read_model

PARTS = {
    "m-1.safetensors": {"b": np.arange(3.0), "a": np.ones((2, 3))},
    "m-2.safetensors": {"c": np.zeros(4)},
}


def written(folder: Path, listed: dict | None = None) -> str:
    for name, tensors in PARTS.items():
        save_file(tensors, folder / name)
    if listed is None:
        listed = {n: f for f, tensors in PARTS.items() for n in tensors}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return str(path)


def test_all_files_are_read_and_name_the_parameters(tmp_path):
    path = written(tmp_path)
    weights = read_model(path)
    assert {n: a.tolist() for n, a in weights.tensors.items()} == {
        n: a.tolist() for tensors in PARTS.values() for n, a in tensors.items()
    }
    assert not weights.ordered
    state = ox.init(ox.native("torch:Adam"), {n: a for t in PARTS.values() for n, a in t.items()})
    ox.save(state, tmp_path / "run.pt", format="torch")
    assert set(ox.load(tmp_path / "run.pt", model=path).params) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({}, "expected 'weight_map', from tensors to files, found none"),
        ({"a": 1}, "expected 'weight_map', from tensors to files, found none"),
        ({"a": "../m-1.safetensors"}, "expected files of its own folder, found '../m-1.safetensors'"),
        ({"a": "/etc/passwd"}, "expected files of its own folder, found '/etc/passwd'"),
        ({"a": "link.safetensors"}, "expected files of its own folder, found 'link.safetensors'"),
        ({"a": "m-3.safetensors"}, "lists 'm-3.safetensors', which is not in its folder"),
        ({"a": "m-1.safetensors"}, "tensor 'b' is in it and not listed; the files are of different saves"),
        ({"c": "m-2.safetensors", "d": "m-2.safetensors"}, "tensor 'd' is not in it; the files are of different saves"),
    ],
)  # fmt: skip
def test_an_index_that_lies(tmp_path, listed, message):
    folder = tmp_path / "model"
    folder.mkdir()
    path = written(folder, listed)
    save_file(PARTS["m-1.safetensors"], tmp_path / "m-1.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "m-1.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_model(path)
    assert str(caught.value) == f"{path}: {str(caught.value).removeprefix(f'{path}: ')}" and message in str(
        caught.value
    )


@pytest.mark.parametrize("data", [b"", b"[]", b"[" * 100_000, b"\xff\xfe"])
def test_no_index(tmp_path, data):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="expected"):
        read_model(str(path))
