"""The tests can fail: a rule with one operator or constant changed leaves the bounds of native parity."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

import optexport as ox
from optexport.ir import Program
from optexport.parity import compare_runs, referee
from optexport.parity.mutants import mutants
from optexport.rules import Rule
from optexport.specs import Spec
from tests.parity.table import NATIVE, Row


def rules_of(row: Row) -> list[Rule]:
    """The rules of a row's groups: of its matrices, and of its vectors where they differ."""
    return _rules()[row.id]


@cache
def _rules() -> dict[str, list[Rule]]:
    return {row.id: _settled(row) for row in NATIVE}


def _settled(row: Row) -> list[Rule]:
    spec = ox.native(row.optimizer, **row.arguments).settle(row.problem("float64").params)
    return list(dict.fromkeys(g.rule for g in spec.groups))


def noticed(row: Row, rule: Rule, program: Program) -> bool:
    """Whether native parity of this row fails with ``program`` in the rule's place."""
    p, dtype = row.problem("float64"), row.dtypes[0]
    spec = ox.native(row.optimizer, **row.arguments).settle(p.params)
    changed = replace(rule, program=program)
    wrong = Spec(tuple(replace(g, rule=changed) if g.rule == rule else g for g in spec.groups))
    lrs = p.lrs(row.lr)
    right = ((s.params, s.slots) for s in referee(spec, p.params, p.grads, lrs, noise=p.noise))
    states = referee(wrong, p.params, p.grads, lrs, noise=p.noise)
    try:
        mismatch, _ = compare_runs(states, right, dtype, amplification=row.amplification, floor=row.floor)
    except ValueError:
        return True  # matrices that do not fit each other
    return mismatch is not None


def survivors(row: Row) -> tuple[list[str], int]:
    """Changes of the row's rules that neither it nor another row of the same rule notices; how many there
    were. (No one problem reaches both bounds of a clamp.)"""
    left, count = [], 0
    for rule in rules_of(row):
        for where, program in mutants(rule.program):
            count += 1
            if noticed(row, rule, program):
                continue
            others = (r for r in NATIVE if r is not row and rule in rules_of(r))
            if not any(noticed(r, rule, program) for r in others):
                left.append(where)
    return left, count


@pytest.mark.parametrize("row", NATIVE, ids=lambda r: r.id)
def test_every_changed_rule_is_noticed(row: Row) -> None:
    left, count = survivors(row)
    assert count
    assert not left, f"{len(left)} of {count} changes were not noticed: {left}"
