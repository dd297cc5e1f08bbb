"""`optexport.check` and the pytest plugin: right ones pass, wrong ones fail with the sentence that says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

import optexport as ox
from optexport.errors import HyperparameterError, UnknownNameError
from optexport.identify import identify
from optexport.ir.analysis import scalars
from optexport.parity import mine
from optexport.rules import CATALOGUE
from optexport.state.manifest import spec_text
from tests.parity.backends import require_backend
from tests.test_pages import _installed

ROOT = Path(__file__).parent.parent.parent
RATE = {"lr": 0.01}


def adam(param: Any, grad: Any, state: Any, step: int, lr: float, change: str = "") -> Any:
    """Adam in NumPy, with one planted change."""
    b1, b2 = 0.9, 0.999
    m = b1 * state.get("m", np.zeros_like(param)) + (1 - b1) * grad
    v = b2 * state.get("v", np.zeros_like(param)) + (1 - b2) * grad**2
    count = step + 1 if change == "count" else step
    c1, c2 = 1 - b1**count, 1 if change == "correction" else 1 - b2**count
    root = np.sqrt(v / c2 + 1e-8) if change == "eps inside" else np.sqrt(v / c2) + 1e-8
    if change == "float32":
        b2 = float(np.float32(b2))
        v = b2 * state.get("v", np.zeros_like(param)) + (1 - b2) * grad**2
        root = np.sqrt(v / (1 - b2**step)) + 1e-8
    return param - lr * (m / c1) / root, {"m": m, "v": v}


def test_a_function_that_is_the_rule_passes() -> None:
    found = ox.check(adam, "adam", arguments=RATE)

    assert found.passed and found.first is None
    assert found.sentence == "adam computes the rule adam: 30 updates in float64 within the bound"
    assert found.paired[("w", "exp_avg")] == "m" and not found.unseen and found.rate_drops
    assert "exp_avg_sq  –" in str(found) and "(v)" in str(found)


@pytest.mark.parametrize(
    ("change", "slot"),
    [("count", "param"), ("correction", "param"), ("eps inside", "param"), ("float32", "exp_avg_sq")],
)
def test_a_planted_change_is_found(change: str, slot: str) -> None:
    found = ox.check(adam, ox.spec("adam", **RATE), arguments={**RATE, "change": change})

    assert not found.passed
    assert found.first is not None and found.first["update"] == 1
    outside = {s.slot for s in found.measured.slots if s.first is not None}
    assert slot in outside
    assert found.sentence.startswith("adam does not compute the rule adam: update 1, parameter ")
    assert "exp_avg" not in outside or change == "float32"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_false_alarm_on_pytorchs_own(seed: int) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch, which is not in this environment")
    for name, arguments in [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("AdamW", {"lr": 0.01, "amsgrad": True}),
        ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
        ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
        ("NAdam", {"lr": 0.01, "weight_decay": 0.1}),
        ("SparseAdam", {"lr": 0.01}),
    ]:
        found = ox.check(getattr(torch.optim, name), f"torch:{name}", arguments=arguments, seed=seed)
        assert found.passed, str(found)


def test_two_optimizers_of_two_frameworks() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch, which is not in this environment")
    optax = pytest.importorskip("optax", reason="needs Optax, which is not in this environment")

    same = ox.check(
        torch.optim.AdamW,
        optax.adamw,
        arguments=RATE,
        against_arguments={"learning_rate": 0.01, "weight_decay": 0.01},
    )
    other = ox.check(torch.optim.AdamW, optax.adam(0.01), arguments=RATE, against_arguments={})

    assert same.passed, str(same)
    assert not other.passed and other.first is not None and other.first["update"] == 1


def test_an_mxnet_optimizer_and_its_twin() -> None:
    require_backend("mxnet")
    from optexport.converters.mxnet._import import import_mxnet

    made = import_mxnet().optimizer.create("adam", learning_rate=0.01)
    found = ox.check(made, ox.native("mxnet:adam", learning_rate=0.01))

    assert found.passed, str(found)
    assert found.dtype == "float32" and found.paired[("w", "mean")] == "state[0]"


def test_an_onnx_update_graph(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
    graph = ox.emit(ox.native("torch:AdamW", lr=0.01), "onnx", params={"w": (4, 3), "b": (3,)})
    file = tmp_path / "update.onnx"
    file.write_bytes(graph.SerializeToString())

    found = ox.check(str(file), "torch:AdamW", arguments=RATE)
    wrong = ox.check(str(file), "torch:Adam", arguments=RATE)

    assert found.passed and found.shapes == {"w": (4, 3), "b": (3,)}, str(found)
    assert not wrong.passed


@pytest.mark.parametrize("optimizer", ["torch:AdamW", "torch:NAdam"])
def test_the_update_of_a_training_graph(optimizer: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
    network = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]>
        net (float[N, 4] x) => (float[N, 3] y)
            <float[4, 3] w1 = {0.1,-0.2,0.3,0.4,0.5,-0.6,0.7,0.8,0.9,0.1,0.2,-0.3}, float[3] w10 = {0.1,0.2,0.3}>
        { h = MatMul (x, w1)  a = Tanh (h)  y = Mul (a, w10) }"""
    )
    graph = ox.training_graph(network, "mse", ox.native(optimizer, lr=0.01))
    file = tmp_path / "training.onnx"
    file.write_bytes(graph.SerializeToString())

    found = ox.check(str(file), optimizer, arguments=RATE)
    wrong = ox.check(str(file), "torch:Adamax", arguments=RATE)
    named = identify(str(file), RATE)
    told = next(p for p in graph.metadata_props if p.key == "optexport.spec")
    told.value = spec_text(ox.native("torch:Adamax", lr=0.01))
    file.write_bytes(graph.SerializeToString())
    lied_to = identify(str(file), RATE)

    assert found.passed and found.shapes == {"w1": (4, 3), "w10": (3,)}, str(found)
    assert ("w10", "exp_avg") in found.paired and "exp_avg" not in found.unseen
    assert not wrong.passed
    assert named.matches and named.family == ox.native(optimizer).groups[0].rule.family
    # What the file says is where the search begins, no more.
    assert lied_to.family != "adamax" or not lied_to.matches


def _raises(param: Any, grad: Any, state: Any, step: int) -> Any:
    if step == 4:
        raise ValueError("no luck today")
    return param, state


def _nan(param: Any, grad: Any, state: Any, step: int) -> Any:
    return param - 0.1 * grad * (np.nan if step == 6 else 1), state


def _shape(param: Any, grad: Any, state: Any, step: int) -> Any:
    return param[:2], state


def _noisy(param: Any, grad: Any, state: Any, step: int) -> Any:
    return param - 0.1 * grad + 1e-6 * np.random.default_rng().standard_normal(param.shape), state


def _alone(param: Any, grad: Any, state: Any, step: int) -> Any:
    return param


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (_raises, "raises", "_raises: raises at step 4: ValueError: no luck today"),
        (_nan, "nan", "_nan: the optimizer returns NaN where the referee has numbers, from update 6 on"),
        (
            _shape,
            "shape",
            "_shape: changes the shape of a parameter at step 1: expected (7, 5), found (2, 5)",
        ),
        (
            _noisy,
            "nondeterministic",
            "_noisy: the optimizer is not deterministic: two runs on the same gradients",
        ),
        (_alone, "raises", "_alone: expected a pair (param, state) from f(param, grad, state, step)"),
    ],
)
def test_what_is_wrong_apart_from_numbers_is_a_sentence(function: Any, kind: str, said: str) -> None:
    found = ox.check(function, "sgd", against_arguments={"lr": 0.1})

    assert not found.passed and found.measured.fault is not None
    assert found.measured.fault.kind == kind
    assert found.sentence.startswith(said), found.sentence


def test_an_optimizer_that_needs_a_closure_says_so() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch, which is not in this environment")

    found = ox.check(torch.optim.LBFGS, "sgd", arguments={"lr": 0.1, "max_iter": 3}, against_arguments=RATE)

    assert found.measured.fault is not None and found.measured.fault.kind == "closure"
    assert "needs a closure and evaluates it" in found.sentence


def test_bad_usage() -> None:
    with pytest.raises(UnknownNameError, match=r"expected an optimizer of PyTorch, Optax, Keras or MXNet"):
        ox.check(42, "sgd", against_arguments=RATE)
    with pytest.raises(HyperparameterError, match="steps: expected at least 1, found 0"):
        ox.check(_nan, "sgd", against_arguments=RATE, steps=0)
    with pytest.raises(HyperparameterError, match="dtype: expected one of float64, float32, found 'int8'"):
        ox.check(_nan, "sgd", against_arguments=RATE, dtype="int8")
    with pytest.raises(
        HyperparameterError, match="expected a rule of gradients alone, found one that draws noise"
    ):
        ox.check(_nan, "sgld", against_arguments=RATE)


def test_the_bound_between_two_unknown_optimizers_covers_every_rule() -> None:
    """Matrices and histories aside."""
    counts = {}
    for name in CATALOGUE if isinstance(CATALOGUE, dict) else [e.name for e in CATALOGUE]:
        program = ox.spec(name).groups[-1].rule.program
        live = program.used() - set(scalars(program))
        counts[name] = sum(program.nodes[i].op not in ("input", "const") for i in live)
    assert max(n for k, n in counts.items() if k not in ("lbfgs", "muon")) == mine.OPERATIONS


PLUGIN_TEST = """
def sgd(param, grad, state, step, lr):
    return param - lr * grad, state

def test_right(assert_same_update):
    assert assert_same_update(sgd, "sgd", arguments={"lr": 0.1}).passed

def test_wrong(assert_same_update):
    assert_same_update(sgd, "sgd", arguments={"lr": 0.1}, against_arguments={"lr": 0.2})
"""


def test_the_plugin_fails_with_the_table(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST, encoding="utf-8")
    plugin = [] if _installed() else ["-p", "optexport.pytest_plugin"]

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "test_it.py"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "sgd does not compute the rule sgd: update 1, parameter" in done.stdout
    assert "parameter  slot   first out  worst error  bound there  ULP" in done.stdout
    assert "mine.py" not in done.stdout


def test_the_plugin_imports_nothing_before_it_is_used() -> None:
    code = (
        "import sys; import pytest; before = set(sys.modules); import optexport.pytest_plugin; "
        "print(sorted(m for m in set(sys.modules) - before if m.partition('.')[0] != 'optexport'), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[] False", done.stdout + done.stderr
