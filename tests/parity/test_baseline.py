"""Baselines: the same numbers pass, a changed one is found with where and by how much."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from optexport.errors import CheckpointError
from optexport.parity.baseline import compare_baseline, kept_updates, save_baseline
from optexport.parity.cases import plan, rows_for
from optexport.parity.suite import Report, run_suite
from tests.parity.backends import has
from tests.parity.broken import altered

pytestmark = pytest.mark.skipif(not has("onnx"), reason="needs onnxruntime, which is not in this environment")


@pytest.fixture(scope="module")
def report() -> Report:
    return suite()


def suite(python: str | None = None) -> Report:
    cases = plan(rows_for("adam", {"lr": 0.01}), backends=["onnx"], steps=20)
    return run_suite(cases, pythons={"onnx": python} if python else {}, keep=True)


@pytest.fixture
def saved(report: Report, tmp_path: Path) -> Path:
    path = tmp_path / "baseline.safetensors"
    assert save_baseline(report, path) == path.stat().st_size
    return path


def test_the_same_numbers_pass(saved: Path) -> None:
    made = compare_baseline(suite(), saved)
    assert made.changes == () and made.regressions == () and made.compared == 2 and made.environment == {}
    assert made.sentences() == ["2 of 2 cases have the same bits as in the baseline"]


def test_the_same_report_is_the_same_file(report: Report, saved: Path, tmp_path: Path) -> None:
    save_baseline(report, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_one_unit_in_the_last_place_is_found_where_it_is(saved: Path, tmp_path: Path) -> None:
    change = (
        "for i, k in key.items():\n"
        "    if k[1] == 'exp_avg_sq' and k[0] == 'b' and arrays[i].dtype == np.float32: "
        "arrays[i][11:, 2] = np.nextafter(arrays[i][11:, 2], np.float32(9))"
    )
    now = suite(altered(tmp_path, "python", change))
    assert now.passed  # far inside the bound: only a baseline sees it
    made = compare_baseline(now, saved)
    (found,) = made.changes
    assert (found.kind, found.update, found.param, found.slot, found.ulp_max) == (
        "changed",
        12,
        "b",
        "exp_avg_sq",
        1,
    )
    assert (
        "numbers differ from update 12 on, first parameter 'b', exp_avg_sq; by at most 1 units"
        in found.sentence
    )
    assert made.regressions == (found,)
    assert compare_baseline(now, saved, ulp=1).regressions == ()
    assert "1 of 2 cases have the same bits as in the baseline" in made.sentences()[0]


def test_a_change_between_kept_updates_is_found_by_its_digest(saved: Path, report: Report) -> None:
    assert 14 not in kept_updates(20)
    result = report.results[0]
    series = {k: v.copy() for k, v in result.series.items()}
    series["w", "param"][13, 0, 0] += 1
    now = replace(report, results=(replace(result, series=series), report.results[1]))
    (found,) = compare_baseline(now, saved).changes
    assert (found.update, found.slot) == (14, "param")


def test_a_case_that_got_worse_or_is_gone_is_a_regression(saved: Path, report: Report) -> None:
    one, two = report.results
    now = replace(report, results=(replace(one, status="outside", sentence="far out"),))
    made = compare_baseline(now, saved, ulp=10)
    assert [c.kind for c in made.regressions] == ["worse", "gone"]
    assert made.regressions[0].sentence == f"{one.case.id}: was within its bounds; now far out"
    assert made.regressions[1].sentence == f"{two.case.id}: was in the baseline; now it did not run"


def test_other_gradients_are_said_to_be_others(saved: Path, report: Report) -> None:
    other = replace(report.results[0], given="0" * 32)
    made = compare_baseline(replace(report, results=(other, report.results[1])), saved, ulp=10**9)
    (found,) = made.regressions
    assert found.sentence == (
        f"{other.case.id}: was made on other parameters or gradients; make the baseline again"
    )
    assert made.compared == 1


def test_other_versions_are_named(saved: Path, report: Report) -> None:
    (worker,) = report.workers
    other = replace(worker, environment={**worker.environment, "onnx": "0.0.1", "cpu": "abacus"})
    made = compare_baseline(replace(report, workers=(other,)), saved)
    assert made.environment == {
        "onnx cpu": (worker.environment["cpu"], "abacus"),
        "onnx onnx": (worker.environment["onnx"], "0.0.1"),
    }
    assert made.regressions == ()
    assert f"onnx onnx: {worker.environment['onnx']} then, 0.0.1 now" in made.sentences()


def test_new_cases_are_named(saved: Path, report: Report) -> None:
    result = report.results[0]
    fresh = replace(result, case=replace(result.case, steps=19))
    made = compare_baseline(replace(report, results=(*report.results, fresh)), saved)
    assert made.new == (fresh.case.id,) and made.regressions == ()


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 30, 1000])
def test_the_first_and_the_last_update_are_kept(steps: int) -> None:
    kept = kept_updates(steps)
    assert kept[0] == 1 and kept[-1] == steps and kept == sorted(set(kept)) and len(kept) < 25


def test_files_that_are_no_baseline(saved: Path, report: Report, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nothing: expected a baseline, found no file; write one with --save"
    ):
        compare_baseline(report, tmp_path / "nothing")
    other = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3)}, other)
    with pytest.raises(
        CheckpointError, match=r"expected a baseline \(optexport-parity-baseline-1\), found another file"
    ):
        compare_baseline(report, other)
    data = saved.read_bytes()
    other.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="found a damaged file"):
        compare_baseline(report, other)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    inner = json.loads(header["__metadata__"]["optexport"])
    for damage in (
        lambda h: h.pop("cases"),
        lambda h: next(iter(h["cases"].values()))["slots"][0][2].append(99),
    ):
        held = json.loads(json.dumps(inner))
        damage(held)
        header["__metadata__"]["optexport"] = json.dumps(held)
        text = json.dumps(header).encode()
        other.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        with pytest.raises(CheckpointError, match="damaged"):
            compare_baseline(report, other)
