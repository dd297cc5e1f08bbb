"""The demonstration passes without a framework, and fails where the state was damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.cli import main
from optexport.converters.torch import checkpoint
from optexport.demo import make_data, run
from optexport.demo.show import show
from optexport.errors import CheckpointError
from optexport.parity.compare import relative_error
from optexport.state import TrainingState
from optexport.state.inspect import inspect
from optexport.state.lift import native_state

from .network import loss_and_gradients

pytest.importorskip("onnxruntime")

NAMES = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
SHAPES = {"hidden.weight": (32, 64), "hidden.bias": (32,), "output.weight": (10, 32), "output.bias": (10,)}

# What the commands that it shows write.
MADE = (run.BUNDLE, run.GRAPH, run.BACK, run.STATES, run.MODULE, run.WEIGHTS)

# Runs the code after it as if these were not installed.
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
"""


def in_fresh_process(code: str, *absent: str) -> subprocess.CompletedProcess[str]:
    script = WITHOUT.format(absent=absent) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(run.CONTINUATION) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def state() -> TrainingState:
    return ox.load(run.CHECKPOINT)


def failed(result: run.Result) -> list[str]:
    return [c["what"] for c in result.checks if not c["passed"]]


def test_command_prints_json_and_passes_in_under_a_minute(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optexport", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] is True and found["seconds"] < 60
    assert found["inspected"]["optimizer"] == "torch:AdamW" and found["inspected"]["step"] == 100
    assert [e["verdict"] for e in found["explained"]] == ["exact", "lossy"]
    assert found["converted"]["verdict"] == "exact"
    assert len(found["continued"]["runs"]) == 3 and found["continued"]["by_itself"] == 50
    assert found["back"]["step"] == 150 and found["back"]["converted"]["optimizer"] == "torch:AdamW"
    assert found["mxnet"]["verdict"] == "refused" and "weight_decay" in found["mxnet"]["refusal"]
    assert "\n" not in found["mxnet"]["refusal"]


def test_needs_no_framework() -> None:
    code = """
from optexport.demo.run import work
result = work()
assert result.passed, result.checks
loaded = {"torch", "mxnet", "sklearn"} & set(sys.modules)
assert not loaded, loaded
"""
    done = in_fresh_process(code, "torch", "mxnet", "sklearn")
    assert done.returncode == 0, done.stderr


def test_without_onnxruntime_one_line_says_what_to_install() -> None:
    code = "from optexport.cli import main\nmain(['demo'])"
    done = in_fresh_process(code, "onnxruntime")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "pip install optexport[demo]" in done.stderr


def test_shows_every_stage_and_keeps_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run.work(str(tmp_path / "kept"), show)
    text = capsys.readouterr().out
    assert result.passed and "PASS" in text and "FAIL" not in text
    for number in range(1, 7):
        assert f"\n{number}  " in text
    kept = sorted(os.listdir(tmp_path / "kept"))
    assert kept == sorted([make_data.CHECKPOINT, make_data.FORWARD, run.CONTINUED, *MADE])


def test_commands_that_it_shows_do_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run.work(str(tmp_path), show)
    assert result.converted is not None
    before = {name: (tmp_path / name).read_bytes() for name in MADE}
    for name in MADE:
        (tmp_path / name).unlink()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    commands = [
        line.removeprefix("$ optexport ").split() for line in lines if line.startswith("$ optexport ")
    ]
    assert len(commands) == 9
    there = os.getcwd()
    os.chdir(tmp_path)
    try:
        codes = []
        for command in commands:
            with pytest.raises(SystemExit) as stopped:
                main(command)
            codes.append(stopped.value.code)
    finally:
        os.chdir(there)
    # The seventh is the conversion to mxnet:adam, which is refused.
    assert codes == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def write(state: TrainingState, path: Path) -> None:
    """As a training script saves it: weights and optimizer in one file."""
    checkpoint.write(native_state(state, str(path)), path, combined=True)


Change = Callable[[TrainingState], TrainingState]


def changed_slot(slot: str, change: Callable[[np.ndarray], np.ndarray], *names: str) -> Change:
    def of(state: TrainingState) -> TrainingState:
        slots = {
            n: {s: change(a) if s == slot and n in (names or NAMES) else a for s, a in held.items()}
            for n, held in state.slots.items()
        }
        return replace(state, slots=slots)

    return of


def later(state: TrainingState) -> TrainingState:
    return replace(state, steps={n: s + 1 for n, s in state.steps.items()})


def other_arguments(**values: Any) -> Change:
    def of(state: TrainingState) -> TrainingState:
        groups = []
        for g in state.spec.groups:
            groups.extend(
                ox.native(
                    "torch:AdamW", groups=[{"params": list(g.params or ()), **g.arguments, **values}]
                ).groups[:1]
            )
        return replace(state, spec=ox.Spec(tuple(groups)))

    return of


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(changed_slot("exp_avg", np.negative), id="sign of every exp_avg"),
        pytest.param(changed_slot("exp_avg", np.negative, "output.bias"), id="sign of one exp_avg"),
        pytest.param(changed_slot("exp_avg_sq", np.sqrt), id="root of exp_avg_sq"),
        pytest.param(
            changed_slot("exp_avg", lambda a: a.reshape(a.shape[::-1]).T, "hidden.weight"), id="layout"
        ),
        pytest.param(later, id="step off by one"),
        pytest.param(other_arguments(eps=1e-8), id="eps"),
        pytest.param(other_arguments(weight_decay=0.0), id="no decay"),
        pytest.param(other_arguments(betas=(0.9, 0.999)), id="betas"),
    ],
)
def test_damage_fails(change: Change, state: TrainingState, tmp_path: Path) -> None:
    write(change(state), tmp_path / "damaged.pt")
    result = run.work(checkpoint=tmp_path / "damaged.pt")
    assert not result.passed
    assert "ONNX Runtime: parameters" in failed(result)


def test_undamaged_state_written_again_passes(state: TrainingState, tmp_path: Path) -> None:
    write(state, tmp_path / "again.pt")
    assert run.work(checkpoint=tmp_path / "again.pt").passed


def test_failure_is_exit_code_1(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(later(state), tmp_path / "damaged.pt")
    work = run.work
    monkeypatch.setattr(run, "work", lambda keep, show, plot: work(keep, show, tmp_path / "damaged.pt"))
    for arguments in (["demo"], ["demo", "--json"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 1
        text = capsys.readouterr().out
        assert json.loads(text)["passed"] is False if "--json" in arguments else "FAIL" in text


def test_amplification_covers_what_is_left_of_a_disturbance(
    state: TrainingState, recorded: Mapping[str, np.ndarray]
) -> None:
    """The factor in the tolerance, measured in float64: every number off by a part in a million."""

    def gone_on(signs: Callable[[np.ndarray], np.ndarray]) -> TrainingState:
        now = replace(
            state,
            params={n: signs(a) for n, a in state.params.items()},
            slots={n: {s: signs(a) for s, a in state.full_slots(n).items()} for n in state.names},
            dtype="float64",
        )
        for rows in recorded["batches"]:
            gradients = loss_and_gradients(now.params, recorded["images"][rows], recorded["labels"][rows])[1]
            now = ox.step(now, gradients)
        return now

    undisturbed = gone_on(lambda a: a.astype(np.float64))
    worst = 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = gone_on(lambda a, rng=rng: a.astype(np.float64) * (1 + 1e-6 * rng.choice([-1, 1], a.shape)))
        for name in NAMES:
            pairs = [(found.params[name], undisturbed.params[name])]
            pairs += [(found.slots[name][s], a) for s, a in undisturbed.slots[name].items()]
            worst = max(worst, *(float(np.abs(a - b).max() / np.abs(b).max()) / 1e-6 for a, b in pairs))
    assert 0.5 < worst <= run.AMPLIFICATION


def test_gradients_are_those_of_the_loss(state: TrainingState, recorded: Mapping[str, np.ndarray]) -> None:
    rows = recorded["batches"][0]
    images, labels = recorded["images"][rows], recorded["labels"][rows]
    params = {n: a.astype(np.float64) for n, a in state.params.items()}
    _, gradients = loss_and_gradients(params, images, labels)
    rng = np.random.default_rng(0)
    for name in NAMES:
        way = rng.standard_normal(SHAPES[name])
        ahead, behind = (
            loss_and_gradients({**params, name: params[name] + h * way}, images, labels)[0]
            for h in (1e-6, -1e-6)
        )
        assert (ahead - behind) / 2e-6 == pytest.approx(float((gradients[name] * way).sum()), rel=1e-6)


def test_files_are_what_the_script_says(state: TrainingState, recorded: Mapping[str, np.ndarray]) -> None:
    assert {n: state.shape(n) for n in state.names} == SHAPES and set(state.params) == set(NAMES)
    assert set(state.steps.values()) == {make_data.SAVED_AT}
    assert recorded["images"].shape == (1797, 64) and recorded["images"].dtype == np.uint8
    assert recorded["images"].max() == 16 and set(recorded["labels"].tolist()) == set(range(10))
    expected = make_data.batch_table(1797)[make_data.SAVED_AT :]
    assert np.array_equal(recorded["batches"], expected)
    assert recorded["loss"].shape == (make_data.CONTINUED,) and recorded["loss"].dtype == np.float32
    assert tuple(recorded["recorded_at"]) == make_data.RECORDED_AT
    for kind in ("param", "exp_avg", "exp_avg_sq"):
        for name in NAMES:
            held = recorded[f"{kind}/{name}"]
            assert held.shape == (len(make_data.RECORDED_AT), *SHAPES[name]) and held.dtype == np.float32
    sizes = [path.stat().st_size for path in (run.CHECKPOINT, run.CONTINUATION)]
    assert sum(sizes) < 500_000


def test_torch_opens_the_checkpoint() -> None:
    torch = pytest.importorskip("torch")
    held = torch.load(run.CHECKPOINT, weights_only=True)
    assert held["step"] == make_data.SAVED_AT and tuple(held["model"]) == NAMES
    model = make_data.network()
    model.load_state_dict(held["model"])
    optimizer = make_data.optimizer_of(model)
    optimizer.load_state_dict(held["optimizer"])
    assert float(optimizer.state[model.hidden.weight]["step"]) == make_data.SAVED_AT


def test_torch_goes_on_from_what_came_back(recorded: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    run.work(str(tmp_path))
    held = torch.load(tmp_path / run.BACK, weights_only=True)
    model = make_data.network()
    model.load_state_dict(held["model"])
    optimizer = make_data.optimizer_of(model)
    optimizer.load_state_dict(held["optimizer"])
    limit = run.tolerance(ox.load(run.CHECKPOINT), make_data.CONTINUED)
    for name, parameter in model.named_parameters():
        slots = optimizer.state[parameter]
        assert float(slots["step"]) == make_data.SAVED_AT + make_data.CONTINUED
        pairs = {"param": parameter.detach(), "exp_avg": slots["exp_avg"], "exp_avg_sq": slots["exp_avg_sq"]}
        for key, value in pairs.items():
            assert relative_error(value.numpy(), recorded[f"{key}/{name}"][-1]) <= limit
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    images = torch.from_numpy(recorded["images"].astype(np.float32) / 16)
    loss = torch.nn.functional.cross_entropy(
        model(images), torch.from_numpy(recorded["labels"].astype(np.int64))
    )
    loss.backward()
    optimizer.step()
    assert 0 < loss.item() < 0.2


def test_script_makes_these_files_again(tmp_path: Path) -> None:
    """Rounding differs between machines, so numbers are compared, not bytes."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    pytest.importorskip("onnxscript")
    code = (
        f"from pathlib import Path\nfrom optexport.demo.make_data import main\nmain(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / make_data.CONTINUATION) as new, np.load(run.CONTINUATION) as old:
        assert set(new.files) == set(old.files)
        for name in old.files:
            np.testing.assert_allclose(new[name], old[name], rtol=1e-3, atol=1e-5)
    assert [t.param for t in inspect(str(tmp_path / make_data.CHECKPOINT)).tensors] == [
        t.param for t in inspect(str(run.CHECKPOINT)).tensors
    ]


def test_forward_model_is_the_checkpoints_and_names_no_machine(state: TrainingState) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(run.FORWARD)
    held = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert set(held) == set(NAMES)
    for name in NAMES:
        assert held[name].tobytes() == state.params[name].tobytes()
    assert [i.name for i in model.graph.input] == ["pixels"]
    data = run.FORWARD.read_bytes()
    assert b".py" not in data and b"site-packages" not in data


def test_picture_has_both_curves_over_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: dict[str, Any] = {}
    plot = run.loss_plot
    monkeypatch.setattr(
        run, "loss_plot", lambda path, curves, **o: (drawn.update(curves), plot(path, curves, **o))
    )
    result = run.work(plot=str(tmp_path / "loss.png"))
    assert result.plot == str(tmp_path / "loss.png") and result.no_plot is None
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pytorch, here, restarted = drawn.values()
    assert len(pytorch) == len(here) == len(restarted) == make_data.CONTINUED
    assert max(abs(a - b) for a, b in zip(pytorch, here, strict=True)) < 1e-6
    assert max(abs(a - b) for a, b in zip(pytorch, restarted, strict=True)) > 1e-2


def test_without_matplotlib_there_is_no_picture_and_the_reason_is_told(tmp_path: Path) -> None:
    code = "from optexport.cli import main\nmain(['demo', '--plot', 'loss.png'])"
    script = WITHOUT.format(absent=("matplotlib",)) + code
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "no picture of the loss curves: loss.png: a plot needs matplotlib" in done.stdout
    assert not os.listdir(tmp_path)


def test_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((OSError, CheckpointError)):
        run.work(checkpoint=tmp_path / "absent.pt")
