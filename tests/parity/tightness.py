"""How tight the bounds are: ``optexport parity --json > report.json; python -m tests.parity.tightness report.json …``.

For each rule, dtype and problem the bound over the error seen on the worst backend, and which are looser than 20.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

__all__ = ["MOST", "looseness"]

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


def main() -> None:
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
