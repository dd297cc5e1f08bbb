"""The commands of README's section on training graphs work as typed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import optexport as ox
from optexport.cli import main

ROOT = Path(__file__).parent.parent
if not (ROOT / "README.md").exists():
    pytest.skip("needs the checkout's README", allow_module_level=True)


def blocks(language: str) -> list[str]:
    section = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Training graphs\n")[1].split("\n## ")[0]
    )
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the section names, as in a checkout."""
    shutil.copytree(ROOT / "optexport" / "demo", tmp_path / "optexport" / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command(checkout: Path) -> None:
    pytest.importorskip("onnxruntime")
    (command,) = blocks("sh")
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command)[1:])
    assert stopped.value.code == 0
    import onnxruntime

    session = onnxruntime.InferenceSession("step.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "loss"


def test_python(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("matplotlib")
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    losses = names["losses"]
    assert isinstance(losses, list) and len(losses) == 280 and np.mean(losses[-28:]) < np.mean(losses[:28])
    assert float(capsys.readouterr().out) < 0.15
    assert sorted(f for f in os.listdir() if f != "optexport") == [
        "loss.png",
        "run.safetensors",
        "trained.onnx",
    ]
    assert ox.load("run.safetensors").clock == 280
