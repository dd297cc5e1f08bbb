"""How many optimizers `optexport identify` recognises, and how long each takes.

    python benchmarks/identify.py [--out benchmarks/results]

Every native optimizer of the parity table whose framework is installed here, and every optimizer of
``tests/identify/mutants_torch.py`` with a planted change, each within the time that the command allows itself. *Right*: the
rule that was found computes what the native one does, in double; the planted change was named. Seconds are processor time,
the framework's own among it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.identify import test_changed, test_natives
from tests.natives import rows


def timed(check: Callable[..., Any], *given: Any) -> tuple[bool, float]:
    began = time.process_time()
    try:
        check(*given)
        right = True
    except AssertionError:
        right = False
    return right, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, list[tuple[str, bool, float]]] = {}
    for row in rows():
        framework = row.optimizer.partition(":")[0]
        found.setdefault(framework, []).append((row.id, *timed(test_natives.recognised, row)))
    for mutant in test_changed.MUTANTS:
        found.setdefault("planted changes", []).append((mutant[0], *timed(test_changed.named, *mutant)))
    lines = ["| | right | of | median s | longest s | |", "|---|---|---|---|---|---|"]
    for what, results in found.items():
        seconds = [s for _, _, s in results]
        slowest = max(results, key=lambda r: r[2])[0]
        right = sum(r for _, r, _ in results)
        lines.append(
            f"| {what} | {right} | {len(results)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | {slowest} |"
        )
        lines += [f"| {what}: not recognised | | | | | {name} |" for name, ok, _ in results if not ok]
    python = f"Python {platform.python_version()}, {'numpy 1' if 'mxnet' in found else 'numpy 2'}"
    text = (
        f"# identify\n\n{platform.processor() or platform.machine()}, {python}\n\n" + "\n".join(lines) + "\n"
    )
    print(text)
    (args.out / f"identify-{python.rpartition(', ')[2].replace(' ', '')}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
