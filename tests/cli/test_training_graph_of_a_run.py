"""``training-graph --state``: the optimizer of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import optexport as ox
from optexport.cli import main
from optexport.demo import run
from optexport.state.manifest import spec_from_text

LOSS = ("--loss", "softmax_cross_entropy")


def call(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(["training-graph", str(run.FORWARD), *LOSS, *arguments])
    return stopped.value.code


def test_graph_has_the_groups_of_the_run(tmp_path: Path) -> None:
    out = tmp_path / "step.onnx"
    assert call("--state", str(run.CHECKPOINT), "-o", str(out)) == 0
    model = onnx.load(out)
    told = {p.key: p.value for p in model.metadata_props}
    groups = spec_from_text(told["optexport.spec"]).groups
    state = ox.load(run.CHECKPOINT)
    assert {n: g.hyperparameters for g in groups for n in g.params or ()} == {
        n: g.hyperparameters for g in state.spec.groups for n in g.params or ()
    }
    assert len({tuple(sorted(g.hyperparameters.items())) for g in groups}) == 2


def test_step_counts_that_differ_stay_apart(tmp_path: Path) -> None:
    """Two parameters, one of them behind by three: each is corrected for its own count."""
    ort = pytest.importorskip("onnxruntime")
    state = ox.load(run.CHECKPOINT)
    late = {n: s - 3 * (n == "output.bias") for n, s in state.steps.items()}
    behind = ox.TrainingState(state.spec, state.params, state.slots, late, dtype="float32")
    ox.save(behind, tmp_path / "run.safetensors", format="bundle")
    assert call("--state", str(tmp_path / "run.safetensors"), "-o", str(tmp_path / "step.onnx")) == 0
    session = ort.InferenceSession(str(tmp_path / "step.onnx"), providers=["CPUExecutionProvider"])
    feeds = {n: np.asarray(a) for n, a in state.params.items()}
    feeds |= {f"{n}.{s}": np.asarray(a) for n in state.names for s, a in state.full_slots(n).items()}
    with np.load(run.CONTINUATION) as file:
        rows = file["batches"][0]
        feeds["pixels"] = file["images"][rows].astype(np.float32) / np.float32(16)
        feeds["label"] = file["labels"][rows].astype(np.int64)
    feeds |= {"step": np.array(100, np.int64), "lr": np.array(0.01, np.float32)}
    beta1, beta2 = 0.9, 0.995

    def moved(name: str, step: int) -> np.ndarray:
        """By Adam's own words, from the new moments."""
        m, v = (
            found[f"{name}.exp_avg.new"].astype(np.float64),
            found[f"{name}.exp_avg_sq.new"].astype(np.float64),
        )
        return 0.01 * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + 1e-6)

    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(names, feeds), strict=True))
    for name, step in (("hidden.bias", 101), ("output.bias", 98)):
        got = feeds[name].astype(np.float64) - found[f"{name}.new"]
        # The difference of two float32 numbers of the parameter's size.
        atol = 2 * float(np.abs(feeds[name]).max()) * 2.0**-24
        np.testing.assert_allclose(got, moved(name, step), rtol=1e-5, atol=atol)
        assert np.abs(moved(name, step) - moved(name, 199 - step)).max() > 10 * atol


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either --rule, an optimizer, or --state, a run that has one"),
        (("--rule", "adamw", "--state", "run.pt"), "give either --rule, an optimizer, or --state"),
        (("--state", "run.pt", "--hyper", "lr=0.1"), "--hyper belongs to --rule"),
        (("--state", "absent.pt"), "absent.pt"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "step.onnx"
    assert call(*arguments, "-o", str(out)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not out.exists()
