"""The pages for users: every command and script on them runs as it stands, in order, in one folder a page."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import optexport.demo.run as demo

ROOT = Path(__file__).parent.parent
PAGES = ("moving-a-run.md", "deploying-a-training-graph.md", "testing-an-optimizer.md")
# What a piece needs that an environment may lack.
NEEDS = {
    "optexport identify torch": "torch",
    "optexport parity": "onnxruntime",
    "--plot": "matplotlib",
    "ox.Trainer": "onnxruntime",
    "trained.safetensors": "onnxruntime",
    "optexport inspect back.pt": "onnxruntime",
    'ox.check("update.onnx"': "onnxruntime",
}


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of every block that runs, and the comments that prepare for them."""
    found = re.finditer(r"^```(sh|python)\n(.*?)^```$|^<!-- prepare: (.*?) -->$", text, re.M | re.S)
    return [("sh", m[3]) if m[3] else (m[1], m[2]) for m in found]


def pieces(page: str) -> list[tuple[str, str]]:
    """Shell blocks line by line."""
    out = []
    for language, text in blocks((ROOT / "docs" / page).read_text(encoding="utf-8")):
        out += (
            [(language, line) for line in text.splitlines() if line]
            if language == "sh"
            else [(language, text)]
        )
    return out


def run(language: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    argv = ["sh", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    return subprocess.run(argv, capture_output=True, text=True, timeout=280, cwd=folder, env=environment)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_typed(page: str, tmp_path: Path) -> None:
    if not (ROOT / "docs" / page).exists():
        pytest.skip("needs the checkout's docs folder")
    shutil.copy(demo.CHECKPOINT, tmp_path / "checkpoint.pt")
    shutil.copy(demo.FORWARD, tmp_path / "model.onnx")
    (tmp_path / "bin").mkdir()
    plugin = [] if _installed() else ["-p", "optexport.pytest_plugin"]
    for name, module in (("optexport", ["optexport"]), ("pytest", ["pytest", *plugin])):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -m {" ".join(module)} "$@"\n', encoding="utf-8")
        file.chmod(0o755)
    ran = 0
    for language, text in pieces(page):
        named = re.match(r"# (test_\w+\.py)\n", text)
        if named:
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
            continue
        if any(sign in text and importlib.util.find_spec(module) is None for sign, module in NEEDS.items()):
            continue
        done = run(language, text, tmp_path)
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        ran += 1
    assert ran >= 4


def test_what_testing_an_optimizer_prints_is_what_the_page_shows(tmp_path: Path) -> None:
    page = ROOT / "docs" / "testing-an-optimizer.md"
    if not page.exists():
        pytest.skip("needs the checkout's docs folder")
    text = page.read_text(encoding="utf-8")
    shown = re.search(r"^```text\n(.*?)^```$", text, re.M | re.S)
    assert shown is not None
    made = run("python", blocks(text)[0][1], tmp_path).stdout.splitlines()
    wanted = [line for line in shown[1].splitlines() if "…" not in line]
    assert [line.rstrip() for line in made[: len(wanted)]] == wanted


def _installed() -> bool:
    return any(p.value == "optexport.pytest_plugin" for p in entry_points(group="pytest11"))
