"""Two runs over their checkpoints: `optexport diff --series`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import optexport as ox
from optexport.cli import main
from optexport.errors import CheckpointError
from optexport.state.drift import drift, find_series


def runs(folder: Path, bump: int = 25) -> tuple[Path, Path]:
    """Two runs of 40 updates that keep every tenth; B's gradient of ``b`` is another at update ``bump``."""
    out = []
    for run in ("a", "b"):
        (folder / run).mkdir()
        state = ox.init(ox.spec("adamw", lr=0.01), {"w": np.ones((3, 2)), "b": np.ones(3)})
        rng = np.random.default_rng(0)
        for t in range(1, 41):
            grads = {"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(3)}
            if run == "b" and t == bump:
                grads["b"] = grads["b"] + 1e-3
            state = ox.step(state, grads)
            if t % 10 == 0:
                ox.save(state, folder / run / f"step{t}.safetensors", format="bundle")
        out.append(folder / run)
    return out[0], out[1]


def test_when_and_where_two_runs_part(tmp_path: Path) -> None:
    a, b = (find_series(str(r)) for r in runs(tmp_path))
    found = drift(a, b, ox.load)

    assert [Path(p).name for p in a] == [f"step{t}.safetensors" for t in (10, 20, 30, 40)]
    assert found.steps == (10, 20, 30, 40) and found.parted == 30 and found.last_equal == 20
    parted = {(t.param, t.slot): t.parted for t in found.tensors}
    assert parted[("b", "exp_avg")] == 30 and parted[("b", "value")] == 30
    assert parted[("w", "exp_avg")] is None and parted[("w", "value")] is None
    assert drift(a, b, ox.load, rtol=1.0).parted is None


def test_steps_that_one_run_lacks_are_said_and_rules_that_differ(tmp_path: Path) -> None:
    a, b = runs(tmp_path, bump=0)
    (b / "step20.safetensors").unlink()
    other = ox.init(ox.spec("adamw", lr=0.5), {"w": np.ones((3, 2)), "b": np.ones(3)})
    for _ in range(40):
        other = ox.step(other, {"w": np.ones((3, 2)), "b": np.ones(3)})
    ox.save(other, b / "step40.safetensors", format="bundle")

    found = drift(find_series(str(a)), find_series(f"{b}/*.safetensors"), ox.load)

    assert found.steps == (10, 30, 40) and found.parted == 40 and found.last_equal == 30
    assert found.unmatched == [str(a / "step20.safetensors")]
    assert found.sentences == ["from step 40: hyperparameter lr: 0.01 and 0.5 (parameter 'w' first)"]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a, b = runs(tmp_path)
    with pytest.raises(
        CheckpointError, match="expected a folder, a pattern or a file of checkpoints, found none"
    ):
        find_series(str(tmp_path / "c*"))
    with pytest.raises(CheckpointError, match="expected checkpoints of the same steps, found 10 and 40"):
        drift(find_series(str(a / "step10.safetensors")), find_series(str(b / "step40.safetensors")), ox.load)


def test_the_command_and_its_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which is not in this environment")
    a, b = runs(tmp_path)
    picture = tmp_path / "drift.svg"
    with pytest.raises(SystemExit) as done:
        main(["diff", str(a), str(b), "--series", "--plot", str(picture)])
    assert done.value.code == 1
    assert (
        "4 checkpoints, steps 10 to 40: parted at step 30, the same until 20, at rtol 0"
        in capsys.readouterr().out
    )
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    with pytest.raises(SystemExit) as same:
        main(["diff", str(a), str(a), "--series", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert same.value.code == 0 and answer["equal"] is True and answer["steps"] == [10, 20, 30, 40]
    with pytest.raises(SystemExit) as wrong:
        main(["diff", str(a), str(b), "--plot", "x.png"])
    assert wrong.value.code == 2 and "--plot: needs --series" in capsys.readouterr().err
