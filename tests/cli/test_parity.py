"""``optexport parity``: exit codes, files, and one line a cause."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from optexport.cli import main
from tests.parity.backends import has
from tests.parity.broken import altered, program

needs_onnx = pytest.mark.skipif(not has("onnx"), reason="needs onnxruntime, which is not in this environment")
SMALL = ["--rule", "adam", "--backend", "onnx", "--steps", "5", "--dtype", "float32"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        main(["parity", *arguments])
    out = capsys.readouterr()
    return int(e.value.code or 0), out.out, out.err


@needs_onnx
def test_everything_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, xml, kept = (str(tmp_path / n) for n in ("a.html", "a.xml", "a.safetensors"))
    code, out, err = run(capsys, *SMALL, "--html", page, "--junit", xml, "--save", kept, "--twice")
    assert code == 0 and err == ""
    assert "problem standard" in out and "adam defaults" in out and "passed 1 within" in out
    assert ET.parse(xml).getroot().get("failures") == "0"
    assert Path(page).read_text().startswith("<!DOCTYPE html>")
    code, out, _ = run(capsys, *SMALL, "--baseline", kept, "--json")
    form = json.loads(out)
    assert code == 0 and form["passed"] and form["baseline"]["passed"] and form["baseline"]["compared"] == 1


@needs_onnx
def test_a_backend_that_is_wrong_is_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = altered(tmp_path, "python", "arrays['0'][2:] *= 1.01")
    code, out, _ = run(capsys, *SMALL, "--python", f"onnx={wrong}")
    assert code == 1
    assert (
        "adam-defaults/onnx/emitted/float32/standard/5: update 3, parameter 'w', param: relative error 0.01"
        in out
    )
    assert "failed 1 outside" in out


@needs_onnx
def test_a_changed_number_is_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept = str(tmp_path / "b")
    assert run(capsys, *SMALL, "--save", kept)[0] == 0
    moved = altered(tmp_path, "python", "arrays['0'] = np.nextafter(arrays['0'], np.float32(9))")
    arguments = (*SMALL, "--python", f"onnx={moved}", "--baseline", kept)
    code, out, _ = run(capsys, *arguments)
    assert (
        code == 1
        and "regression: adam-defaults/onnx" in out
        and "by at most 1 units in the last place" in out
    )
    assert run(capsys, *arguments, "--ulps", "1")[0] == 0
    code, out, _ = run(capsys, *arguments, "--json")
    form = json.loads(out)
    assert code == 1 and form["passed"] and not form["baseline"]["passed"]


@needs_onnx
def test_nothing_that_ran_is_exit_code_1_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *SMALL, "--provider", "NoSuchProvider")
    assert code == 1 and "n/a: " in out and "NoSuchProvider" in out and "failed 1 unavailable" in out


def test_a_worker_that_prints_rubbish_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = program(tmp_path, "python", "echo Welcome")
    code, out, _ = run(capsys, *SMALL, "--python", f"onnx={bad}")
    assert code == 1 and "onnx: rubbish: worker onnx" in out and "found 'Welcome" in out


@needs_onnx
def test_recorded_gradients_are_their_own_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "g.npz")
    np.savez(path, w=np.random.default_rng(0).standard_normal((4, 3)))
    code, out, _ = run(capsys, "--rule", "sgd", "--backend", "onnx", "--grads", path, "--json")
    assert code == 0
    assert {(r["problem"], len(r["slots"][0]["errors"])) for r in json.loads(out)["results"]} == {
        ("recorded", 4)
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rule", "nosuch"], "unknown rule 'nosuch'"),
        (["--rule", "torch:Nosuch"], "unknown optimizer 'Nosuch' of torch"),
        (["--rule", "adam", "--hyper", "nosuch=1"], "adam: unknown argument 'nosuch'"),
        (["--hyper", "lr=1"], "--hyper: expected one --rule that it belongs to, found 0"),
        (["--backend", "nosuch"], "--backend 'nosuch': expected one of keras, mlx, mxnet"),
        (["--python", "mxnet"], "--python 'mxnet': expected FRAMEWORK=INTERPRETER, a framework among keras"),
        (["--python", "nosuch=/bin/sh"], "--python 'nosuch=/bin/sh': expected FRAMEWORK=INTERPRETER"),
        (["--python", "torch=/no/such"], "expected a program to start, found none at /no/such"),
        (["--problem", "recorded"], "--problem recorded: expected --grads FILE beside it, found none"),
        (["--problem", "digits", "--grads", "x.npz"], "--grads: expected --problem recorded"),
        (["--grads", "/no/such.npz"], "/no/such.npz: expected a file of gradients, found none"),
        (
            ["--baseline", "/no/such"],
            "/no/such: expected a baseline, found no file; write one with --save /no/such",
        ),
        (["--html", "/no/such/a.html"], "expected a folder to write to, found none at /no/such"),
        (["--all", "--rule", "sgd"], "--all: expected no --rule beside it"),
        (["--steps", "0"], "0 is not in the range x>=1"),
        (["--rule", "torch:SGD", "--backend", "mlx"], "nothing to run: no rule, backend, form and dtype"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1
