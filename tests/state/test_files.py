"""Files are mapped without surprises and written whole or not at all."""

from __future__ import annotations

import os
import sys

import pytest

from optexport.errors import CheckpointError
from optexport.state.files import map_file, whole_or_nothing, whole_or_nothing_directory


def test_a_mapped_file_is_read_only_and_outlives_its_name(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"hello")
    view = map_file(path)
    assert bytes(view) == b"hello" and view.readonly
    if sys.platform != "win32":
        path.unlink()
        assert bytes(view) == b"hello"


def test_an_empty_file_is_an_empty_view(tmp_path):
    (tmp_path / "a.bin").touch()
    assert len(map_file(tmp_path / "a.bin")) == 0


def test_what_cannot_be_mapped_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: no such file"):
        map_file(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a directory; expected a file"):
        map_file(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        map_file("bad\0name")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        map_file(tmp_path / "pipe")


def test_a_finished_block_replaces_the_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with whole_or_nothing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), whole_or_nothing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_an_exception_leaves_no_new_file(tmp_path):
    with pytest.raises(ValueError), whole_or_nothing(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise ValueError
    assert os.listdir(tmp_path) == []


def test_disk_errors_are_checkpoint_errors(tmp_path):
    with (
        pytest.raises(CheckpointError, match="cannot be written: no space left"),
        whole_or_nothing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(CheckpointError, match="cannot be written"), whole_or_nothing(tmp_path / "no" / "a"):
        pass
    with pytest.raises(CheckpointError, match="is a directory"), whole_or_nothing(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    with whole_or_nothing(tmp_path / "a") as file:
        file.write(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with whole_or_nothing_directory(tmp_path / "d") as folder:
        (folder / "one").write_bytes(b"1")
        assert not (tmp_path / "d").exists()
    assert (tmp_path / "d" / "one").read_bytes() == b"1"
    with pytest.raises(KeyboardInterrupt), whole_or_nothing_directory(tmp_path / "e") as folder:
        (folder / "one").write_bytes(b"1")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["d"]
    with (
        pytest.raises(CheckpointError, match="already exists and is not an empty directory"),
        whole_or_nothing_directory(tmp_path / "d"),
    ):
        pass
    (tmp_path / "empty").mkdir()
    with whole_or_nothing_directory(tmp_path / "empty") as folder:
        (folder / "one").write_bytes(b"1")
    assert (tmp_path / "empty" / "one").exists()
