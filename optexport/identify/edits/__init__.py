"""What people change in an optimizer, as changes of a rule's program.

Where no rule of the catalogue explains a black box, the nearest one is tried with one change at a time:
epsilon elsewhere, decay elsewhere, a correction dropped or counted otherwise, a factor left out, an old
value read for a new one, a scalar rounded to float32. The one that explains it names the difference.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import Program, equations
from . import around, decay, epsilon, nodes, scalars
from .edit import Edit

__all__ = ["Edit", "changed_equations", "edits"]


def edits(program: Program) -> Iterator[Edit]:
    """Every change that is tried, those that people make most often first."""
    yield from epsilon.edits(program)
    yield from decay.edits(program)
    yield from scalars.edits(program)
    yield from around.edits(program)
    yield from nodes.edits(program)


def changed_equations(before: Program, after: Program) -> list[dict[str, str]]:
    """The rule's equations that differ: what the nearest rule has, and what the black box does."""
    was, now = equations(before), equations(after)
    gone, new = [e for e in was if e not in now], [e for e in now if e not in was]
    out = []
    for k in range(max(len(gone), len(new))):
        out.append({"rule": gone[k] if k < len(gone) else "", "found": new[k] if k < len(new) else ""})
    return out
