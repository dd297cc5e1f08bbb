"""A report as JSON (``schemas/parity.schema.json``)."""

from __future__ import annotations

import math
from typing import Any

from ..measures import BUCKETS, SlotError
from ..suite import CaseResult, Report

__all__ = ["FORMAT", "as_json", "case_json", "number"]

FORMAT = "optexport-parity-1"


def as_json(report: Report, curves: bool = True) -> dict[str, Any]:
    """Standard JSON: infinite numbers are the text ``"inf"``.

    curves: with errors and bounds of every update, else their largest alone.
    """
    results = report.results
    counts: dict[str, int] = {}
    for r in results:
        counts[r.status] = counts.get(r.status, 0) + 1
    return {
        "format": FORMAT,
        "passed": report.passed,
        "seconds": round(report.seconds, 3),
        "counts": counts,
        "environment": dict(report.environment),
        "ulp_classes": list(BUCKETS),
        "workers": [
            {
                "backend": w.backend,
                "python": w.python,
                "status": w.status,
                "sentence": w.sentence,
                "environment": dict(w.environment),
            }
            for w in report.workers
        ],
        "referee_losses": {k: [number(x) for x in v] for k, v in report.losses.items()},
        "results": [case_json(r, curves) for r in results],
    }


def case_json(result: CaseResult, curves: bool = True) -> dict[str, Any]:
    """One result."""
    case, measured = result.case, result.measured
    out: dict[str, Any] = {
        "id": case.id,
        "optimizer": case.row.optimizer,
        "description": case.row.desc,
        "backend": case.backend,
        "form": case.form,
        "dtype": case.dtype,
        "problem": case.problem,
        "steps": case.steps,
        "status": result.status,
        "sentence": result.sentence,
        "seconds": round(result.seconds, 4),
        "error": None,
        "ratio": None,
        "ulp_max": None,
        "first": None,
        "fault": None,
        "slots": [],
        "losses": [number(x) for x in result.losses],
    }
    if measured is not None:
        first = measured.first
        out |= {
            "error": number(measured.error),
            "ratio": number(measured.ratio),
            "ulp_max": measured.ulp_max,
            "first": first and {k: number(v) if isinstance(v, float) else v for k, v in first.items()},
            "fault": measured.fault.kind if measured.fault else None,
            "slots": [_slot(s, curves) for s in measured.slots],
        }
    return out


def _slot(s: SlotError, curves: bool) -> dict[str, Any]:
    out: dict[str, Any] = {
        "param": s.param,
        "slot": s.slot,
        "error": number(max(s.errors, default=0.0)),
        "ratio": number(s.ratio),
        "first": s.first,
        "ulp": list(s.ulp),
        "ulp_max": s.ulp_max,
    }
    if curves:
        out |= {"errors": [number(e) for e in s.errors], "bounds": [number(b) for b in s.bounds]}
    return out


def number(x: float) -> float | str:
    """Four digits of it; a text where it is not finite."""
    return float(f"{x:.4g}") if math.isfinite(x) else str(x)
