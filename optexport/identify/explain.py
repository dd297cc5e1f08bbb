"""Where no rule of the catalogue holds: the change of one that does."""

from __future__ import annotations

import time
from dataclasses import replace

from ..errors import OptexportError
from ..ir import Program
from ..ir.analysis import dead_slots
from ..ir.canonical import sweep
from ..rules import CATALOGUE
from . import candidates
from .edits import Edit, edits
from .fit import Seen, guesses, misfit
from .hypothesis import Hypothesis
from .search import PROMISING, Search, decimal

__all__ = ["explained_by_edit"]


def explained_by_edit(
    search: Search, best: list[tuple[float, Hypothesis]], deadline: float
) -> tuple[Edit | None, Hypothesis, Hypothesis] | None:
    """(the change, the nearest rule at the values found, the changed one) that holds; None where none does.
    The change is None where a rule holds without one."""
    for score, h in best[:6]:
        if score < 4 * PROMISING and (held := search.settled(h)) is not None:
            return None, held, held
    bases = [(h, p) for h in _bases(search.screened, best) if (p := _one_program(h, search.seen)) is not None]
    parts = [bases[i : i + _TOGETHER] for i in range(0, len(bases), _TOGETHER)]
    # What people change often, on one more handful of rules each time; then what they change seldom.
    for turn in range(len(parts) + 1):
        for rare, at in ((False, turn), (True, turn - 1)):
            if 0 <= at < len(parts):
                found = _explained(search, parts[at], rare, deadline)
                if found is not None:
                    return found
    return None


# Rules to which changes are tried before the best of them are fitted to the end.
_TOGETHER = 3
_RARE = ("left out", "operator", "constant")


def _explained(
    search: Search, bases: list[tuple[Hypothesis, Program]], rare: bool, deadline: float
) -> tuple[Edit | None, Hypothesis, Hypothesis] | None:
    short = search.seen.first(8)
    tried: list[tuple[float, int, Edit, Hypothesis, Hypothesis]] = []
    for h, program in bases:
        # Where the rule explains the first steps as it is, only the later ones can show what is changed.
        data = search.seen if misfit(h, short) < 20 * PROMISING else short
        without = misfit(h, data)
        for edit in edits(program):
            if time.process_time() > deadline:
                break
            if (edit.kind in _RARE) != rare or (other := _edited(h, edit, program)) is None:
                continue
            if edit.kind == "float32":
                # Rounding has no slope to follow: the values must be those that a person gave.
                other = other.at({k: decimal(v, 1e-5) for k, v in other.values.items()})
                if search.holds(other):
                    return _told_apart(search, edit, h, other)
                continue
            try:
                made = search.fitted(guesses(other, data, 12), data, 4)
            except (OptexportError, ValueError):
                continue
            if made is None:
                continue
            if made[0] < 4 * PROMISING and (held := search.settled_soon(made[1])) is not None:
                return _told_apart(search, edit, h, held)
            if made[0] < without - 0.1:
                tried.append((made[0] - without, len(tried), edit, h, made[1]))
    for gain, _, edit, h, other in sorted(tried, key=lambda row: row[:2])[:8]:
        if time.process_time() > deadline:
            break
        made = search.fitted(other, None, 12)
        if made is not None and made[0] > 4 * PROMISING and gain < -0.5:
            made = search.fitted(made[1], None, 60)
        if made is not None and made[0] < 4 * PROMISING and (held := search.settled(made[1])) is not None:
            return _told_apart(search, edit, h, held)
    return None


def _told_apart(
    search: Search, edit: Edit, h: Hypothesis, held: Hypothesis
) -> tuple[Edit | None, Hypothesis, Hypothesis]:
    """The change, unless the rule holds without it at the values found."""
    near = _without(h, held)
    plain = search.settled(near)
    return (edit, near, held) if plain is None else (None, plain, plain)


def _one_program(h: Hypothesis, seen: Seen) -> Program | None:
    """The program of a rule that is the same for every parameter, else None."""
    members = h.members(seen.probe.shapes)
    return members[0].program if all(m.program == members[0].program for m in members) else None


def _edited(h: Hypothesis, edit: Edit, program: Program) -> Hypothesis | None:
    """``h`` with the change, None where it changes nothing that can be seen."""
    try:
        changed = edit.apply()
    except (OptexportError, ValueError, KeyError):
        return None
    if changed == program or not _seen_in_param(program, changed):
        return None
    return replace(
        h,
        edit=(edit.words, lambda _: changed),
        extra=edit.extra,
        values={**h.values, **{p.name: candidates.started(p) for p in edit.extra}},
    )


def _bases(
    screened: list[tuple[float, Hypothesis]], best: list[tuple[float, Hypothesis]]
) -> list[Hypothesis]:
    """Rules to change: the best of the catalogue as it stands, one a family, then others that explain much."""
    entries = [(e.family_name, e.family.check_options(e.options)) for e in CATALOGUE.values()]
    found: list[tuple[float, Hypothesis]] = []
    for row in sorted([*screened, *best], key=lambda row: row[0]):
        h = row[1]
        plain = all(
            h.options[o] in ("none", False, "float64")
            for o in candidates.SHARED
            if o not in ("maximize", "clip")
        )
        if (
            plain
            and not h.first
            and not any(h.family == f.family and h.options == f.options for _, f in found)
        ):
            # A rule that has a name is more likely the one that somebody had in mind.
            named = any(
                h.family == f and {**o, "maximize": h.options["maximize"]} == h.options for f, o in entries
            )
            numbers = len(h.hyperparameters) + len(h.rule.slots)
            found.append((row[0] + 0.1 * numbers + (0.0 if named else 3.0), h))
    found.sort(key=lambda row: row[0])
    turns = [[f.family for _, f in found[:i]].count(h.family) for i, (_, h) in enumerate(found)]
    order = sorted(range(len(found)), key=lambda i: turns[i] // 3)
    return [found[i][1] for i in order if turns[i] < 6][:20]


def _seen_in_param(before: Program, after: Program) -> bool:
    """Whether a change can reach the parameter: one of a slot that nothing reads cannot."""

    def alive(p: Program) -> Program:
        dead = dead_slots(p)
        return sweep(Program(p.nodes, {o: i for o, i in p.outputs.items() if o not in dead}))

    return alive(before) != alive(after)


def _without(h: Hypothesis, changed: Hypothesis) -> Hypothesis:
    """``h`` at the values that were found for the changed one."""
    return h.at({p.name: changed.values[p.name] for p in h.hyperparameters})
