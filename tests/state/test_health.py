"""What inspecting says of real files that went wrong, and comparing files of two formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.errors import CheckpointError
from optexport.rules import CATALOGUE
from optexport.state.diff import diff
from optexport.state.health import NONNEGATIVE, counter_warnings, unequal_steps
from optexport.state.inspect import inspect
from optexport.state.store import detect

DATA = Path(__file__).parents[1] / "data"


def _files() -> list[Path]:
    out = []
    for folder in sorted(p for p in DATA.iterdir() if p.is_dir() and p.name != "golden"):
        out += [p for p in sorted(folder.iterdir()) if p.name != "expected.json"]
    return out


def test_the_slots_that_are_never_negative_are_so_in_every_rule() -> None:
    """Twenty updates of every rule of the catalogue at its defaults, gradients of both signs."""
    seen = set()
    random = np.random.default_rng(3)
    for name in CATALOGUE:
        try:
            state = ox.init(ox.spec(name, lr=0.01), {"w": random.standard_normal((3, 4))})
        except Exception:  # one that needs more than a learning rate; the others of its family stand for it
            continue
        for _ in range(20):
            try:
                state = ox.step(state, {"w": random.standard_normal((3, 4))})
            except Exception:  # noise or a Hessian is needed
                break
        for slot, array in state.slots.get("w", {}).items():
            if slot in NONNEGATIVE:
                seen.add(slot)
                assert (np.asarray(array) >= 0).all(), (name, slot)
    assert {"exp_avg_sq", "exp_avg_var", "square_avg", "acc_delta", "sum", "accumulator", "exp_inf"} <= seen


@pytest.mark.parametrize("path", _files(), ids=lambda p: f"{p.parent.name}-{p.name}")
def test_real_files_are_healthy(path: Path) -> None:
    """No false alarm: what a framework wrote a few updates in has no stuck counter, no NaN, no negative square."""
    try:
        detect(str(path))
        found = inspect(str(path))
    except CheckpointError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        pytest.skip(f"is no file of its own: {error}")
    alarms = [w for w in found.warnings if "damaged" in w or "NaN" in w or "stuck" in w]
    assert alarms == []


# -- counters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, said",
    [
        (
            np.array(256, ml_dtypes.bfloat16),
            "256 in bfloat16, which has no next whole number: the counter is stuck",
        ),
        (np.array(2048, np.float16), "2048 in float16"),
        (np.array(1 << 24, np.float32), "16777216 in float32"),
        (
            np.array(-3, np.int64),
            "counts -3 updates, which is no whole number from 0 up; the file is damaged",
        ),
        (np.array(2.5, np.float32), "counts 2.5 updates"),
        (np.array(np.nan, np.float32), "counts nan updates"),
        (np.array([1, 2]), "expected one step count, found shape [2]"),
        (np.array(255, ml_dtypes.bfloat16), None),
        (np.array(2047, np.float16), None),
        (np.array([7.0], np.float32), None),
        (np.array(1 << 60, np.int64), None),
    ],
)
def test_counters_that_cannot_be(value: np.ndarray, said: str | None) -> None:
    found = list(counter_warnings([("w", "step", value)]))
    assert found == [] if said is None else len(found) == 1 and said in found[0]


def test_parameters_that_were_not_updated_equally_often() -> None:
    assert list(unequal_steps({"a": 3, "b": 7, "c": 0, "d": None}, [["a", "b", "c", "d"], ["c"]])) == [
        "group 0: parameters were updated 3 ('a') to 7 times ('b')"
    ]
    assert list(unequal_steps({"a": 3, "b": 3}, [["a", "b"]])) == []


# -- files of PyTorch that went wrong ---------------------------------------------------------------


def _torch_run(path: Path, change: Any = None, steps: int = 300, **options: Any) -> Path:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 4, dtype=options.pop("dtype", torch.float32)))
    unused = torch.nn.Parameter(torch.randn(2))
    optimizer = torch.optim.Adam([weight, unused], lr=1e-3, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight.float().pow(2).sum() + 0 * unused.sum()).backward()
        optimizer.step()
    held = optimizer.state_dict()
    if change is not None:
        change(held["state"])
    torch.save(held, path)
    return path


def test_a_dead_parameter_after_many_updates(tmp_path: Path) -> None:
    found = inspect(str(_torch_run(tmp_path / "a.pt")))
    assert "parameter '1', slot 'exp_avg': dead, every value is 0 after 300 updates" in found.warnings
    assert not any("'0'" in w for w in found.warnings if "dead" in w)


def test_a_counter_in_bfloat16_is_stuck(tmp_path: Path) -> None:
    """As older releases of PyTorch made it when a state was loaded into a bfloat16 model."""
    torch = pytest.importorskip("torch")

    def cast(state: Any) -> None:
        for held in state.values():
            held["step"] = torch.tensor(0, dtype=torch.bfloat16)
            for _ in range(300):
                held["step"] += 1

    found = inspect(str(_torch_run(tmp_path / "a.pt", cast)))
    assert found.step == 256
    assert (
        "parameter '0', slot 'step': 256 in bfloat16, which has no next whole number: the counter is stuck, more "
        "updates may have been made; give the true count with --step" in found.warnings
    )
    assert any("stuck" in w for w in inspect(str(tmp_path / "a.pt"), quick=True).warnings)


@pytest.mark.parametrize("count", [-3.0, 2.5, float("nan")])
def test_a_counter_that_is_no_count_is_refused_in_words(tmp_path: Path, count: float) -> None:
    torch = pytest.importorskip("torch")
    path = _torch_run(tmp_path / "a.pt", lambda s: s[0].update(step=torch.tensor(count)), steps=3)
    with pytest.raises(CheckpointError, match="parameter 0, slot step: expected one whole number from 0 up"):
        inspect(str(path))


def test_a_negative_second_moment_and_nan(tmp_path: Path) -> None:
    def damage(state: Any) -> None:
        state[0]["exp_avg_sq"][0, 0] = -1e-9
        state[0]["exp_avg"][0, :2] = float("nan")

    found = inspect(str(_torch_run(tmp_path / "a.pt", damage, steps=3)))
    assert (
        "parameter '0', slot 'exp_avg_sq': 1 negative entries, which exp_avg_sq cannot have by its rule; the file is "
        "damaged" in found.warnings
    )
    assert "parameter '0', slot 'exp_avg': 2 NaN and 0 infinite values" in found.warnings


# -- two formats ------------------------------------------------------------------------------------

TARGETS = {
    "bundle": ("o.safetensors", ()),
    "mxnet": ("o.states", ("mxnet:Adam",)),
    "optax": ("o.msgpack", ("optax:adam",)),
    "keras": ("o.weights.h5", ("keras:Adam",)),
    "torch-dcp": ("o_dcp", ()),
}


@pytest.mark.parametrize("fmt", TARGETS)
def test_the_same_state_in_two_formats(tmp_path: Path, fmt: str) -> None:
    """Slots are aligned by the parameters' names and the rule's slots, whatever each file calls them."""
    names = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    source = DATA / "torch" / "adam.pt"
    target, optimizers = TARGETS[fmt]
    convert(
        str(source), str(tmp_path / target), to_format=fmt, names=names, optimizers=optimizers, allow="lossy"
    )
    a = ox.load(source, names=names)
    keras = fmt == "keras"
    if keras:
        # A file of Keras' has no names, and knows its parameters by position.
        b = ox.load(tmp_path / target)
        b = b.renamed(dict(zip(b.ordered_names, names, strict=True))) if set(b.names) != set(names) else b
    else:
        said = {"optimizer": optimizers[0], "arguments": {"learning_rate": 1e-3}} if fmt == "optax" else {}
        b = ox.load(tmp_path / target, **said)
    found = diff(a, b)
    assert {(s.param, s.slot) for s in found.slots} == {
        (n, s) for n in names for s in ("exp_avg", "exp_avg_sq")
    }
    assert all(s.bitwise and s.relative == 0 for s in found.slots)
    assert not any("only in" in s or "step" in s for s in found.sentences)


def test_the_command_compares_two_formats_by_name(tmp_path: Path) -> None:
    source = DATA / "torch" / "adam_named.pt"
    convert(str(source), str(tmp_path / "o_dcp"), to_format="torch-dcp")
    done = subprocess.run(
        [sys.executable, "-m", "optexport.cli", "diff", str(source), str(tmp_path / "o_dcp"), "--json"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env={**os.environ},
    )  # fmt: skip
    if "No module named optexport.cli.__main__" in done.stderr:
        pytest.skip("the command line is tested by its own tests")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["equal"] is True
