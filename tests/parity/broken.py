"""Interpreters that are broken on purpose: each is a real program that a suite starts."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["altered", "dying_at", "program"]


def program(folder: Path, name: str, body: str) -> str:
    """A shell script in the interpreter's place; ``$0`` is started as ``$0 -m optexport.parity.worker FW``."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def altered(folder: Path, name: str, change: str) -> str:
    """The real worker, whose answers ``change`` has its way with: Python that sees ``reply``, ``arrays``
    (slot number as text -> array), ``key`` (text -> [parameter, slot]), ``count`` (cases so far) and ``np``."""
    code = folder / f"{name}.py"
    indented = "\n".join("    " + line for line in change.splitlines())
    code.write_text(
        "import os, signal, sys, time\nimport numpy as np\n"
        "sys.argv = sys.argv[2:]\n"  # as under -m
        "from optexport.parity import worker\n"
        "real, count = worker.answer, 0\n"
        "def answer(run, message, given):\n"
        "    global count\n"
        "    reply, arrays = real(run, message, given)\n"
        "    arrays = {k: np.array(v) for k, v in arrays.items()}\n"
        "    key = {str(i): k for i, k in enumerate(reply.get('keys', []))}\n"
        f"{indented}\n"
        "    count += 1\n"
        "    return reply, arrays\n"
        "worker.answer = answer\nworker.main()\n"
    )
    return program(folder, name, f'exec {sys.executable} {code} "$@"')


def dying_at(folder: Path, case: int, how: str = "os._exit(3)") -> str:
    """The real worker, which ends at a case (counted from 0 in each process)."""
    return altered(folder, f"dies_{case}", f"if count == {case}: {how}")
