"""A report as one page that opens without a network: style, script and numbers are inside it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from ..baseline import Comparison
from ..measures import SlotError
from ..suite import CaseResult, Report
from .form import as_json, case_json, number

__all__ = ["html"]


def html(report: Report, baseline: Comparison | None = None) -> bytes:
    """The page, as UTF-8. baseline: shown too, where there is one."""
    data = as_json(report, curves=False)
    data["results"] = [_result(r) for r in report.results]
    if baseline is not None:
        data["baseline"] = {
            "path": baseline.path,
            "said": baseline.sentences(),
            "passed": not baseline.regressions,
        }
    # Inside <script>, "<" alone can end it.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = _part("page.html")
    for mark, part in (
        ("/*STYLE*/", _part("page.css")),
        ("/*SCRIPT*/", _part("page.js")),
        ("/*DATA*/", text),
    ):
        page = page.replace(mark, part, 1)
    return page.encode()


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _result(result: CaseResult) -> dict[str, Any]:
    """One result as the page draws it: errors by slot, the parameters' largest."""
    out = case_json(result, curves=False)
    out["loss_key"] = f"{result.case.row.id}/{result.case.steps}"
    if result.measured is None or not result.measured.slots:
        return out
    by_slot: dict[str, list[SlotError]] = {}
    for s in result.measured.slots:
        by_slot.setdefault(s.slot, []).append(s)
    out["curves"] = {
        k: [number(max(e)) for e in zip(*(s.errors for s in v), strict=False)] for k, v in by_slot.items()
    }
    slots = result.measured.slots
    out["bounds"] = [number(max(b)) for b in zip(*(s.bounds for s in slots), strict=False)]
    out["ulp"] = [sum(n) for n in zip(*(s.ulp for s in slots), strict=True)]
    return out
