"""Bundles in shards: the same state, equal bytes, an index that stands last; and what they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.errors import CheckpointError
from optexport.state import bundle
from optexport.state.inspect import inspect
from optexport.state.store import detect, read_model
from tests.make_golden import state, state_with_buffers
from tests.state.test_bundle import equal

DATA = Path(__file__).parents[1] / "data"
# A file a version and form.
GOLDEN = sorted(p for p in (DATA / "golden").glob("bundle_v*") if "-of-" not in p.name)


def written(folder: Path, size: int = 100) -> Path:
    files = bundle.write(state(), str(folder / "big.safetensors"), shard_size=size)
    assert files[0] == str(folder / "big.safetensors.index.json")
    return Path(files[0])


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        bundle.read(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_state_comes_back_mapped(tmp_path: Path) -> None:
    index = written(tmp_path)
    equal(state(), bundle.read(str(index), verify=True))
    assert detect(str(index)) == "bundle"
    assert {n: a.tobytes() for n, a in read_model(str(index)).tensors.items()} == {
        n: a.tobytes() for n, a in state().params.items()
    }
    found = ox.load(index)
    assert not found.slots["fc.weight"]["exp_avg"].flags.owndata
    assert inspect(str(index)).tensors == inspect(str(DATA / "golden" / "bundle_v1.safetensors")).tensors


def test_names_sizes_and_order(tmp_path: Path) -> None:
    index = written(tmp_path)
    files = sorted(p.name for p in tmp_path.iterdir() if p != index)
    count = len(files)
    assert count > 2 and files == [f"big-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    listed = json.loads(index.read_text())
    assert list(listed) == ["metadata", "weight_map"] and list(listed["weight_map"].values()) == sorted(
        listed["weight_map"].values()
    )
    total = 0
    for name in files:
        tensors, meta = bundle.read_tensors(str(tmp_path / name))
        size = sum(a.nbytes for a in tensors.values())
        assert size <= 100 or len(tensors) == 1
        assert meta == {"optexport.index": index.name}
        total += size
    assert listed["metadata"]["total_size"] == total


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = written(tmp_path / "a"), written(tmp_path / "b")
    names = sorted(os.listdir(one.parent))
    assert names == sorted(os.listdir(two.parent))
    assert all((one.parent / n).read_bytes() == (two.parent / n).read_bytes() for n in names)


def test_a_small_state_is_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a.safetensors")
    assert ox.save(state(), path, format="bundle", shard_size=1 << 20) == [path]
    assert Path(path).read_bytes() == (DATA / "golden" / "bundle_v1.safetensors").read_bytes()


def test_the_format_library_opens_the_shards(tmp_path: Path) -> None:
    import safetensors

    index = written(tmp_path)
    expected = state().params["fc.weight"]
    name = json.loads(index.read_text())["weight_map"]["fc.weight"]
    with safetensors.safe_open(str(tmp_path / name), "numpy") as f:
        assert f.get_tensor("fc.weight").tobytes() == expected.tobytes()


def test_a_shard_alone_names_its_index(tmp_path: Path) -> None:
    index = written(tmp_path)
    shard = tmp_path / json.loads(index.read_text())["weight_map"]["fc.weight"]
    assert detect(str(shard)) == "bundle"
    assert f"is one shard of a bundle; open '{index.name}', which stands beside it" in refused(shard)


def test_an_index_that_stands_is_not_replaced(tmp_path: Path) -> None:
    index = written(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(
        CheckpointError, match="already exists; choose another name, or remove it and its shards first"
    ):
        written(tmp_path, 50)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    # Shards without an index are what a killed process left: they are written again.
    index.unlink()
    written(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_index_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = os.replace, 0

    def some(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, os.strerror(28))
        real(*args)

    monkeypatch.setattr(os, "replace", some)
    with pytest.raises(CheckpointError, match="no space left on device"):
        written(tmp_path)
    assert not list(tmp_path.glob("*.json")) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m["weight_map"].update({"emb": "../../etc/passwd"}), "expected files of its own folder, found '../../"),
        (lambda m: m.update(weight_map=dict.fromkeys(m["weight_map"], "gone.safetensors")), "which is not in its folder"),
        (lambda m: m["weight_map"].pop("emb"), "is in it and not listed"),
        (lambda m: m["weight_map"].update({"more": m["weight_map"]["emb"]}), "is not in it"),
        (lambda m: m.update(weight_map=[]), "expected 'weight_map'"),
        (lambda m: m["metadata"].pop("optexport"), "without optexport's manifest"),
        (lambda m: m["metadata"].update(optexport="{}"), "expected a Manifest with a format version"),
    ],
)  # fmt: skip
def test_an_index_that_lies(tmp_path: Path, change: Any, message: str) -> None:
    index = written(tmp_path)
    held = json.loads(index.read_text())
    change(held)
    index.write_text(json.dumps(held))
    said = refused(index)
    assert message in said and index.name in said


def test_shards_of_two_states(tmp_path: Path) -> None:
    """One shard of another state, with tensors of the same names and shapes: the sums tell."""
    index = written(tmp_path)
    shard = tmp_path / json.loads(index.read_text())["weight_map"]["fc.weight/exp_avg"]
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(CheckpointError, match="bytes do not have the manifest's sha256"):
        bundle.read(str(index), verify=True)


def test_convert_there_and_back(tmp_path: Path) -> None:
    source = DATA / "torch" / "adam_named.pt"
    done = convert(str(source), str(tmp_path / "a.safetensors"), shard_size=200)
    assert done.written[0] == str(tmp_path / "a.safetensors.index.json") and len(done.written) > 2
    whole = convert(str(source), str(tmp_path / "whole.safetensors")).written
    for name, made in (("a", done.written[0]), ("b", whole[0])):
        (tmp_path / name).mkdir()
        assert convert(made, str(tmp_path / name / "back.pt")).verdict == "exact"
    assert (tmp_path / "a" / "back.pt").read_bytes() == (tmp_path / "b" / "back.pt").read_bytes()


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_none(tmp_path: Path, size: int) -> None:
    with pytest.raises(CheckpointError, match=f"expected a shard size above 0, found {size}"):
        bundle.write(state(), str(tmp_path / "a.safetensors"), shard_size=size)


def test_only_bundles_have_shards(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="only a bundle"):
        convert(str(DATA / "torch" / "adam_named.pt"), str(tmp_path / "a.pt"), shard_size=100)


@pytest.mark.parametrize("version", GOLDEN, ids=lambda p: p.name)
def test_every_version_ever_published_opens(version: Path) -> None:
    """Golden files are added and never changed."""
    made = state_with_buffers() if version.name.startswith("bundle_v2") else state()
    equal(made, bundle.read(str(version), verify=True))


def test_every_version_has_a_golden_file() -> None:
    from optexport.schemas import FORMAT_VERSION

    for number in range(1, FORMAT_VERSION + 1):
        assert (DATA / "golden" / f"bundle_v{number}.safetensors").is_file()
        assert (DATA / "golden" / f"bundle_v{number}_sharded.safetensors.index.json").is_file()


def test_the_golden_shards_are_what_is_written_today(tmp_path: Path) -> None:
    golden = sorted((DATA / "golden").glob("bundle_v1_sharded*"))
    bundle.write(state(), str(tmp_path / "bundle_v1_sharded.safetensors"), shard_size=200)
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in golden]
    assert all((tmp_path / p.name).read_bytes() == p.read_bytes() for p in golden)


def test_sizes_on_the_command_line() -> None:
    import click

    from optexport.cli.convert import _bytes

    assert [_bytes(t) for t in ("5GB", "500mb", "1.5 KB", "12", "2T")] == [
        5 * 10**9,
        5 * 10**8,
        1500,
        12,
        2 * 10**12,
    ]
    for text in ("", "GB", "-1", "0", "5XB", "1e3"):
        with pytest.raises(click.BadParameter, match="expected a size as in 5GB"):
            _bytes(text)


def test_shapes_are_as_they_were(tmp_path: Path) -> None:
    large = {"w": np.zeros((3, 0), np.float32), "b": np.arange(5, dtype=np.float32)}
    made = ox.init(ox.spec("sgd", lr=0.1), large, dtype="float32")
    files = bundle.write(made, str(tmp_path / "a.safetensors"), shard_size=4)
    found = bundle.read(files[0])
    assert {n: (a.shape, a.tobytes()) for n, a in found.params.items()} == {
        n: (a.shape, a.tobytes()) for n, a in made.params.items()
    }
