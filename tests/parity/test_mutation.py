"""The tests can fail: a rule with one operator or constant changed leaves the bounds of native parity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

import optexport as ox
from optexport.ir import Program
from optexport.parity import Problem, compare_runs, referee
from optexport.parity.compare import Snapshot
from optexport.parity.mutants import mutants
from optexport.rules import Rule
from optexport.specs import Spec
from optexport.state import TrainingState
from tests.parity.table import NATIVE, Row

ROWS = {row.id: row for row in NATIVE}


@cache
def settled(row: str) -> Spec:
    r = ROWS[row]
    return ox.native(r.optimizer, **r.arguments).settle(r.problem("float64").params)


def rules_of(row: Row) -> list[Rule]:
    """The rules of a row's groups: of its matrices, and of its vectors where they differ."""
    return list(dict.fromkeys(g.rule for g in settled(row.id).groups))


@cache
def rows_of() -> dict[Rule, list[Row]]:
    rows: dict[Rule, list[Row]] = {}
    for row in NATIVE:
        for rule in rules_of(row):
            rows.setdefault(rule, []).append(row)
    return rows


@cache
def problem_of(row: str) -> Problem:
    return ROWS[row].problem("float64")


def trajectory(row: Row, spec: Spec) -> Iterator[TrainingState]:
    p = problem_of(row.id)
    return referee(spec, p.params, p.grads, p.lrs(row.lr), row.start(spec, p.params), noise=p.noise)


@cache
def right(row: str) -> list[Snapshot]:
    """What every changed rule of a row is compared with."""
    return [(s.params, s.slots) for s in trajectory(ROWS[row], settled(row))]


def noticed(row: Row, rule: Rule, program: Program) -> bool:
    """Whether native parity of this row fails with ``program`` in the rule's place."""
    changed = replace(rule, program=program)
    groups = (replace(g, rule=changed) if g.rule == rule else g for g in settled(row.id).groups)
    states = trajectory(row, Spec(tuple(groups)))
    try:
        mismatch, _ = compare_runs(
            states, right(row.id), row.dtypes[0], amplification=row.amplification, floor=row.floor
        )
    except ValueError:
        return True  # matrices that do not fit each other
    return mismatch is not None


def survivors(row: Row) -> tuple[list[str], int]:
    """Changes of the row's rules that neither it nor another row of the same rule notices; how many there
    were. (No one problem reaches both bounds of a clamp.)"""
    left, count = [], 0
    for rule in rules_of(row):
        rows = [row, *(r for r in rows_of()[rule] if r is not row)]
        for where, program in mutants(rule.program):
            count += 1
            if not any(noticed(r, rule, program) for r in rows):
                left.append(where)
    return left, count


@pytest.mark.parametrize("row", NATIVE, ids=lambda r: r.id)
def test_every_changed_rule_is_noticed(row: Row) -> None:
    left, count = survivors(row)
    assert count
    assert not left, f"{len(left)} of {count} changes were not noticed: {left}"
