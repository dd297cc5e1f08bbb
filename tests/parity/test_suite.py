"""The suite against the real backends, and against workers that are broken: each a result, none a hang."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from optexport.errors import CheckpointError, UnknownNameError
from optexport.parity.cases import Case, default_cases, plan, rows_for
from optexport.parity.gradients import extreme, recorded
from optexport.parity.suite import Report, run_suite
from optexport.parity.table import table
from tests.parity.backends import has
from tests.parity.broken import altered, dying_at, program

needs_onnx = pytest.mark.skipif(not has("onnx"), reason="needs onnxruntime, which is not in this environment")


def cases(steps: int = 6, rule: str = "onnx:Adam") -> list[Case]:
    return plan(rows_for(rule), backends=["onnx"], dtypes=("float32",), steps=steps)


def run(python: str, **more: float) -> Report:
    return run_suite(cases(), pythons={"onnx": python}, **more)  # type: ignore[arg-type]


@needs_onnx
def test_the_real_backend_is_within() -> None:
    told = []
    report = run_suite(cases(), told=told.append)
    assert report.passed and [r.status for r in report.results] == ["within"] * len(cases())
    assert len(told) == len(cases())
    assert (
        report.workers[0].python == sys.executable
        and report.workers[0].environment["numpy"] == np.__version__
    )
    for r in report.results:
        assert r.measured is not None and 0 < r.measured.error < 1e-5
        assert {s.slot for s in r.measured.slots} >= {"param"} and all(
            len(s.errors) == 6 for s in r.measured.slots
        )


@needs_onnx
@pytest.mark.parametrize("problem", ["extreme", "digits"])
def test_other_problems(problem: str) -> None:
    if problem == "digits":
        pytest.importorskip("sklearn", reason="needs scikit-learn, which is not in this environment")
    rows = rows_for("adamw", {"lr": 0.03})
    report = run_suite(plan(rows, backends=["onnx"], problems=(problem,), steps=25))
    assert report.passed, [r.sentence for r in report.results]
    if problem == "digits":
        losses = report.results[0].losses
        assert losses[-1] < 0.5 * losses[0]  # it trains
        (referee,) = report.losses.values()
        assert np.allclose(losses, referee, rtol=1e-5)


@needs_onnx
def test_a_planted_difference_is_found_where_it_is(tmp_path: Path) -> None:
    change = (
        "for i, (param, slot) in key.items():\n"
        "    if slot != 'param' and param == 'b' and slot.startswith('h') or slot == 'exp_avg_sq': arrays[i][3:] *= 1.001"
    )
    report = run(altered(tmp_path, "wrong", change))
    assert not report.passed
    bad = [r for r in report.results if r.status == "outside"]
    assert bad
    for r in bad:
        first = r.measured.first if r.measured else None
        assert first is not None and first["update"] == 4 and first["slot"] != "param"
        assert r.sentence.startswith("update 4, parameter ")


@needs_onnx
def test_nan_from_a_backend_is_a_sentence(tmp_path: Path) -> None:
    report = run(altered(tmp_path, "nan", "arrays['0'][2:] = np.nan"))
    assert {r.status for r in report.results} == {"fault"}
    assert report.results[0].sentence.startswith(
        "the optimizer returns NaN where the referee has numbers, from update 3 on"
    )


@needs_onnx
def test_a_worker_that_dies_loses_one_case_and_goes_on(tmp_path: Path) -> None:
    report = run(dying_at(tmp_path, 1))
    lost = [r for r in report.results if r.status == "lost"]
    assert lost and not report.passed
    assert "worker onnx" in lost[0].sentence and "it ended with exit code 3" in lost[0].sentence
    assert report.results[0].status == "within"


@needs_onnx
def test_a_worker_that_always_dies_is_given_up(tmp_path: Path) -> None:
    many = cases() + plan(rows_for("adam"), backends=["onnx"], dtypes=("float32",), steps=6)
    report = run_suite(many, pythons={"onnx": dying_at(tmp_path, 0, "os.kill(os.getpid(), signal.SIGSEGV)")})
    assert [r.status for r in report.results] == ["lost"] * 3 + ["not-run"] * (len(many) - 3)
    assert "it died of signal SIGSEGV" in report.workers[0].sentence
    assert "lost 3 times, the rest is given up" in report.workers[0].sentence
    assert report.workers[0].status == "died"


@needs_onnx
def test_a_worker_that_hangs_at_a_case_is_ended(tmp_path: Path) -> None:
    report = run(dying_at(tmp_path, 1, "time.sleep(1000)"), timeout=4)
    lost = [r for r in report.results if r.status == "lost"]
    assert lost and "no answer within 4 s for onnx:Adam" in lost[0].sentence
    assert lost[0].sentence.startswith("hung: ")


@needs_onnx
def test_a_framework_that_prints_disturbs_nothing(tmp_path: Path) -> None:
    chatty = altered(tmp_path, "chatty", "print('hello')\nos.write(1, b'from C')")
    assert run(chatty).passed


@needs_onnx
def test_rubbish_between_frames_is_shown(tmp_path: Path) -> None:
    # (File descriptor 3 is where the worker keeps its way out.)
    report = run(altered(tmp_path, "rubbish", "os.write(3, b'Traceback?')"))
    assert report.results[0].status == "lost"
    assert "expected a message on its standard output, found 'Traceback?" in report.results[0].sentence


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("exit 7", "died", "it ended with exit code 7"),
        ("echo 'no such machine' >&2; exit 7", "died", "its last words: no such machine"),
        ("kill -9 $$", "died", "it died of signal SIGKILL"),
        ("echo Python 2.7.18", "rubbish", "found 'Python 2.7.18"),
        ("cat /dev/zero", "rubbish", "expected a message on its standard output"),
        ("sleep 1000", "hung", "no answer within 1 s to say what it is"),
        ("printf 'OXP1'; sleep 1000", "hung", "no answer within 1 s to say what it is"),
    ],
)
def test_an_interpreter_that_is_none(tmp_path: Path, body: str, kind: str, said: str) -> None:
    begun = time.monotonic()
    report = run(program(tmp_path, "python", body), hello_timeout=1)
    assert time.monotonic() - begun < 60  # nothing waited for the sleep
    assert report.workers[0].status == kind and said in report.workers[0].sentence
    assert {r.status for r in report.results} == {"not-run"} and not report.passed


def test_an_interpreter_without_optexport(tmp_path: Path) -> None:
    report = run(program(tmp_path, "python", f'exec {sys.executable} -I -S "$@"'))
    assert report.workers[0].status == "absent"
    assert "has no optexport with parity workers; install it there" in report.workers[0].sentence
    assert not report.passed  # the user named it


def test_an_interpreter_that_cannot_be_started(tmp_path: Path) -> None:
    report = run(str(tmp_path / "nothing"))
    assert "cannot be started: No such file or directory" in report.workers[0].sentence and not report.passed


@needs_onnx
def test_a_framework_that_is_not_there_is_a_failure_where_it_was_asked_for(tmp_path: Path) -> None:
    script = tmp_path / "without.py"
    script.write_text(
        "import sys\nsys.modules['onnxruntime'] = None\nsys.argv = sys.argv[2:]\n"
        "from optexport.parity import worker\nworker.main()\n"
    )
    body = f'exec {sys.executable} {script} "$@"'
    report = run(program(tmp_path, "python", body))
    assert report.workers[0].status == "absent"
    assert report.workers[0].sentence.startswith("onnx cannot be imported here: ")
    assert not report.passed and {r.status for r in report.results} == {"not-run"}


@needs_onnx
def test_an_optimizer_that_is_not_deterministic_is_said(tmp_path: Path) -> None:
    body = (
        "import optexport.parity.worker as w\n"
        "plain = w._snapshots\n"
        "def noisy(*given):\n"
        "    for t, (params, slots) in enumerate(plain(*given)):\n"
        "        if t >= 2: params = {n: v * (1 + 1e-7 * time.time_ns() % 7e-7) for n, v in params.items()}\n"
        "        yield params, slots\n"
        "w._snapshots = noisy"
    )
    path = altered(tmp_path, "noisy", "pass")
    script = tmp_path / "noisy.py"
    script.write_text(script.read_text().replace("worker.main()", body + "\nworker.main()"))
    report = run_suite(cases(), pythons={"onnx": path}, twice=True)
    assert report.results[0].status == "fault"
    assert "the optimizer is not deterministic" in report.results[0].sentence
    assert "from update 3 on" in report.results[0].sentence


def test_extreme_gradients_reach_what_float32_has() -> None:
    p = extreme("float32", 20)
    values = np.abs(np.concatenate([g[n].ravel() for g in p.grads for n in g]))
    assert (values == 0).any() and ((values > 0) & (values < np.finfo(np.float32).tiny)).any()
    assert values.max() > 1e5 and ((values > 1e-16) & (values < 1e-11)).any()


@needs_onnx
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_recorded_gradients(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(1)
    held = {
        "fc": rng.standard_normal((8, 3, 4)).astype(np.float32),
        "bias": rng.standard_normal((8, 4)).astype(np.float32),
    }
    held["param:fc"] = np.full((3, 4), 0.5, np.float32)
    path = tmp_path / f"g.{suffix}"
    if suffix == "npz":
        np.savez(path, **held)
    else:
        save_file(held, path)
    p = recorded(path)
    assert np.array_equal(p.params["fc"], held["param:fc"]) and len(p.grads) == 8
    assert all(np.array_equal(g["bias"], held["bias"][t]) for t, g in enumerate(p.grads))
    chosen = plan(rows_for("adam"), backends=["onnx"], problems=("recorded",))
    report = run_suite(chosen, gradients=str(path))
    assert report.passed
    measured = report.results[0].measured
    assert measured is not None and {s.param for s in measured.slots} == {"fc", "bias"}
    assert all(len(s.errors) == 8 for s in measured.slots)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({}, "expected gradients, NAME -> array with the step first, found none"),
        (
            {"a": np.zeros((3, 2)), "b": np.zeros((4, 2))},
            "expected as many steps for every parameter, at least 1, found 'a' 3, 'b' 4",
        ),
        ({"a": np.zeros((0, 2))}, "at least 1, found 'a' 0"),
        (
            {"a": np.zeros((3, 2)), "param:a": np.zeros(3)},
            r"param:a has shape \(3,\); its gradients have \(2,\)",
        ),
        ({"a": np.zeros((3, 2), int)}, "'a': expected floating-point numbers, found int64"),
        (
            {"a": np.array([{}], object)},
            "expected a .npz or .safetensors file of numbers, found one that cannot be read",
        ),
    ],
)
def test_a_file_of_gradients_that_is_none(tmp_path: Path, held: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "g.npz", **held)
    with pytest.raises(CheckpointError, match=said):
        recorded(tmp_path / "g.npz")


def test_the_default_suite_has_every_native_optimizer() -> None:
    chosen = default_cases()
    assert {c.row.optimizer for c in chosen if c.form == "native"} == {r.optimizer for r in table()}
    assert len({c.id for c in chosen}) == len(chosen)
    assert {c.problem for c in chosen} == {"standard", "extreme", "digits"}


def test_a_rule_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match="unknown rule 'nosuch'"):
        rows_for("nosuch")


def test_arguments_keep_the_condition_number_of_the_rule() -> None:
    (row,) = rows_for("torch:RMSprop", {"lr": 0.5, "centered": True})
    assert row.amplification == 16 and row.arguments == {"lr": 0.5, "centered": True}
    (row,) = rows_for("torch:RMSprop", {"lr": 0.5})
    assert row.amplification == 1


@pytest.mark.skipif(not has("mxnet"), reason="needs MXNet, which is not in this environment")
def test_tables_by_index_reach_a_worker() -> None:
    """JSON has no keys that are numbers."""
    rows = [r for r in table() if r.optimizer == "mxnet:lars" and r.desc == "names"]
    assert rows and all(isinstance(i, int) for i in rows[0].arguments["param_idx2name"])
    report = run_suite(plan(rows, backends=["mxnet"], dtypes=("float32",), steps=6))
    assert report.passed and report.results, [r.sentence for r in report.results]


def test_a_rule_of_the_catalogue_has_no_framework_of_its_own() -> None:
    forms = {(c.form, c.backend) for c in plan(rows_for("adamw"))}
    assert {"torch", "onnx"} <= {b for _, b in forms} and {f for f, _ in forms} == {"emitted"}
    assert ("native", "torch") in {(c.form, c.backend) for c in plan(rows_for("torch:AdamW"))}
