"""The tests can fail: a rule with one operator or constant changed leaves the bounds of native parity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import optexport as ox
from optexport.ir import Node, Program
from optexport.parity import compare_runs, referee
from optexport.rules import Rule
from optexport.specs import Spec
from tests.parity.table import NATIVE, Row

_SWAP = {"add": "sub", "sub": "add", "mul": "div", "div": "mul", "min": "max", "max": "min", "sqrt": "abs"}


def mutants(program: Program) -> Iterator[tuple[str, Program]]:
    """Programs with one node changed: an operator swapped for its neighbour, a constant moved by 1 %,
    a negation dropped."""
    live = program.used()
    for i, node in enumerate(program.nodes):
        if i not in live:
            continue
        changed: Node | None = None
        if node.op == "mul" and any(program.nodes[a].op == "sign" for a in node.args):
            changed = replace(node, op="add")  # x·sign(y) is its own quotient
        elif node.op in _SWAP:
            changed = replace(node, op=_SWAP[node.op])
        elif node.op == "const" and isinstance(node.attr, float):
            changed = replace(node, attr=node.attr * 1.01 + 0.01)
        elif node.op == "neg":
            changed = replace(node, op="abs")
        if changed is not None:
            nodes = (*program.nodes[:i], changed, *program.nodes[i + 1 :])
            yield f"node {i} ({node.op}, {node.line})", Program(nodes, program.outputs)


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
