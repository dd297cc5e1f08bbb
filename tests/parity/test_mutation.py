"""The tests can fail: a rule with one operator or constant changed leaves the bounds of native parity."""

from __future__ import annotations

from dataclasses import replace

import pytest

import optexport as ox
from optexport.ir import Program
from optexport.parity import compare_runs, referee
from optexport.parity.mutants import mutants
from optexport.rules import Rule
from optexport.specs import Spec
from tests.parity.table import NATIVE, Row


def noticed(row: Row, program: Program) -> bool:
    """Whether native parity of this row fails with ``program`` in the rule's place."""
    p, dtype = row.problem("float64"), row.dtypes[0]
    spec = ox.native(row.optimizer, **row.arguments)
    wrong = Spec(tuple(replace(g, rule=replace(g.rule, program=program)) for g in spec.groups))
    lrs = p.lrs(row.lr)
    right = ((s.params, s.slots) for s in referee(spec, p.params, p.grads, lrs, noise=p.noise))
    states = referee(wrong, p.params, p.grads, lrs, noise=p.noise)
    mismatch, _ = compare_runs(states, right, dtype, amplification=row.amplification, floor=row.floor)
    return mismatch is not None


def rule_of(row: Row) -> Rule:
    return ox.native(row.optimizer, **row.arguments).groups[-1].rule


@pytest.mark.parametrize("row", NATIVE, ids=lambda r: r.id)
def test_every_changed_rule_is_noticed(row: Row) -> None:
    """By this row, or by another of the same rule: no one problem reaches both bounds of a clamp."""
    changed = list(mutants(rule_of(row).program))
    survivors = [(where, program) for where, program in changed if not noticed(row, program)]
    others = [r for r in NATIVE if r is not row and rule_of(r) == rule_of(row)] if survivors else []
    left = [where for where, program in survivors if not any(noticed(r, program) for r in others)]
    assert changed
    assert not left, f"{len(left)} of {len(changed)} changes were not noticed: {left}"
