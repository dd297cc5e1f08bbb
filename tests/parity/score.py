"""The mutation score of the catalogue: ``python -m tests.parity.score``.

How many one-node changes of each native optimizer's rules the parity table notices. `test_mutation`
asserts that it is all of them.
"""

from __future__ import annotations

from collections import Counter

from tests.parity.table import NATIVE
from tests.parity.test_mutation import survivors


def main() -> None:
    made: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for row in NATIVE:
        left, count = survivors(row)
        made[row.optimizer] += count
        missed[row.optimizer] += len(left)
        for where in left:
            print(f"not noticed: {row.id}: {where}")
    print(f"{'optimizer':44} {'changes':>8} {'noticed':>8}")
    for name in sorted(made):
        print(f"{name:44} {made[name]:8d} {made[name] - missed[name]:8d}")
    total = sum(made.values())
    print(f"{'all':44} {total:8d} {total - sum(missed.values()):8d}")


if __name__ == "__main__":
    main()
