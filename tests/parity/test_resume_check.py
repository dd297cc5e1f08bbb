"""`optexport resume-check`: a right port stays within the bound, a wrong one does not, and each side says what ran it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.cli import main
from optexport.convert import convert
from optexport.errors import CheckpointError, NamingError, OptexportError
from optexport.parity.resume import resume_check
from tests.parity.backends import require_backend

torch = pytest.importorskip("torch", reason="needs PyTorch, which is not in this environment")


def trained(folder: Path, kind: str = "AdamW", **arguments: Any) -> tuple[str, str]:
    """An optimizer's checkpoint after ten updates, and the weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 3))
    optimizer = getattr(torch.optim, kind)(model.parameters(), **arguments)
    for _ in range(10):
        optimizer.zero_grad()
        (model(torch.randn(8, 6)) ** 2).mean().backward()
        optimizer.step()
    run, weights = str(folder / "run.pt"), str(folder / "model.pt")
    torch.save(optimizer.state_dict(), run)
    torch.save(model.state_dict(), weights)
    return run, weights


def test_a_bundle_goes_on_as_its_source(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
    run, model = trained(tmp_path, lr=0.01)
    port = str(tmp_path / "port.safetensors")
    convert(run, port, model=model, emit_optimizer=str(tmp_path / "update.onnx"))

    found = resume_check(run, port, model=model)

    assert found.within and found.verdict == "exact" and found.first is None
    assert 0 < found.divergence < max(p.bounds[-1] for p in found.params) < 1e-5
    assert found.a.ran == "torch:AdamW, the file loaded by the framework itself" and found.a.step == 10
    assert found.b.ran == "the update graph of its rule on onnxruntime"
    assert found.a.error <= found.a.error_bound and found.b.error <= found.b.error_bound


@pytest.mark.parametrize("damage", ["slot", "step", "rate"])
def test_a_damaged_port_is_found(damage: str, tmp_path: Path) -> None:
    run, model = trained(tmp_path, lr=0.01)
    state = ox.load(run, model=model)
    if damage == "slot":
        held = dict(state.slots["0.weight"])
        held["exp_avg"] = held["exp_avg"] * np.float32(1.001)
        state = replace(state, slots={**state.slots, "0.weight": held})
    elif damage == "step":
        state = replace(state, steps=dict.fromkeys(state.steps, 9))
    else:
        group = state.spec.groups[0]
        values = {**group.hyperparameters, "lr": 0.010001}
        state = replace(state, spec=type(state.spec)((replace(group, hyperparameters=values),)))
    port = tmp_path / "port.safetensors"
    ox.save(state, port, format="bundle")

    found = resume_check(run, port, model=model)

    assert not found.within and found.first is not None
    assert found.first["update"] == 1 and found.first["divergence"] > found.first["bound"]


@pytest.mark.parametrize(
    ("kind", "arguments", "target", "verdict", "within"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, "mxnet:sgd", "conditional", True),
        ("Adam", {"lr": 0.01, "eps": 1e-4}, "mxnet:adam", "bounded", True),
        ("AdamW", {"lr": 0.01}, "mxnet:adam", "lossy", False),
    ],
)
def test_pytorch_beside_mxnet(
    kind: str, arguments: Any, target: str, verdict: str, within: bool, tmp_path: Path
) -> None:
    require_backend("mxnet")
    run, model = trained(tmp_path, kind, **arguments)
    port = str(tmp_path / "port.states")
    convert(run, port, model=model, optimizers=(target,), allow="lossy")

    found = resume_check(run, port, model=model)

    assert (found.verdict, found.within) == (verdict, within), found
    assert found.b.in_framework and found.b.ran == f"{target}, from a file of the same state"
    assert found.b.error <= found.b.error_bound


def test_without_the_framework_the_referee_runs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optexport.parity import resume

    run, model = trained(tmp_path, lr=0.01)
    monkeypatch.setattr(resume, "_runner", lambda _: None)

    found = resume_check(run, run, model=model, steps=3)

    assert found.within and not found.a.in_framework
    assert any(
        "this side shows what its rule computes, not what the framework does" in w for w in found.warnings
    )


def test_recorded_gradients_and_made_weights(tmp_path: Path) -> None:
    run, model = trained(tmp_path, lr=0.01)
    shapes = {n: v.shape for n, v in ox.load(run, model=model).params.items()}
    file = tmp_path / "grads.npz"
    np.savez(file, **{n: np.ones((7, *s), np.float32) for n, s in shapes.items()})

    found = resume_check(run, run, gradients=file, model=model)
    bare = resume_check(run, run, steps=2)

    assert found.steps == 7 and found.gradients == str(file) and found.divergence == 0
    assert "made ones (pass --model for the run's own)" in " ".join(bare.warnings)


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    run, model = trained(tmp_path, lr=0.01)
    file = tmp_path / "grads.npz"
    np.savez(file, **{"0.weight": np.ones((7, 4, 6), np.float32)})
    with pytest.raises(CheckpointError, match=r"expected gradients of '0.bias', \[4\] a step, found none"):
        resume_check(run, run, gradients=file, model=model)
    state = ox.load(run, model=model)
    other = tmp_path / "other.safetensors"
    ox.save(state.renamed({"0.weight": "other"}), other, format="bundle")
    with pytest.raises(
        NamingError, match=r"expected the parameters of .*run.pt, found others, '0.weight' first"
    ):
        resume_check(run, other, names=["0.weight", "0.bias", "1.weight", "1.bias"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = trained(tmp_path, lr=0.01)
    with pytest.raises(SystemExit) as done:
        main(["resume-check", run, run, "--model", model, "--steps", "2", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert done.value.code == 0
    assert answer["within"] is True and answer["divergence"] == 0 and len(answer["params"]) == 4
    with pytest.raises(SystemExit) as failed:
        main(["resume-check", run, str(tmp_path / "none.pt")])
    assert failed.value.code == 2 and "none.pt: no such file or folder" in capsys.readouterr().err
    code = subprocess.run(
        [sys.executable, "-m", "optexport", "resume-check", run, run, "--model", model, "--steps", "2"],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], env=dict(os.environ),
    )  # fmt: skip
    assert code.returncode == 0 and "divergence 0, within the bound" in code.stdout


def test_a_run_with_a_schedule_goes_on_by_it(tmp_path: Path) -> None:
    """No optimizer's own file has its schedule: the rates are set as the training loop sets them."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
    run = str(Path(__file__).parents[1] / "data" / "lightning" / "adamw_steplr.ckpt")
    port = str(tmp_path / "port.safetensors")
    convert(run, port)

    found = resume_check(run, port)

    assert found.within and found.verdict == "exact" and not found.differences
    assert found.a.ran.startswith("torch:AdamW") and found.a.in_framework
    other = ox.load(port)
    (group,) = other.spec.groups
    constant_spec = ox.Spec((replace(group, schedules={}),))
    ox.save(replace(other, spec=constant_spec), tmp_path / "constant.safetensors", format="bundle")
    constant = resume_check(run, tmp_path / "constant.safetensors")
    assert not constant.within and constant.first is not None
    assert constant.differences[-1].startswith("schedule of lr: step(base=0.002, gamma=0.5,")
    assert "and no schedule (parameter" in constant.differences[-1]


def test_a_keras_side_is_run_by_keras(tmp_path: Path) -> None:
    require_backend("keras")
    run, model = trained(tmp_path, lr=0.01, eps=1e-4)
    port = str(tmp_path / "port.weights.h5")
    done = convert(run, port, model=model, allow="bounded")

    found = resume_check(run, port, model=model)

    assert done.verdict == found.verdict == "bounded" and found.within
    assert found.b.optimizer == "keras:AdamW"  # of those that are as exact, the one of the same name
    assert found.b.ran == "keras:AdamW, the file loaded by the framework itself"
    assert 1e-6 < found.divergence < max(p.bounds[-1] for p in found.params)
    # Each computes its own rule; what parts them is the place of ε.
    assert found.a.error <= found.a.error_bound and found.b.error < 1e-3 * found.divergence


def test_a_paddle_side_without_hyperparameters_in_its_file(tmp_path: Path) -> None:
    run, model = trained(tmp_path, lr=0.01)
    port = str(tmp_path / "port.pdopt")
    convert(run, port, to_format="paddle", model=model)

    with pytest.raises(OptexportError, match="holds no hyperparameters; give them in paddle's own names"):
        resume_check(run, port, model=model, optimizers=["paddle:AdamW"])
    given = {"learning_rate": 0.01, "weight_decay": 0.01}
    found = resume_check(run, port, model=model, optimizers=["paddle:AdamW"], arguments=given)
    wrong = resume_check(
        run, port, model=model, optimizers=["paddle:AdamW"], arguments={**given, "weight_decay": 0.1}
    )

    assert found.within and found.verdict == "exact" and found.b.optimizer == "paddle:AdamW"
    assert found.b.in_framework == (importlib.util.find_spec("paddle") is not None)
    assert not wrong.within
