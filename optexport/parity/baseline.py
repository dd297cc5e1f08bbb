"""Baselines: a suite's numbers in a file, and what became of them on another day.

A file is ``.safetensors``: the arrays of some updates, and in its metadata what each case was, a digest of
every update, the versions and the processor.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..state.files import whole_or_nothing
from .measures import ulps
from .series import Series
from .suite import Report

__all__ = ["Change", "Comparison", "check_baseline", "compare_baseline", "kept_updates", "save_baseline"]

FORMAT = "optexport-parity-baseline-1"


def kept_updates(steps: int) -> list[int]:
    """Updates whose numbers a file keeps, from 1: the first ones, then ever fewer, and the last."""
    out, at = [], 1.0
    while round(at) < steps:
        out.append(round(at))
        at = max(at + 1, at * 1.5)
    return [*out, steps]


def save_baseline(report: Report, path: str | os.PathLike[str]) -> int:
    """Write a report whose results hold their arrays (``run_suite(keep=True)``); the number of bytes.

    What was unavailable is left out: another machine may have it.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    cases = {}
    for number, result in enumerate(report.results):
        if not result.series:
            continue
        slots = []
        for i, ((param, slot), values) in enumerate(result.series.items()):
            kept = [t for t in kept_updates(len(values)) if t <= len(values)]
            arrays[f"{number}/{i}"] = np.ascontiguousarray(values[[t - 1 for t in kept]])
            slots.append([param, slot, kept, _digests(values)])
        cases[result.case.id] = {
            "number": number,
            "status": result.status,
            "backend": result.case.backend,
            "given": result.given,
            "slots": slots,
        }
    header = {
        "format": FORMAT,
        "environment": dict(report.environment),
        "workers": {w.backend: dict(w.environment) for w in report.workers if w.status == "ok"},
        "cases": cases,
    }
    data = save(arrays, {"optexport": json.dumps(header)})
    with whole_or_nothing(os.fspath(path)) as f:
        f.write(data)
    return len(data)


def _digests(values: np.ndarray) -> str:
    """8 bytes of SHA-256 of each update, together as hexadecimal text."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return "".join(hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest()[:16] for v in little)


@dataclass(frozen=True)
class Change:
    """One case whose numbers are others.

    kind: changed, worse (was within its bounds and is not), gone (was there and did not run), other (was made
    on other gradients, so that nothing can be said), better.
    update: the first that differs; param, slot: the one that differed first. ulp_max: the farthest of the
    updates that the file keeps; relative: the same as max|a − b| / max|b|.
    """

    case: str
    kind: str
    sentence: str
    update: int = 0
    param: str = ""
    slot: str = ""
    ulp_max: int = 0
    relative: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """changes: of all cases. ulps: the largest distance that is accepted. environment: (backend, name) -> (then,
    now) of what is another version or processor. new: cases that the file lacks."""

    path: str
    changes: tuple[Change, ...]
    compared: int
    ulps: int
    environment: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    new: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What fails a gate: numbers farther than accepted, cases that got worse, cases that are gone."""
        return tuple(
            c
            for c in self.changes
            if c.kind in ("worse", "gone", "other") or (c.kind == "changed" and c.ulp_max > self.ulps)
        )

    def sentences(self) -> list[str]:
        """For people: what is another version, then what changed, regressions first."""
        bad = set(self.regressions)
        out = [f"{what}: {then} then, {now} now" for what, (then, now) in self.environment.items()]
        out += [f"regression: {c.sentence}" for c in self.regressions]
        out += [f"{c.kind}: {c.sentence}" for c in self.changes if c not in bad]
        out += [f"new: {name}" for name in self.new]
        same = self.compared - sum(c.update > 0 for c in self.changes)
        return [f"{same} of {self.compared} cases have the same bits as in the baseline", *out]

    def as_json(self) -> dict[str, Any]:
        """Standard JSON."""
        return {
            "path": self.path,
            "passed": not self.regressions,
            "compared": self.compared,
            "ulps": self.ulps,
            "environment": {k: list(v) for k, v in self.environment.items()},
            "regressions": [c.case for c in self.regressions],
            "changes": [vars(c) for c in self.changes],
            "new": list(self.new),
        }


def compare_baseline(report: Report, path: str | os.PathLike[str], ulp: int = 0) -> Comparison:
    """A report beside a baseline. ulp: the largest distance of a number that is no regression.

    Raises:
        CheckpointError: the file is no baseline, or damaged.
    """
    header, arrays = _opened(os.fspath(path))
    changes: list[Change] = []
    results = {r.case.id: r for r in report.results}
    compared = 0
    for name, then in header["cases"].items():
        result = results.get(name)
        if result is None or not result.series:
            why = "it did not run" if result is None else result.sentence or "it has no numbers"
            changes.append(Change(name, "gone", f"{name}: was in the baseline; now {why}"))
            continue
        if then.get("given") != result.given:
            said = "was made on other parameters or gradients; make the baseline again"
            changes.append(Change(name, "other", f"{name}: {said}"))
            continue
        compared += 1
        change = _changed(name, then, arrays, result.series)
        if then["status"] == "within" and result.failed:
            changes.append(
                Change(
                    name, "worse", f"{name}: was within its bounds; now {result.sentence}", *_place(change)
                )
            )
        elif change is not None:
            changes.append(change)
        elif then["status"] != "within" and result.status == "within":
            changes.append(Change(name, "better", f"{name}: is within its bounds now"))
    new = tuple(r.case.id for r in report.results if r.series and r.case.id not in header["cases"])
    return Comparison(os.fspath(path), tuple(changes), compared, ulp, _versions(header, report), new)


def check_baseline(path: str | os.PathLike[str]) -> None:
    """Raises:
    CheckpointError: the file is no baseline, or damaged."""
    _opened(os.fspath(path))


def _place(change: Change | None) -> tuple[Any, ...]:
    return (
        () if change is None else (change.update, change.param, change.slot, change.ulp_max, change.relative)
    )


def _changed(
    name: str, then: Mapping[str, Any], arrays: Mapping[str, np.ndarray], series: Series
) -> Change | None:
    """The first bit that differs, and how far the numbers are apart at the worst kept update."""
    firsts: list[tuple[int, int, str, str]] = []
    far, relative = 0, 0.0
    for i, (param, slot, kept, digests) in enumerate(then["slots"]):
        now = series.get((param, slot))
        before = arrays[f"{then['number']}/{i}"]
        if now is None or now.shape[1:] != before.shape[1:] or now.dtype != before.dtype:
            found = "none" if now is None else f"{now.dtype} {now.shape[1:]}"
            said = f"{name}: parameter {param!r}, {slot}: was {before.dtype} {before.shape[1:]}, is {found}"
            return Change(name, "worse", said, 1, param, slot)
        if _digests(now) == digests:
            continue
        fresh = _digests(now)
        count = min(len(digests), len(fresh)) // 16
        first = (
            next(
                (t for t in range(count) if digests[16 * t : 16 * t + 16] != fresh[16 * t : 16 * t + 16]),
                count,
            )
            + 1
        )
        firsts.append((first, -1 if slot == "param" else i, param, slot))
        both = [(k, t - 1) for k, t in enumerate(kept) if t <= len(now)]
        a, b = now[[t for _, t in both]], before[[k for k, _ in both]]
        far = max(far, int(ulps(a, b).max(initial=0)))
        x, y = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(all="ignore"):
            scale = float(np.abs(y).max(initial=0.0))
            relative = max(
                relative, float(np.nan_to_num(np.abs(x - y), nan=0.0).max(initial=0.0)) / (scale or 1.0)
            )
    if not firsts:
        return None
    update, _, param, slot = min(firsts)
    said = (
        f"{name}: numbers differ from update {update} on, first parameter {param!r}, {slot}; "
        f"by at most {far} units in the last place ({relative:.2g} relative)"
    )
    return Change(name, "changed", said, update, param, slot, far, relative)


def _versions(header: Mapping[str, Any], report: Report) -> dict[str, tuple[str, str]]:
    out = {}
    then = {"": header["environment"], **header["workers"]}
    now = {"": report.environment, **{w.backend: w.environment for w in report.workers if w.status == "ok"}}
    for backend in then:
        for name in sorted({*then[backend], *now.get(backend, {})} if backend in now else ()):
            a, b = str(then[backend].get(name, "none")), str(now[backend].get(name, "none"))
            if a != b:
                out[f"{backend} {name}".strip()] = (a, b)
    return out


def _opened(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {}).get("optexport", "null"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: expected a baseline ({FORMAT}), found another file; write one with --save"
                )
            arrays = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 (no mapping)
        _check(path, header, arrays)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: expected a baseline, found no file; write one with --save {path}"
        ) from None
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise CheckpointError(f"{path}: expected a baseline ({FORMAT}), found a damaged file: {e}") from None
    return header, arrays


def _check(path: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    for name, case in header["cases"].items():
        for i, (_, _, kept, digests) in enumerate(case["slots"]):
            array = arrays[f"{case['number']}/{i}"]
            if array.shape[0] != len(kept) or len(digests) % 16 or not _rising(kept, len(digests) // 16):
                raise CheckpointError(
                    f"{path}: {name}: its updates do not fit its arrays; the file is damaged"
                )


def _rising(kept: Sequence[Any], steps: int) -> bool:
    return all(isinstance(t, int) and 1 <= t <= steps for t in kept) and list(kept) == sorted(set(kept))
