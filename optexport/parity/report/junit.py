"""A report as JUnit XML: one test case a case, one suite a backend, workers among them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..baseline import Comparison
from ..suite import CaseResult, Report

__all__ = ["junit"]


def junit(report: Report, baseline: Comparison | None = None) -> bytes:
    """UTF-8 XML that pipelines read. baseline: a suite of its own, one test case a case of the file."""
    root = ET.Element("testsuites", name="optexport parity", time=f"{report.seconds:.3f}")
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for worker in report.workers:
        mine = [r for r in report.results if r.case.backend == worker.backend]
        suite = ET.SubElement(root, "testsuite", name=worker.backend)
        properties = ET.SubElement(suite, "properties")
        for name, value in {"interpreter": worker.python, **worker.environment}.items():
            ET.SubElement(properties, "property", name=name, value=_text(value))
        own = ET.SubElement(suite, "testcase", classname=f"parity.{worker.backend}", name="worker", time="0")
        tally = {"tests": 1 + len(mine), "failures": 0, "errors": 0, "skipped": 0}
        if worker.failed:
            _said(own, "error", worker.status, worker.sentence)
            tally["errors"] += 1
        elif worker.status != "ok":
            ET.SubElement(own, "skipped", message=_text(worker.sentence))
            tally["skipped"] += 1
        for result in mine:
            kind = _case(suite, result)
            if kind:
                tally[kind] += 1
        suite.set("time", f"{sum(r.seconds for r in mine):.3f}")
        for key, n in tally.items():
            suite.set(key, str(n))
            totals[key] += n
    if baseline is not None:
        for key, n in _baseline(root, baseline).items():
            totals[key] += n
    for key, n in totals.items():
        root.set(key, str(n))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _baseline(root: ET.Element, baseline: Comparison) -> dict[str, int]:
    bad = baseline.regressions
    tally = {"tests": max(1, len(bad)), "failures": len(bad), "errors": 0, "skipped": 0}
    suite = ET.SubElement(root, "testsuite", name="baseline", time="0")
    for key, n in tally.items():
        suite.set(key, str(n))
    for change in bad:
        element = ET.SubElement(
            suite, "testcase", classname="parity.baseline", name=_text(change.case), time="0"
        )
        _said(element, "failure", change.kind, change.sentence)
    if not bad:
        ET.SubElement(suite, "testcase", classname="parity.baseline", name="all", time="0")
    return tally


def _case(suite: ET.Element, result: CaseResult) -> str:
    """Add one; which number of the suite it counts in, empty for one that passed."""
    case = result.case
    element = ET.SubElement(
        suite,
        "testcase",
        classname=f"parity.{case.backend}.{case.form}.{case.dtype}",
        name=_text(f"{case.row.id} {case.problem} {case.steps} steps"),
        time=f"{result.seconds:.4f}",
    )
    if result.status in ("outside", "fault"):
        _said(element, "failure", result.status, result.sentence)
        return "failures"
    if result.failed:
        _said(element, "error", result.status, result.sentence)
        return "errors"
    if result.status == "unavailable":
        ET.SubElement(element, "skipped", message=_text(result.sentence))
        return "skipped"
    return ""


def _said(element: ET.Element, tag: str, kind: str, sentence: str) -> None:
    ET.SubElement(element, tag, type=kind, message=_text(sentence)).text = _text(sentence)


def _text(value: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(c if c.isprintable() else "?" for c in value)
