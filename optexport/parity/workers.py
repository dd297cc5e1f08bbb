"""One process a backend, in the interpreter that the user names; what becomes of it is a result of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from ..errors import OptexportError
from .frames import ClosedError, Frame, LateError, RubbishError, read_frame, write_frame

__all__ = ["HELLO_TIMEOUT", "Worker", "WorkerError"]

_PROTOCOL = 1
HELLO_TIMEOUT = 180.0


class WorkerError(OptexportError):
    """A worker that died, hung, printed rubbish or cannot start. kind: the word for it."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class Worker:
    """A running ``optexport.parity.worker``. Use as a context; it is ended with its children.

    framework: the converter it runs. python: the interpreter. hello_timeout: seconds until it must have said
    what it is. command: what is started instead, for workers of other kinds.

    Raises:
        WorkerError: ``start`` and ``ask``: it died, hung, printed rubbish, or cannot be started.
    """

    def __init__(
        self,
        framework: str,
        python: str | None = None,
        hello_timeout: float = HELLO_TIMEOUT,
        command: list[str] | None = None,
    ) -> None:
        self.framework, self.python = framework, python or sys.executable
        self.hello_timeout = hello_timeout
        self.command = command or [self.python, "-m", "optexport.parity.worker", framework]
        self.hello: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None

    def start(self) -> dict[str, Any]:
        """Start it; what it says of itself."""
        # One core each: results of a run then do not follow the machine's load, and workers share it.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        # A virtual environment of this process is not the worker's.
        for name in ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"):
            if self.python != sys.executable:
                environment.pop(name, None)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,
            )
        except OSError as e:
            raise WorkerError("absent", f"{self._where}: cannot be started: {e.strerror}") from None
        message, _ = self._read(self.hello_timeout, "to say what it is")
        if message.get("protocol") != _PROTOCOL:
            self.stop()
            raise WorkerError(
                "absent",
                f"{self._where}: expected the protocol {_PROTOCOL} of optexport, found {message.get('protocol')!r}; "
                "install the same optexport in both interpreters",
            )
        self.hello = message
        return message

    def ask(self, message: Mapping[str, Any], arrays: Mapping[str, Any], timeout: float) -> Frame:
        """Send a message and wait for its answer."""
        assert self._process is not None and self._process.stdin is not None
        try:
            write_frame(self._process.stdin.fileno(), message, arrays)
        except ClosedError:
            raise self._ended(ClosedError("its pipe closed")) from None
        return self._read(timeout, f"for {message.get('id', 'a case')}")

    def _read(self, timeout: float, what: str) -> Frame:
        assert self._process is not None and self._process.stdout is not None
        try:
            return read_frame(self._process.stdout.fileno(), timeout)
        except LateError:
            self.stop()
            raise WorkerError(
                "hung",
                f"{self._where}: no answer within {timeout:g} s {what}; it was ended (--timeout gives more)",
            ) from None
        except RubbishError as e:
            self.stop()
            raise WorkerError(
                "rubbish",
                f"{self._where}: expected a message on its standard output, found {e}; it was ended",
            ) from None
        except ClosedError as e:
            raise self._ended(e) from None

    def _ended(self, error: OptexportError) -> WorkerError:
        process = self._process
        assert process is not None
        try:
            code: int | None = process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        said = self._last_words()
        self.stop()
        how = (
            f"{error} and it did not end"
            if code is None
            else f"it died of signal {signal.Signals(-code).name}"
            if code < 0
            else f"it ended with exit code {code}"
        )
        if code == 1 and "No module named" in said and "optexport" in said:
            return WorkerError(
                "absent", f"{self._where}: has no optexport with parity workers; install it there"
            )
        return WorkerError("died", f"{self._where}: {how}" + (f"; its last words: {said}" if said else ""))

    @property
    def _where(self) -> str:
        return f"worker {self.framework} ({self.python})"

    def _last_words(self) -> str:
        """The end of what it wrote on standard error, in one line."""
        if self._log is None:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2000))
        lines = [line for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return "".join(c if c.isprintable() else "?" for c in " ".join(lines[-1:]))[-300:]

    def stop(self) -> None:
        """End it, its children too. Called twice does nothing more."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
