"""Directories of torch.distributed.checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from optexport.converters.torch.checkpoint import read
from optexport.errors import CheckpointError
from optexport.state.native import NativeGroup

from .making import DATA, dcp, refused


def copied(tmp_path: Path, name: str = "torch_dcp/adamw_fqn") -> Path:
    target = tmp_path / "dcp"
    shutil.copytree(DATA / name, target)
    return target


def changed(folder: Path, old: bytes, new: bytes) -> None:
    raw = (folder / ".metadata").read_bytes()
    assert old in raw and len(old) == len(new)
    (folder / ".metadata").write_bytes(raw.replace(old, new))


@pytest.mark.parametrize("name", [b"../_0.distcp", b"/__0.distcp/", b"C:_0_0.distc"])
def test_dcp_files_outside_the_directory_are_refused(tmp_path, name):
    folder = copied(tmp_path)
    changed(folder, b"__0_0.distcp", name)
    assert "is not inside the directory; refused" in refused(folder)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_dcp_links_are_refused(tmp_path):
    folder = copied(tmp_path)
    (folder / "__0_0.distcp").rename(tmp_path / "real")
    (folder / "__0_0.distcp").symlink_to(tmp_path / "real")
    assert "is a symbolic link; refused" in refused(folder)


def test_dcp_files_that_are_missing_or_short(tmp_path):
    folder = copied(tmp_path)
    raw = (folder / "__0_0.distcp").read_bytes()
    for part in range(20):
        (folder / "__0_0.distcp").write_bytes(raw[: len(raw) * part // 20])
        refused(folder)
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        read(folder)


def test_dcp_index_truncated_anywhere(tmp_path):
    folder = copied(tmp_path, "torch_dcp_2ranks/adamw_fqn_2ranks")
    raw = (folder / ".metadata").read_bytes()
    for part in range(20):
        (folder / ".metadata").write_bytes(raw[: len(raw) * part // 20])
        refused(folder)


def test_dcp_index_may_not_run_code(tmp_path):
    folder = copied(tmp_path)
    (folder / ".metadata").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    assert "os.system, which is not on the closed list" in refused(folder)


def test_dcp_chunks_are_assembled(tmp_path):
    state = read(dcp(tmp_path / "a", (3, 4), [((0, 0), (3, 1)), ((0, 1), (2, 3)), ((2, 1), (1, 3))]))
    assert state.slots["w"]["m"].tolist() == [[3, 6, 6, 6], [3, 6, 6, 6], [3, 3, 3, 3]]
    assert state.groups == [NativeGroup({"lr": 0.1}, ["w"])] and state.named


@pytest.mark.parametrize(
    "chunks, why",
    [
        ([((0,), (3,))], "do not cover its shape (4,) exactly"),
        ([((0,), (2,)), ((1,), (2,))], "overlap"),
        ([((0,), (2,)), ((3,), (2,))], "do not cover"),
        ([], "do not cover"),
    ],
)
def test_dcp_chunks_must_tile_their_tensor(tmp_path, chunks, why):
    assert why in refused(dcp(tmp_path / "a", (4,), chunks))


def test_dcp_items_cannot_share_bytes(tmp_path):
    """Else a small file would say that it holds a large checkpoint."""
    chunks = [((0,), (2,)), ((2,), (2,))]
    assert read(dcp(tmp_path / "a", (4,), chunks)).slots["w"]["m"].tolist() == [2, 2, 2, 2]
    assert "two items share bytes" in refused(dcp(tmp_path / "b", (4,), chunks, shared=True))
