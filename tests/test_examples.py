"""The examples run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .test_pages import _installed

EXAMPLES = Path(__file__).parent.parent / "examples"
# Script -> what it needs, and a piece of what it prints.
SCRIPTS = {
    "check_my_optimizer.py": ((), "adam does not compute the rule adam: update 1, parameter 'w', param"),
    "torch_to_optax.py": (("torch", "optax"), "verdict: exact"),
    "train_with_onnxruntime.py": (("onnxruntime",), "after 200 steps; step is 200"),
    "test_my_optimizer.py": (("torch",), "2 passed"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_runs(script: str, tmp_path: Path) -> None:
    needed, printed = SCRIPTS[script]
    if not (EXAMPLES / script).exists():
        pytest.skip("needs the checkout's examples folder")
    missing = [m for m in needed if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"needs {missing[0]}, which is not in this environment")
    how = [str(EXAMPLES / script)]
    if script.startswith("test_"):
        plugin = [] if _installed() else ["-p", "optexport.pytest_plugin"]
        how = ["-m", "pytest", *plugin, "-p", "no:cacheprovider", "--rootdir", str(tmp_path), *how]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, *how], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert printed in done.stdout


def test_every_example_is_tested() -> None:
    if not EXAMPLES.exists():
        pytest.skip("needs the checkout's examples folder")
    assert {p.name for p in EXAMPLES.glob("*.py")} == set(SCRIPTS)
