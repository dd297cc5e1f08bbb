"""A headless Chromium, driven over its debugging pipe; no library needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Browser", "chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str | None:
    """The program: that of the variable CHROMIUM, or what is installed; None where there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for n in NAMES if (found := shutil.which(n))), None)


class Browser:
    """One page. Files that it downloads go to ``folder``."""

    def __init__(self, program: str, folder: Path) -> None:
        # Chromium reads commands at descriptor 3 and answers at 4.
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs_in, theirs_out)]

        # The shell puts them there: code run between fork and exec (preexec_fn) is unsafe beside JAX's threads.
        place = f'exec "$@" 3<&{high[0]} 4>&{high[1]}'
        arguments = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "--window-size=900,1000",
        ]  # fmt: skip
        with open(folder / "chromium.log", "wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", place, "bash", *arguments],
                stdout=log,
                stderr=log,
                pass_fds=high,
                start_new_session=True,
            )
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)
        self._held, self._count, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def call(self, method: str, timeout: float = 60, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + timeout
        while True:
            while b"\0" not in self._held:
                ready = select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]
                block = os.read(self._read, 1 << 16) if ready else b""
                if not block:
                    raise TimeoutError(f"{method}: no answer from Chromium")
                self._held += block
            line, _, self._held = self._held.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                found: dict[str, Any] = answer["result"]
                return found

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, expression: str, timeout: float = 60) -> Any:
        """The expression's value as soon as it is true."""
        end = time.monotonic() + timeout
        while not (found := self.value(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}: still {found!r} after {timeout} s")
            time.sleep(0.05)
        return found

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            self._session = ""
            self.call("Browser.close", timeout=10)
            self._process.wait(timeout=10)
        except (OSError, TimeoutError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
