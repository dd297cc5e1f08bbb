"""How tight the bounds are: ``optexport parity --json > report.json; python -m tests.parity.tightness report.json …``.

For each rule, dtype and problem the bound over the error seen on the worst backend, and which are looser than 20.

Without a report: every native optimizer of the frameworks that are installed here, run in float64, beside the referee in
extended precision. Beside one in float64, which rounds as a framework does, often to the same bits, an error says little.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optexport.parity.table import table
from tests.parity.native import beside_referee

__all__ = ["MOST", "in_double", "looseness"]

MOST = 20.0


def looseness(report: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    """(optimizer and description, dtype, problem) -> bound over the worst backend's error. Runs that are
    everywhere exactly the referee's have none."""
    worst: dict[tuple[str, str, str], float] = {}
    for r in report["results"]:
        if r["status"] == "within":
            key = (f"{r['optimizer']} {r['description']}", r["dtype"], r["problem"])
            worst[key] = max(worst.get(key, 0.0), r["ratio"])
    return {k: 1 / v for k, v in worst.items() if v}


def in_double() -> Iterator[tuple[str, float]]:
    """(native optimizer, its bound over its error) in float64, beside 64 digits of mantissa."""
    if np.finfo(np.longdouble).nmant < 63:
        raise SystemExit("np.longdouble has no extended precision on this processor")
    first = {r.optimizer: r for r in reversed(table()) if r.framework and "float64" in r.dtypes}
    for name, row in reversed(first.items()):
        try:
            mismatch, worst = beside_referee(row, "float64", np.longdouble)
        except ImportError:
            continue
        assert mismatch is None, f"{name}: {mismatch}"
        if worst:
            yield name, 1 / worst


def main() -> None:
    if len(sys.argv) == 1:
        warnings.simplefilter("ignore")  # of frameworks
        found = dict(in_double())
        loose = sum(v > MOST for v in found.values())
        print(
            f"{len(found)} optimizers in float64: bound / error: median {statistics.median(found.values()):.1f}, "
            f"largest {max(found.values()):.1f}; {loose} above {MOST:g}"
        )
        for name, value in sorted(found.items(), key=lambda i: -i[1]):
            if value > MOST:
                print(f"  {value:8.1f}  {name}")
        return
    _of_reports()


def _of_reports() -> None:
    results = [
        r for path in sys.argv[1:] for r in json.loads(Path(path).read_text(encoding="utf-8"))["results"]
    ]
    found = looseness({"results": results})
    for dtype in sorted({d for _, d, _ in found}):
        values = sorted(v for (_, d, _), v in found.items() if d == dtype)
        loose = sum(v > MOST for v in values)
        print(
            f"{dtype}: {len(values)} rules and problems; bound / worst error: median {statistics.median(values):.1f}, "
            f"largest {values[-1]:.1f}; {loose} above {MOST:g}"
        )
    for (rule, dtype, problem), value in sorted(found.items(), key=lambda i: -i[1]):
        if value > MOST:
            print(f"  {value:8.1f}  {dtype}  {problem:9} {rule}")


if __name__ == "__main__":
    main()
