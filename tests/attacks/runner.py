"""Opens hostile files, each in a process of its own that is watched.

A server, because a new interpreter for every file would take seconds: it imports the readers once and
forks for each request, a line of JSON on its standard input; the answer is a line on its output.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.attack import SECRET

__all__ = ["LONGEST", "MOST", "WAYS", "Outcome", "Runner"]

MOST = 1 << 30  # bytes of memory
LONGEST = 10.0  # seconds
WAYS = ("read", "load", "inspect", "weights")
_POLL = 0.02
# Nothing that reads a file needs any of these.
_FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile"),
    *("subprocess.Popen", "pty.spawn", "pickle.find_class", "socket.", "ctypes.dlopen"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil."),
)


@dataclass
class Outcome:
    """How it went.

    said: what was done to the file ("read", "load", "inspect", "weights") -> the message, None where it
        was accepted. foreign: errors of other types, and where they were raised.
    done: forbidden things that were done. peak: bytes. seconds: of the slowest way, of a processor of its own.
    ended: what killed the process, None if nothing.
    """

    said: dict[str, str | None] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    peak: int = 0
    seconds: float = 0.0
    ended: str | None = None

    def faults(self) -> list[str]:
        """What no file may bring about."""
        out = [*self.foreign, *self.done]
        if self.ended is not None:
            out.append(self.ended)
        if self.peak > MOST:
            out.append(f"took {self.peak >> 20} MiB of memory")
        if self.seconds > LONGEST:
            out.append(f"took {self.seconds:.1f} s")
        return out


class Runner:
    """The server, from the side of the test. Use as a context."""

    def __enter__(self) -> Runner:
        self._start()
        return self

    def _start(self) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.runner"],
            cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def open(self, path: Path, format: str | None = None, ways: Sequence[str] = WAYS) -> Outcome:
        """Open ``path`` in each of these ways."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), format, list(ways)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait(30)
            self._process.stdin.close()
            self._process.stdout.close()
            self._start()
            raise RuntimeError(f"the server ended with {code} at {path}")
        return Outcome(**json.loads(line))


# -- the server -------------------------------------------------------------------------------------


def _serve() -> None:
    _warm()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(vars(_forked(*json.loads(line)))) + "\n")
        answers.flush()


def _warm() -> None:
    """Import what reading needs, so that nothing is imported, and so opened, under watch."""
    import importlib

    from optexport.state import store

    for module in ("h5py", "msgpack", "safetensors.numpy", "google.protobuf.json_format", "onnx", "flatbuffers",
                   "zstandard", "json", "zipfile", "zlib", "optexport.state.inspect"):  # fmt: skip
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    data = Path(__file__).parents[1] / "data"
    # Not Orbax' folders: tensorstore, once used, refuses to be forked.
    for folder in sorted(f for f in data.iterdir() if f.is_dir() and f.name != "orbax"):
        for path in sorted(folder.iterdir())[:40]:
            _open_all(str(path), None, WAYS, Outcome())
    store.formats()


def _forked(path: str, fmt: str | None, ways: Sequence[str]) -> Outcome:
    read, write = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        _watched(path, fmt, ways, write)
    os.close(write)
    ended, raw, over = None, b"", False
    peak = 0
    while not over:
        ready, _, _ = select.select([read], [], [], _POLL)
        if ready:
            piece = os.read(read, 1 << 16)
            over = not piece
            raw += piece
        peak = max(peak, _memory(child))
        if peak > MOST * 3 // 2 or time.monotonic() - start > LONGEST * 6:
            ended = "killed: took too much time or memory"
            os.kill(child, signal.SIGKILL)
            break
    os.close(read)
    _, status, usage = os.wait4(child, 0)
    outcome = Outcome(**json.loads(raw)) if raw and ended is None else Outcome()
    outcome.peak = max(peak, usage.ru_maxrss << 10)
    if ended is None and status != 0:
        ended = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status >> 8}"
    outcome.ended = ended
    return outcome


def _memory(process: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{process}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def _watched(path: str, fmt: str | None, ways: Sequence[str], write: int) -> None:
    """In the child: open, answer, end."""
    code = 1
    try:
        outcome = Outcome()
        folder = os.path.dirname(os.path.abspath(path))
        os.chdir(folder)
        sys.path.insert(0, folder)
        sys.addaudithook(_hook(folder, outcome.done))
        _open_all(path, fmt, ways, outcome)
        raw = json.dumps(vars(outcome)).encode()
        while raw:
            raw = raw[os.write(write, raw) :]
        code = 0
    finally:
        os._exit(code)


def _hook(folder: str, done: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    allowed = tuple(
        os.path.realpath(p) for p in (folder, sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc/self")
    )  # fmt: skip

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            done.append(f"{event} {args!r}"[:300])
        elif event == "open" and isinstance(args[0], str | bytes) and len(done) < 20:
            name, writes = os.fsdecode(args[0]), bool(args[2] & (os.O_WRONLY | os.O_RDWR))
            # Not os.path.realpath where the folder is named as it is: this runs at every open.
            inside = os.path.realpath(name).startswith(allowed)
            if writes or not inside:
                done.append(f"opened {name} {'to write' if writes else ''}")
        elif event == "import" and args[0] == "canary_module":
            done.append("imported canary_module")

    return hook


def _open_all(path: str, fmt: str | None, ways: Sequence[str], outcome: Outcome) -> None:
    import traceback

    from optexport.errors import OptexportError
    from optexport.state.inspect import inspect
    from optexport.state.store import detect, load, read_model, read_native

    def read() -> None:
        kind = fmt or detect(path)
        if kind == "bundle":
            loaded()
            return
        state = read_native(path, kind)
        _touch(state.slots.values())
        _touch([state.weights])

    def loaded() -> None:
        state = load(path, format=fmt)
        _touch(state.slots.values())
        _touch([state.params])

    def inspected() -> None:
        found = inspect(path, format=fmt)
        if found.format == "weights":  # what could be shown; why there is no more stands in the last warning
            raise OptexportError(found.warnings[-1])

    known: dict[str, Callable[[], Any]] = {
        "read": read,
        "load": loaded,
        "inspect": inspected,
        "weights": lambda: _touch([read_model(path).tensors]),
    }
    for name in ways:
        way = known[name]
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                way()
            outcome.said[name] = None
        except OptexportError as error:
            outcome.said[name] = str(error)
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            outcome.foreign.append(
                f"{name}: {type(error).__name__}: {error} at {last.filename}:{last.lineno}"[:600]
            )
        outcome.seconds = max(outcome.seconds, time.process_time() - start)


def _touch(tensors: Any) -> None:
    """Look at every byte, as whoever converts the file would."""
    for named in tensors:
        for array in named.values():
            flat = np.asarray(array)
            if SECRET[:28] in (flat.tobytes() if flat.size else b""):
                raise RuntimeError("a tensor holds another file's bytes")


if __name__ == "__main__":
    _serve()
