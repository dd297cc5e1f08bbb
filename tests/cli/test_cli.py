"""The command line: JSON shapes, exit codes, one line a cause, and never a traceback."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import optexport as ox
from optexport.cli import main
from optexport.dialects import natives
from optexport.rules import CATALOGUE
from optexport.state import bundle
from optexport.state.native import NativeGroup, NativeState
from optexport.translation import LEVELS
from tests.make_golden import BUNDLE

DATA = Path(__file__).parents[1] / "data"
TORCH, MXNET = DATA / "torch", DATA / "mxnet"
NAMES = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
SHAPES = {"fc1.weight": (16, 8), "fc1.bias": (16,), "fc2.weight": (4, 16), "fc2.bias": (4,)}


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def no_tokens(token: str) -> None:
            raise AssertionError(f"{token} is no JSON")

        return json.loads(self.out, parse_constant=no_tokens)


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in this process; any exception but SystemExit is a traceback, and fails the test."""

    def call(*argv: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in argv])
        captured = capsys.readouterr()
        return Result(exit_.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def fails(run: Run) -> Callable[..., str]:
    """A command that must fail with this exit code, one line on stderr and nothing on stdout."""

    def call(code: int, *argv: object) -> str:
        result = run(*argv)
        assert (result.code, result.out) == (code, ""), result
        (line,) = result.err.splitlines()
        assert line.startswith("optexport: ") and line.isprintable()
        return line.removeprefix("optexport: ")

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({n: np.full(s, i, np.float32) for i, (n, s) in enumerate(SHAPES.items())}, path)
    return path


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))
    return path


# rules, explain.


def test_rules(run):
    rows = run("rules", "--json").json
    assert [r["rule"] for r in rows] == list(CATALOGUE)
    for row in rows:
        assert {"rule", "slots", "hyperparameters", "frameworks"} <= set(row)
        assert set(row["frameworks"]) == set(natives())
        for cell in row["frameworks"].values():
            assert set(cell) == {"optimizer", "verdict"} and cell["verdict"] in LEVELS
            assert (cell["optimizer"] is None) == (cell["verdict"] == "none")
    assert {r["rule"]: r["slots"] for r in rows}["adam"] == ["exp_avg", "exp_avg_sq"]
    assert rows[list(CATALOGUE).index("adamw")]["frameworks"]["torch"] == {
        "optimizer": "AdamW",
        "verdict": "exact",
    }


def test_rules_for_people(run):
    result = run("rules")
    assert (result.code, result.err) == (0, "")
    assert all(name in result.out for name in CATALOGUE)


# What one element of an update depends on, where that is more than the element: the norm or an axis of
# its tensor, a number that its tensor keeps (NAdam's product, ASGD's rate), or all tensors.
REACH = {
    **dict.fromkeys(("nadam", "nadamw", "asgd", "schedule_free_sgd", "schedule_free_adamw"), "per-tensor"),
    **dict.fromkeys(("novograd", "lamb", "lars", "fromage", "group_adagrad"), "per-tensor"),
    **dict.fromkeys(("adafactor", "sm3", "muon"), "per-tensor"),
    **dict.fromkeys(("newton_along_gradient", "lbfgs"), "group"),
}


def test_explain_a_rule(run):
    assert REACH.keys() <= set(CATALOGUE)
    for name in CATALOGUE:
        found = run("explain", name, "--json").json
        assert found["rule"] == name
        assert found["equations"] and found["digest"] == CATALOGUE[name].rule().digest
        assert set(found["slots"]) == set(CATALOGUE[name].rule().slot_names)
        assert found["reach"] == REACH.get(name, "elementwise")
    text = run("explain", "adamw").out
    assert "m' = β1·m + (1 − β1)·g" in text and "v' = β2·v + (1 − β2)·g²" in text


@pytest.mark.parametrize("optimizer", [e.qualified for t in natives().values() for e in t.values()])
def test_explain_every_native_optimizer(run, optimizer):
    found = run("explain", optimizer, "--json").json
    # A chain without links is the optimizer that its rule belongs to.
    expected = "optax:sgd" if optimizer == "optax:chain" else optimizer
    assert found["optimizer"] == expected and found["equations"]
    assert run("explain", optimizer).code == 0
    for other in ("torch:AdamW", "mxnet:sgd", "onnx:Adam"):
        two = run("explain", optimizer, other, "--json").json
        assert {"verdict", "conditions", "bound", "differences", "source", "target"} <= set(two)
        assert run("explain", optimizer, other).code == (two["verdict"] == "none")
        assert two["verdict"] in LEVELS and (two["source"], two["target"]) == (optimizer, other)
        assert two["bound"] is None or isinstance(two["bound"], str)
        if optimizer == other:
            assert two["verdict"] == "exact"


def test_explain_an_option_that_is_a_number(run):
    assert "ns_steps: 5 (k: iterations of Newton–Schulz)" in run("explain", "torch:Muon").out


def test_explain_an_optimizer_that_refuses_momentum(run):
    found = run("explain", "mxnet:dcasgd", "torch:SGD", "--json").json
    assert "with momentum it does not run" in found["differences"]


def test_explain_two(run):
    found = run("explain", "torch:Adam", "mxnet:Adam", "--json").json
    assert found["verdict"] == "bounded" and "ε" in found["bound"]
    text = run("explain", "torch:Adam", "mxnet:Adam").out
    assert text.startswith("bounded ") and found["bound"] in text
    assert run("explain", "torch:SGD", "mxnet:SGD", "--hyper", "momentum=0.9", "--json").json["conditions"]


def test_explain_a_pair_that_no_map_joins(run):
    found = run("explain", "torch:Adam", "mxnet:lamb")
    reason = "torch:Adam is of the adam family, mxnet:lamb of the lamb family; no map joins them"
    assert found.code == 1 and found.out.startswith("none ") and reason in " ".join(found.out.split())
    assert found.err == f"optexport: torch:Adam to mxnet:lamb: verdict none: {reason}\n"


def test_hyperparameters_are_read_as_python_writes_them(run):
    for text in ("betas=(0.8, 0.99)", "betas=(0.8,0.99,)", "betas=[0.8, 0.99]"):
        found = run("explain", "torch:AdamW", "--hyper", text, "--hyper", "amsgrad=True", "--json").json
        assert found["hyperparameters"]["beta1"] == 0.8 and "max_exp_avg_sq" in found["slots"]


# inspect.

TENSOR = {"param", "slot", "role", "shape", "dtype", "sha256", "norm", "nan", "inf"}
FILES = [
    *sorted(TORCH.glob("*.pt")),
    *sorted(MXNET.glob("*.states")),
    *(DATA / "torch_dcp" / f for f in ("adamw_flat", "adamw_fqn", "adamw_raw", "sgd_momentum_fqn")),
    DATA / "torch_dcp_2ranks" / "adamw_fqn_2ranks",
    DATA / "lightning" / "adamw_steplr.ckpt",
    BUNDLE,
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_inspect_every_sample(run, path):
    found = run("inspect", path, "--json").json
    assert {"format", "optimizer", "step", "groups", "tensors", "warnings"} <= set(found)
    assert found["groups"] and found["tensors"]
    for group in found["groups"]:
        assert {"rule", "hyperparameters", "params"} <= set(group)
    params = {p for g in found["groups"] for p in g["params"]}
    for t in found["tensors"]:
        assert set(t) >= TENSOR and t["param"] in params
        assert t["sha256"] is None if t["slot"] is None else re.fullmatch("[0-9a-f]{64}", t["sha256"])
    assert run("inspect", path).code == 0
    quick = run("inspect", path, "--quick", "--json").json
    assert [t["param"] for t in quick["tensors"]] == [t["param"] for t in found["tensors"]]


def test_inspect_with_names(run, model, names):
    for how in (("--model", model), ("--names", names)):
        found = run("inspect", TORCH / "adam.pt", *how, "--json").json
        assert [p for g in found["groups"] for p in g["params"]] == NAMES
    assert [
        p for g in run("inspect", TORCH / "adam.pt", "--json").json["groups"] for p in g["params"]
    ] == list("0123")


def test_names_in_a_file_are_text_whatever_they_look_like(run, tmp_path):
    """No markup, no terminal codes: a hostile name is printed, and does nothing."""
    for name in ("[/bold]", "[red]w[/red]", "[link=http://x]", "\x1b[2J\x1b]0;owned\x07", "a\nb", ":smile:"):
        state = ox.init(ox.spec("adam"), {name: np.zeros(2)})
        path = tmp_path / "x.safetensors"
        bundle.write(state, str(path))
        result = run("inspect", path)
        assert result.code == 0 and "\x1b" not in result.out and "\x07" not in result.out
        if name.isprintable():
            assert name in result.out
        assert run("inspect", path, "--json").json["tensors"][0]["param"] == name
        other = ox.init(ox.spec("adam", lr=9.0), {name: np.ones(2)})
        bundle.write(other, str(tmp_path / "y.safetensors"))
        result = run("diff", path, tmp_path / "y.safetensors")
        assert result.code == 1 and "\x1b" not in result.out
    folder = tmp_path / "[" / "bold]"
    folder.mkdir(parents=True)
    result = run("convert", path, folder / "o.safetensors")
    assert result.code == 0 and "[/bold]" in result.out


def test_numbers_that_json_lacks(run, tmp_path):
    state = ox.init(ox.spec("adam", lr=float("inf"), clip="before_decay"), {"w": np.array([1.0])})
    bundle.write(state, str(tmp_path / "a.safetensors"))
    found = run("inspect", tmp_path / "a.safetensors", "--json").json
    assert found["groups"][0]["hyperparameters"]["lr"] == "inf"


# convert.

CONVERSION = {"verdict", "conditions", "bound", "dropped", "tensors", "bytes", "seconds", "warnings"}


def test_convert_to_a_bundle_and_back(run, tmp_path, model):
    found = run("convert", TORCH / "adamw.pt", tmp_path / "o.safetensors", "--model", model, "--json").json
    assert set(found) >= CONVERSION and found["verdict"] == "exact" and found["bound"] is None
    assert (found["tensors"], found["bytes"]) == (8, 2 * 4 * (128 + 16 + 64 + 4))
    back = run("convert", tmp_path / "o.safetensors", tmp_path / "b.pt", "--json").json
    assert back["verdict"] == "exact"
    first, last = (run("inspect", p, *how, "--json").json for p, how in
                   ((TORCH / "adamw.pt", ("--names", names_of(tmp_path))), (tmp_path / "b.pt", ())))  # fmt: skip
    assert [t["sha256"] for t in first["tensors"]] == [t["sha256"] for t in last["tensors"]]
    assert run("diff", tmp_path / "o.safetensors", tmp_path / "b.pt", "--names", names_of(tmp_path)).code == 0


def names_of(folder: Path) -> Path:
    (folder / "n.txt").write_text("\n".join(NAMES))
    return folder / "n.txt"


def test_a_verdict_that_needs_consent(run, fails, tmp_path, model):
    target = tmp_path / "o.states"
    line = fails(1, "convert", TORCH / "adam.pt", target, "--model", model)
    assert line.startswith("torch:Adam to mxnet:adam: verdict bounded: an update changes by up to ")
    assert "accept it with --allow bounded" in line and not target.exists()
    found = run("convert", TORCH / "adam.pt", target, "--model", model, "--allow", "bounded", "--json").json
    assert found["verdict"] == "bounded" and 0 < found["bound"] < 1 and target.exists()
    assert run("convert", TORCH / "adam.pt", target, "--model", model, "--allow", "lossy").code == 0


def test_a_verdict_that_is_not_accepted_leaves_the_old_file(fails, tmp_path, model):
    target = tmp_path / "o.states"
    target.write_bytes(b"old")
    fails(1, "convert", TORCH / "adam.pt", target, "--model", model)
    assert target.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["model.safetensors", "o.states"]


def test_no_map_at_all(fails, tmp_path, model):
    target = tmp_path / "o.states"
    line = fails(1, "convert", TORCH / "adam.pt", target, "--model", model, "--optimizer", "mxnet:sgd")
    assert line.startswith("torch:Adam to mxnet:sgd: verdict none: ") and not target.exists()


def test_an_exact_conversion_for_people(run, tmp_path, model):
    result = run("convert", TORCH / "adamw.pt", tmp_path / "o.safetensors", "--model", model)
    assert result.code == 0 and result.out.startswith("exact ") and "8 tensors, 1696 bytes" in result.out


def test_a_file_without_hyperparameters(run, fails, tmp_path, names):
    source, target = MXNET / "module_adam.states", tmp_path / "o.safetensors"
    line = fails(2, "convert", source, target, "--names", names)
    assert line.startswith(
        f"{source}: does not say which optimizer wrote it; name it, as in --optimizer mxnet:NAME"
    )
    how = ("--names", names, "--optimizer", "mxnet:adam")
    assert "holds no hyperparameters; give them in mxnet's own names" in fails(
        2, "convert", source, target, *how
    )
    how = (*how, "--hyper", "learning_rate=0.01")
    assert "holds no step count, which mxnet:adam needs; give it with --step N" in fails(
        2, "convert", source, target, *how
    )
    found = run("convert", source, target, *how, "--step", 3, "--json").json
    assert found["verdict"] == "exact" and set(ox.load(target).steps.values()) == {3}


# diff.


def test_diff(run, tmp_path):
    a, b = (tmp_path / f"{n}.safetensors" for n in "ab")
    state = ox.init(ox.spec("adam"), {"w": np.array([1.0, 2.0])})
    for path, s in ((a, state), (b, ox.step(state, {"w": np.ones(2)}))):
        bundle.write(s, str(path))
    result = run("diff", a, a, "--json")
    assert result.code == 0 and result.json["equal"] is True
    result = run("diff", a, b, "--json")
    found = result.json
    assert (
        result.code == 1
        and found["equal"] is False
        and found["differences"] == ["parameter 'w': step 0 and 1"]
    )
    assert {s["slot"] for s in found["slots"]} == {"value", "exp_avg", "exp_avg_sq"}
    assert {"param", "slot", "relative", "bitwise"} <= set(found["slots"][0])
    assert run("diff", a, b, "--rtol", "1e9").code == 1  # steps have no tolerance
    assert run("diff", b, a).code == 1 and "different" in run("diff", b, a).out


def test_diff_within_a_tolerance(run, tmp_path):
    state = ox.step(ox.init(ox.spec("adam"), {"w": np.array([1.0])}), {"w": np.ones(1)})
    from dataclasses import replace

    for name, value in (("a", 1.0), ("b", 1.001)):
        bundle.write(replace(state, params={"w": np.array([value])}), str(tmp_path / name))
    assert run("diff", tmp_path / "a", tmp_path / "b", "--rtol", "1e-4").code == 1
    assert run("diff", tmp_path / "a", tmp_path / "b", "--rtol", "1e-2").code == 0


# emit.


@pytest.mark.parametrize("target", ["torch", "mxnet", "onnx"])
def test_emit(run, tmp_path, target):
    out = tmp_path / ("o.onnx" if target == "onnx" else "o.py")
    how = ("--hyper", "lr=0.01", "--param", "w:16x8", "--param", "b:16", "--param", "s:")
    found = run("emit", target, "--rule", "adamw", *how, "-o", out, "--json").json
    assert found == {
        "file": str(out),
        "bytes": out.stat().st_size,
        "target": target,
        "digest": found["digest"],
    }
    assert found["digest"] == CATALOGUE["adamw"].rule().digest
    first = out.read_bytes()
    assert run("emit", target, "--rule", "adamw", *how, "-o", out).code == 0
    assert out.read_bytes() == first


def test_emit_with_the_shapes_of_a_model(run, tmp_path, model):
    import onnx

    assert run("emit", "onnx", "--rule", "sgd", "--model", model, "-o", tmp_path / "o.onnx").code == 0
    inputs = {i.name for i in onnx.load(tmp_path / "o.onnx").graph.input}
    assert {f"{n}.grad" for n in NAMES} < inputs


# What goes wrong: exit code 2, one line, the thing's name.


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nosuch"], "optexport: No such command 'nosuch'. (see optexport --help)"),
        (["--nosuch"], "optexport: No such option '--nosuch'"),
        (["explain"], "optexport explain: Missing argument 'OPTIMIZER'."),
        (["explain", "adma"], "unknown rule 'adma'; expected a name of the catalogue, nearest: adam"),
        (["explain", "torch:Adma"], "unknown optimizer 'Adma' of torch; expected a native one, nearest: Adam"),
        (["explain", "adam", "torch:Adma"], "unknown optimizer 'Adma' of torch; expected a native one, nearest: Adam"),
        (["explain", "tensorflow:Adam"], "unknown framework 'tensorflow'; expected one of "),
        (["explain", "adam", "--hyper", "beta1=1.5"], "adam: 'beta1' expected a number in [0, 1), found 1.5"),
        (["explain", "adam", "--hyper", "eps=-1"], "adam: 'eps' expected a number in [0, inf], found -1"),
        (["explain", "adam", "--hyper", "lr=NaN"], "adam: 'lr' expected a number in [-inf, inf], found nan"),
        (["explain", "adam", "--hyper", "lr=" + "9" * 400], "adam: 'lr' expected a number in [-inf, inf], found 99"),
        (["explain", "adam", "--hyper", "lr"], "optexport explain: --hyper 'lr': expected NAME=VALUE, as in "),
        (["explain", "adam", "--hyper", "=1"], "optexport explain: --hyper '=1': expected NAME=VALUE, as in "),
        (["explain", "adam", "--hyper", "tau=1"], "adam: unknown argument 'tau'; expected an option among "),
        (["explain", "adam", "--hyper", "decay=l1"], "adam: option 'decay' expected one of "),
        (["explain", "torch:AdamW", "--hyper", "betas=(a,b)"], "optexport explain: --hyper 'betas=(a,b)': expected numbers"),
        (["explain", "torch:AdamW", "--hyper", "betas=0.9"], "torch:AdamW: argument 'betas[0]': 'beta1' expected a number"),
        (["explain", "torch:AdamW", "--hyper", "betas=(0.9,)"], "torch:AdamW: argument 'betas[1]': 'beta2' expected a nu"),
        (["explain", "torch:RMSprop", "--hyper", "momentum=fast"], "torch:RMSprop: argument 'momentum' expected a number"),
        (["explain", "torch:SGD", "--hyper", "nesterov=true"], "torch:SGD: nesterov expected momentum > 0 and dampening"),
        (["explain", "torch:SGD", "--hyper", "mometum=0.9"], "torch:SGD: unknown argument 'mometum'; expected one of "),
        (["inspect", "none.pt"], "none.pt: no such file or folder"),
        (["convert", "none.pt", "o.safetensors"], "none.pt: no such file or folder"),
        (["diff", "none.pt", "none.pt"], "none.pt: no such file or folder"),
        (["inspect", DATA], f"{DATA}: expected optimizer state in one of the formats bundle, "),
        (["inspect", __file__], f"{__file__}: expected optimizer state in one of the formats bundle, "),
        (["inspect", TORCH / "adam.pt", "--from", "pickle"], "unknown format 'pickle'; expected one of bundle, "),
        (["inspect", TORCH / "adam.pt", "--optimizer", "torch:adma"], "unknown optimizer 'adma' of torch; expected a nat"),
        (["inspect", TORCH / "adam.pt", "--names", "none"], "none: no such file; expected a list of parameter names"),
        (["convert", TORCH / "adam.pt", "o.xyz"], "o.xyz: the name does not tell the format; give it with --to, one of "),
        (["convert", TORCH / "adam.pt", "o", "--to", "tf"], "--to tf: expected one of the formats bundle, "),
        (["convert", TORCH / "adam.pt", "o.pt", "--step", "-3"], "optexport convert: Invalid value for '--step': "),
        (["convert", TORCH / "adam.pt", "o.pt", "--allow", "all"], "optexport convert: Invalid value for '--allow': "),
        (["convert", TORCH / "adam.pt", "o.pt", "--lr", "x"], "optexport convert: Invalid value for '--lr': "),
        (["diff", BUNDLE, BUNDLE, "--rtol", "x"], "optexport diff: Invalid value for '--rtol': "),
        (["emit", "caffe", "--rule", "adam", "-o", "o"], "emit: unknown target 'caffe'; expected one of "),
        (["emit", "torch", "--rule", "adma", "-o", "o"], "unknown rule 'adma'; expected a name of the catalogue, nearest"),
        (["emit", "torch", "--rule", "adam"], "optexport emit: Missing option '-o'"),
        (["emit", "onnx", "--rule", "adam", "--param", "w", "-o", "o"], "optexport emit: --param 'w': expected NAME:SHAPE"),
        (["emit", "onnx", "--rule", "adam", "--param", "w:x", "-o", "o"], "optexport emit: --param 'w:x': expected NAME:"),
        (["emit", "onnx", "--rule", "adam", "--param", "w:-2", "-o", "o"], "parameter 'w': expected a shape, a tuple of i"),
        (["emit", "torch", "--rule", "adam", "-o", "none/there/o.py"], "none/there/o.py: cannot be written: no such file"),
    ],
    ids=lambda v: "-".join(map(str, v))[:60] if isinstance(v, list) else "",
)  # fmt: skip
def test_bad_usage_is_one_line(fails, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert fails(2, *argv).startswith(message)
    assert os.listdir(tmp_path) == []


def test_names_that_cannot_be_told(fails, tmp_path, model):
    target = tmp_path / "o.safetensors"
    source = TORCH / "adam.pt"
    assert fails(2, "convert", source, target) == (
        f"{source}: parameters are known by index only, 0, 1, 2, 3…; give their names with --model FILE (weights) or "
        "--names FILE (a list in the order the optimizer was given them)"
    )
    save_file({n: np.zeros((4, 4), np.float32) for n in "abcd"}, tmp_path / "m")
    line = fails(2, "convert", source, target, "--model", tmp_path / "m")
    assert line.startswith(
        f"{source}: parameter '0': expected a shape of the model, found [16, 8]; the model has a [4, 4]"
    )
    save_file({n: np.zeros((16, 8), np.float32) for n in "abcd"}, tmp_path / "m")
    assert fails(2, "convert", source, target, "--model", tmp_path / "m") == (
        f"{source}: parameter '0' of shape [16, 8] may be a or b or c or d; only order tells them apart: state it with "
        "--names (a list in the order the optimizer was given them)"
    )
    save_file({"a": np.zeros((16, 8), np.float32)}, tmp_path / "m")
    assert "holds 4 parameters, the model has 1 (a)" in fails(
        2, "convert", source, target, "--model", tmp_path / "m"
    )
    (tmp_path / "few").write_text("a\nb\n")
    assert "the list of names has 2" in fails(2, "convert", source, target, "--names", tmp_path / "few")
    wrong = tmp_path / "wrong"
    wrong.write_text("\n".join(reversed(NAMES)))
    line = fails(2, "convert", source, target, "--names", wrong, "--model", model)
    assert "parameter 'fc2.bias': state has shape [16, 8], the model [4]" in line
    assert not target.exists()


def test_an_unknown_target_optimizer(fails, tmp_path, model):
    target = tmp_path / "o.states"
    line = fails(2, "convert", TORCH / "adam.pt", target, "--model", model, "--optimizer", "mxnet:adma")
    assert line.startswith("unknown optimizer 'adma' of mxnet; expected a native one, nearest: ")
    assert "adam" in line and not target.exists()


@pytest.mark.parametrize("path", [p for p in FILES if p.is_file()], ids=lambda p: p.name)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files(fails, tmp_path, path, part):
    cut = tmp_path / path.name
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    for argv in (("inspect", cut), ("convert", cut, tmp_path / "o", "--to", "bundle"), ("diff", cut, cut)):
        assert fails(2, *argv).startswith(str(cut))
    assert not (tmp_path / "o").exists()


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def hostile(canary: Path) -> dict[str, bytes]:
    """Pickles that ask for ``os.system``, in every container there is."""
    out = {}
    for protocol in (0, 2, 4, 5):
        out[f"p{protocol}.states"] = pickle.dumps(({0: Evil(canary)}, Evil(canary)), protocol)
        out[f"bare{protocol}.pkl"] = pickle.dumps(Evil(canary), protocol)
        blob = io.BytesIO()
        with zipfile.ZipFile(blob, "w") as archive:
            value = {"state": {0: {"step": Evil(canary)}}, "param_groups": [{"params": [0], "lr": 0.1}]}
            archive.writestr("archive/data.pkl", pickle.dumps(value, protocol))
            archive.writestr("archive/version", "3\n")
        out[f"zip{protocol}.pt"] = blob.getvalue()
    magic = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, Evil(canary), []]
    out["legacy.pt"] = b"".join(pickle.dumps(v, 2) for v in magic)
    return out


def test_a_pickle_that_asks_for_os_system_is_never_run(run, tmp_path):
    canary = tmp_path / "canary"
    os.system(f"touch '{canary}'")  # the file would appear; the test can fail
    assert canary.exists()
    canary.unlink()
    for name, data in hostile(canary).items():
        path = tmp_path / name
        path.write_bytes(data)
        for argv in (
            ("inspect", path),
            ("convert", path, tmp_path / "o.safetensors", "--names", path),
            ("convert", path, tmp_path / "o.safetensors", "--model", path),
            ("convert", TORCH / "adam.pt", tmp_path / "o.safetensors", "--model", path),
            ("diff", path, path),
            *(("inspect", path, "--from", f) for f in ("torch", "mxnet")),
        ):
            result = run(*argv)
            assert result.code == 2 and result.out == "" and len(result.err.splitlines()) == 1, (argv, result)
            assert not canary.exists(), argv
    assert not (tmp_path / "o.safetensors").exists()


def test_what_a_hostile_pickle_asked_for_is_named(fails, tmp_path):
    for name, data in hostile(tmp_path / "canary").items():
        (tmp_path / name).write_bytes(data)
        # A pickle that does not name MXNet is no format's, until somebody says it is.
        how = () if name.endswith(".pt") else ("--from", "mxnet")
        assert "system" in fails(2, "inspect", tmp_path / name, *how), name


def test_a_spec_that_a_file_lies_about(fails, run, tmp_path):
    """A slot that PyTorch's Adam does not have, and shapes that disagree."""
    from optexport.converters.torch import checkpoint

    arguments = {
        "lr": 0.1,
        "betas": (0.9, 0.99),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": False,
    }
    arguments |= {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
    one = np.ones(2, np.float32)
    for slots, message in (
        ({"exp_avg": one, "exp_avg_sq": np.ones(3, np.float32)}, "expected slots of one shape, found exp_avg [2], exp_av"),
        ({"exp_avg": one, "square_avg": one}, "expected the slots of torch:Adam (exp_avg, exp_avg_sq), found "),
    ):  # fmt: skip
        step = {"step": np.float32(1).reshape(())}
        native = NativeState(
            "torch", "", "Adam", [NativeGroup(arguments, ["w"])], {"w": {**step, **slots}}, {"w": 1}, True
        )
        checkpoint.write(native, tmp_path / "a.pt")
        line = fails(2, "convert", tmp_path / "a.pt", tmp_path / "o.safetensors", "--optimizer", "torch:Adam",
                     "--names", names_file(tmp_path, ["w"]))  # fmt: skip
        assert message in line
        # Inspecting shows what is there, and says what is wrong with it.
        found = run("inspect", tmp_path / "a.pt", "--json").json
        assert len(found["tensors"]) == 3 and found["warnings"]
    assert not (tmp_path / "o.safetensors").exists()


def names_file(folder: Path, names: list[str]) -> Path:
    (folder / "one").write_text("\n".join(names))
    return folder / "one"


# As processes.


def process(*argv: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optexport", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


def test_without_arguments_the_help_is_printed():
    done = process()
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == process("--help").stdout
    assert "Commands:" in done.stdout


def test_exit_codes_of_a_process(tmp_path):
    done = process("explain", "adma")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(
        "optexport: unknown rule 'adma'"
    )
    assert len(done.stderr.splitlines()) == 1
    assert process("diff", BUNDLE, BUNDLE).returncode == 0
    assert process("--version").stdout == f"{ox.__version__}\n"


def test_a_reader_that_goes_away_is_told_nothing():
    """``true`` has ended long before there is anything to read. No success: nobody saw the result."""
    command = f"'{sys.executable}' -m optexport explain adam --json | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_output_has_no_colour_where_nobody_looks():
    done = process("inspect", BUNDLE, env={**os.environ, "TERM": "xterm-256color"})
    assert "\x1b" not in done.stdout and done.stdout.isascii() is False


def test_an_optimizer_that_must_be_named_is_not_chosen(run, tmp_path, model):
    """AdamW goes exactly into MXNet's operator, which has no states file; the class for it has another rule."""
    found = run(
        "convert", TORCH / "adamw.pt", tmp_path / "o.states", "--model", model, "--allow", "lossy", "--json"
    )
    assert found.code == 0 and found.json["optimizer"] == "mxnet:adam" and found.json["verdict"] != "exact"
