"""A conversion that is killed, or that the disk fails, leaves the old file or the new one and the source untouched."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.errors import CheckpointError, OptexportError
from optexport.state import files
from optexport.state.formats import formats

DATA = Path(__file__).parents[1] / "data"
SOURCE = DATA / "torch" / "adam_named.pt"
# format -> (name of the target, optimizer). Every format that is written.
TARGETS = {
    "bundle": ("new.safetensors", None),
    "torch": ("new.pt", None),
    "torch-combined": ("new_run.pt", None),
    "torch-dcp": ("new_dcp", None),
    "hf-trainer": ("new_trainer", None),
    "safetensors": ("new.safetensors", None),
    "mxnet": ("new.states", "mxnet:Adam"),
    "optax": ("new.msgpack", "optax:adam"),
    "orbax": ("new_orbax", "optax:adam"),
    "keras": ("new.weights.h5", "keras:Adam"),
    "onnx": ("new.onnx", "onnx:Adam"),
    "mlx": ("new_mlx.safetensors", "mlx:Adam"),
    "mlx-npz": ("new.npz", "mlx:Adam"),
    "paddle": ("new.pdopt", "paddle:AdamW"),
    "onnxruntime-training": ("checkpoint", "onnxruntime:AdamWOptimizer"),
}


def _state(size: int = 40_000) -> ox.TrainingState:
    random_ = np.random.default_rng(1)
    arrays = {n: random_.standard_normal(size).astype(np.float32) for n in ("w", "b")}
    state = ox.init(ox.native("torch:AdamW", lr=1e-3), arrays, dtype="float32")
    return ox.step(state, arrays)


def _digest(path: Path) -> str | None:
    """Of a file, or of all files of a directory with their names; None where there is none."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        return None
    inside = sorted(p for p in path.rglob("*") if p.is_file())
    found = [(str(p.relative_to(path)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in inside]
    return repr(found)


def _convert(source: Path, fmt: str, folder: Path) -> Path:
    name, optimizer = TARGETS[fmt]
    target = folder / name
    convert(
        str(source), str(target), to_format=fmt, optimizers=(optimizer,) if optimizer else (), allow="lossy"
    )
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.safetensors"
    ox.save(_state(), path, format="bundle")
    return path


def _writable(fmt: str) -> bool:
    return fmt in formats(written=True)


def test_every_written_format_is_here() -> None:
    assert set(formats(written=True)) <= set(TARGETS)


# -- killed -----------------------------------------------------------------------------------------

# Forks for each kill, from a process that has imported all it needs and has made each format once.
_CHILD = """
import os, signal, sys, time
from pathlib import Path
from tests.state.test_whole_or_nothing import _convert
source = Path(sys.argv[1])
for line in sys.stdin:
    fmt, folder, seconds = line.rstrip().split("|")
    if not seconds:
        try:
            for again in ("0", "1"):
                start = time.perf_counter()
                Path(folder, again).mkdir(parents=True)
                _convert(source, fmt, Path(folder, again))
            print(time.perf_counter() - start, flush=True)
        except Exception as error:
            print(repr(error).replace(chr(10), " "), flush=True)
        continue
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _convert(source, fmt, Path(folder))
            code = 0
        finally:
            os._exit(code)
    time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class _Converter:
    """Conversions in processes that can be killed. Use as a context."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def __enter__(self) -> _Converter:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _CHILD, str(self._source)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, fmt: str, folder: Path, seconds: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{fmt}|{folder}|{seconds}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def whole(self, fmt: str, folder: Path) -> float:
        """Two conversions to their end, into ``folder / "0"`` and ``"1"``; seconds of the second."""
        said = self._ask(fmt, folder, "")
        try:
            return float(said)
        except ValueError:
            raise AssertionError(said) from None

    def killed(self, fmt: str, folder: Path, after: float) -> int:
        """One conversion, killed after so many seconds; how it ended."""
        return int(self._ask(fmt, folder, str(after)))


@pytest.fixture(scope="module")
def converter(source: Path) -> Iterator[_Converter]:
    with _Converter(source) as server:
        yield server


# The formats whose writer needs a library beside NumPy.
_LIBRARIES = {"keras": "h5py", "optax": "msgpack"}
# Most where a person has most to lose; of each other format, FEWEST.
KILLS = {"bundle": 40, "torch": 40, "torch-dcp": 20}
FEWEST = 12


def _emptied(target: Path) -> None:
    for path in sorted(target.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if target.exists():
        target.rmdir()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("fmt", TARGETS)
def test_killed_at_any_moment(source: Path, tmp_path: Path, fmt: str, converter: _Converter) -> None:
    if not _writable(fmt):
        pytest.skip(f"{fmt} is not written here")
    if fmt in _LIBRARIES:
        pytest.importorskip(_LIBRARIES[fmt])
    name, _ = TARGETS[fmt]
    before = _digest(source)
    seconds = converter.whole(fmt, tmp_path / "warm")
    whole = tmp_path / "warm" / "0" / name
    expected, directory = _digest(whole), whole.is_dir()
    # What a format writes beside the file that it is opened by: shards, external data.
    beside = {p.name for p in whole.parent.iterdir()} - {name}
    old = b"the file that stood there before"
    target = tmp_path / name
    kills = KILLS.get(fmt, FEWEST)
    chance, killed, seen = random.Random(7), 0, {"old": 0, "new": 0}
    for _ in range(kills):
        if directory:
            _emptied(target)
        else:
            target.write_bytes(old)
        status = converter.killed(fmt, tmp_path, chance.random() * seconds * 1.3)
        killed += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or status == 0
        if _digest(target) == expected:
            seen["new"] += 1
        else:
            assert _digest(target) is None if directory else target.read_bytes() == old
            seen["old"] += 1
    assert killed > kills // 2 and seen["old"] > 0
    # What is left over has no name that a result has, and the next writing removes what is old enough.
    left = [p for p in tmp_path.iterdir() if p.name not in ("warm", name, *beside)]
    stems = (name, *beside)
    assert all(p.name.startswith(tuple(f".{s}." for s in stems)) and p.name.endswith(".part") for p in left)
    for path in left:
        os.utime(path, (1, 1))
    if target.is_dir():
        target.rename(tmp_path / "warm" / "last")
    made = _convert(source, fmt, tmp_path)
    assert _digest(made) == expected
    assert {p.name for p in tmp_path.iterdir()} == {"warm", name, *beside}
    assert _digest(source) == before


def test_the_kills_are_at_least_two_hundred() -> None:
    here = [f for f in formats(written=True) if f in TARGETS and f not in _LIBRARIES]
    assert sum(KILLS.get(f, FEWEST) for f in here) >= 200


def test_an_attempt_of_somebody_at_work_is_left_alone(tmp_path: Path) -> None:
    with files.whole_or_nothing(tmp_path / "a.pt") as mine:
        mine.write(b"mine")
        (part,) = tmp_path.iterdir()
        os.utime(part, (1, 1))
        for _ in range(2):
            with files.whole_or_nothing(tmp_path / "a.pt") as other:
                other.write(b"other")
        assert part.exists()
        (tmp_path / ".a.pt.notes.part").write_bytes(b"a person's")
        os.utime(tmp_path / ".a.pt.notes.part", (1, 1))
    with files.whole_or_nothing_directory(tmp_path / "d") as made:
        os.utime(made, (1, 1))
        with files.whole_or_nothing_directory(tmp_path / "d"):
            pass
        (tmp_path / "d").rmdir()
        assert made.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.pt.notes.part", "a.pt", "d"]
    assert (tmp_path / "a.pt").read_bytes() == b"mine"


# -- the disk ---------------------------------------------------------------------------------------


def _failing(code: int, after: int) -> Iterator[Any]:
    """Calls of which each but the first few fails."""
    count = 0

    def call(real: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return call  # type: ignore[return-value]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("fmt", TARGETS)
def test_a_disk_that_refuses(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str, code: int
) -> None:
    """Flushing is where the system says it last; every writer comes by."""
    if not _writable(fmt):
        pytest.skip(f"{fmt} is not written here")
    before = _digest(source)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _partial(_failing(code, 0), os.fsync))
        with pytest.raises(CheckpointError) as caught:
            _convert(source, fmt, tmp_path)
    name, _ = TARGETS[fmt]
    assert name in str(caught.value) and f"cannot be written: {os.strerror(code).lower()}" in str(
        caught.value
    )
    assert list(tmp_path.iterdir()) == [] and _digest(source) == before


def _partial(call: Any, real: Any) -> Any:
    return lambda *args, **kwargs: call(real, *args, **kwargs)


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from optexport.errors import CheckpointError
from tests.state.test_whole_or_nothing import _convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for fmt in sys.argv[3:]:
    folder = Path(sys.argv[2]) / fmt
    folder.mkdir()
    try:
        _convert(Path(sys.argv[1]), fmt, folder)
        print(fmt, "was written")
    except CheckpointError as error:
        print(fmt, "refused", str(error).replace(chr(10), " "))
    except BaseException as error:
        print(fmt, "foreign", type(error).__name__, error)
"""


def test_a_file_that_may_not_grow(source: Path, tmp_path: Path) -> None:
    """As a full disk: the system's own calls fail in the middle, those of libraries in C as well."""
    wanted = [f for f in TARGETS if _writable(f)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LIMITED, str(source), str(tmp_path), *wanted],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    for fmt in wanted:
        assert said.get(fmt, "").startswith("refused"), (fmt, said.get(fmt), done.stderr[-2000:])
        assert TARGETS[fmt][0] in said[fmt], said[fmt]
        assert list((tmp_path / fmt).iterdir()) == [], fmt


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("fmt", TARGETS)
def test_a_folder_that_may_not_be_written(source: Path, tmp_path: Path, fmt: str) -> None:
    if not _writable(fmt):
        pytest.skip(f"{fmt} is not written here")
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="permission denied"):
        _convert(source, fmt, tmp_path)


@pytest.mark.parametrize("fmt", TARGETS)
def test_a_folder_that_is_not_there(source: Path, tmp_path: Path, fmt: str) -> None:
    if not _writable(fmt):
        pytest.skip(f"{fmt} is not written here")
    with pytest.raises(CheckpointError, match="no such file or directory"):
        _convert(source, fmt, tmp_path / "missing")


# -- the source -------------------------------------------------------------------------------------


def test_a_source_that_becomes_shorter_while_it_is_read(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(source.read_bytes())
    state = ox.load(copy)
    size = copy.stat().st_size
    os.truncate(copy, size // 2)
    for fmt, target in (("bundle", "a.safetensors"), ("torch", "a.pt")):
        with pytest.raises(CheckpointError) as caught:
            ox.save(state, tmp_path / target, format=fmt)
        assert f"had {size} bytes when it was opened and has {size // 2} now" in str(caught.value)
        assert "copy.safetensors" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["copy.safetensors"]


def test_a_read_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files.mmap, "mmap", refused)
    with pytest.raises(OptexportError, match="cannot be read: input/output error"):
        files.map_file(SOURCE)
