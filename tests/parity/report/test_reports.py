"""Reports: JSON by its schema, JUnit by its numbers, the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from optexport.parity.baseline import compare_baseline, save_baseline
from optexport.parity.cases import plan, rows_for
from optexport.parity.report.form import as_json
from optexport.parity.report.html import html
from optexport.parity.report.junit import junit
from optexport.parity.suite import Report, WorkerResult, run_suite
from tests.parity.backends import has
from tests.parity.broken import altered

pytestmark = pytest.mark.skipif(not has("onnx"), reason="needs onnxruntime, which is not in this environment")

# A name that would end a script and start another.
HOSTILE = '</script><script>document.title="taken"</script>'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One case each: within, outside, with NaN, unavailable, lost; a worker that is absent."""
    cases = plan(
        rows_for("adam", {"lr": 0.01}), backends=["onnx"], problems=("standard", "extreme"), steps=12
    )
    if has("sklearn"):
        cases += plan(
            rows_for("adam", {"lr": 0.01}),
            backends=["onnx"],
            problems=("digits",),
            dtypes=("float32",),
            steps=12,
        )
    folder = tmp_path_factory.mktemp("report")
    change = "if count == 1: arrays['1'][5:] *= 1.01\nif count == 2: arrays['0'][4:] = np.nan\nif count == 3: os._exit(9)"
    made = run_suite(cases, pythons={"onnx": altered(folder, "python", change)}, keep=True)
    first = made.results[0]
    away = replace(
        first,
        case=replace(first.case, row=replace(first.case.row, desc=HOSTILE), backend="keras"),
        status="unavailable",
        sentence=f"not here {HOSTILE}\x1b",
        measured=None,
    )
    return replace(
        made,
        results=(*made.results, away),
        workers=(
            *made.workers,
            WorkerResult("keras", "/else/python", "absent", "keras cannot be imported here"),
        ),
    )


def test_the_fixture_has_each_status(report: Report) -> None:
    assert {r.status for r in report.results} == {"within", "outside", "fault", "lost", "unavailable"}


def check(value: Any) -> None:
    jsonschema = pytest.importorskip(
        "jsonschema", reason="needs jsonschema, which is not in this environment"
    )
    import optexport.schemas

    schema = json.loads((resources.files(optexport.schemas) / "parity.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(value, allow_nan=False)), schema)


def test_json_follows_its_schema(report: Report, tmp_path: Path) -> None:
    check(as_json(report))
    check(as_json(report, curves=False))
    save_baseline(report, tmp_path / "b")
    made = compare_baseline(report, tmp_path / "b")
    check(as_json(report) | {"baseline": made.as_json()})
    with pytest.raises(Exception, match="'passed' is a required property"):
        check({k: v for k, v in as_json(report).items() if k != "passed"})


def test_json_says_what_happened(report: Report) -> None:
    form = as_json(report)
    assert form["passed"] is False
    assert sum(form["counts"].values()) == len(report.results)
    outside = next(r for r in form["results"] if r["status"] == "outside")
    assert outside["first"]["update"] == 6 and outside["ratio"] > 1
    nan = next(r for r in form["results"] if r["fault"] == "nan")
    assert nan["error"] == "inf" and "returns NaN" in nan["sentence"]


def test_junit_counts_and_names(report: Report) -> None:
    root = ET.fromstring(junit(report))
    totals = {k: int(root.get(k) or -1) for k in ("tests", "failures", "errors", "skipped")}
    cases = list(root.iter("testcase"))
    assert totals == {
        "tests": len(cases),
        "failures": len(list(root.iter("failure"))),
        "errors": len(list(root.iter("error"))),
        "skipped": len(list(root.iter("skipped"))),
    }
    assert len(cases) == len(report.results) + len(report.workers)
    assert totals["failures"] == 2 and totals["skipped"] == 2
    failure = next(root.iter("failure"))
    assert failure.get("type") == "outside" and (failure.text or "").startswith("update 6, parameter ")


def test_junit_has_the_baseline(report: Report, tmp_path: Path) -> None:
    save_baseline(report, tmp_path / "b")
    same = ET.fromstring(junit(report, compare_baseline(report, tmp_path / "b")))
    assert [s.get("failures") for s in same.iter("testsuite") if s.get("name") == "baseline"] == ["0"]
    gone = replace(report, results=report.results[1:])
    root = ET.fromstring(junit(gone, compare_baseline(gone, tmp_path / "b")))
    (suite,) = [s for s in root.iter("testsuite") if s.get("name") == "baseline"]
    assert suite.get("failures") == "1" and "was in the baseline; now it did not run" in ET.tostring(
        suite, "unicode"
    )


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]


def test_the_page_loads_nothing_and_runs_nothing_of_a_name(report: Report) -> None:
    page = html(report).decode()
    parser = _Links()
    parser.feed(page)
    assert parser.links == [] and parser.scripts == 2
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page
    held = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)
    assert held is not None and json.loads(held[1])["results"][-1]["description"] == HOSTILE


def test_the_page_draws_in_a_browser(report: Report, tmp_path: Path) -> None:
    browser = next(
        (b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None
    )
    if browser is None:
        pytest.skip("needs Chromium, which is not on this machine")
    save_baseline(report, tmp_path / "b")
    path = tmp_path / "report.html"
    path.write_bytes(html(report, compare_baseline(report, tmp_path / "b")))
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    shown = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    dom = shown.stdout
    assert 'data-ready="yes"' in dom, shown.stderr[-2000:]
    assert "<title>optexport parity</title>" in dom  # a name did not become a script
    assert "Not everything is as it should be." in dom and "Beside the baseline" in dom
    assert dom.count("<polyline") >= 2 and dom.count("<rect") == 11
    cells = re.findall(r'<td title="[^"]*" tabindex="0"', dom)
    assert len(cells) == len([r for r in report.results if r.status != "unavailable"])
    picture = tmp_path / "report.png"
    subprocess.run(
        [*command, "--window-size=1300,1600", f"--screenshot={picture}", path.as_uri()],
        capture_output=True,
        timeout=120,
    )
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 20_000  # an empty page is far smaller
