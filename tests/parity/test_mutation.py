"""The tests can fail: a rule with one operator or constant changed leaves the bounds of native parity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import optexport as ox
from optexport.ir import Node, Program
from optexport.parity import compare_runs, referee
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
        if node.op in _SWAP:
            changed = replace(node, op=_SWAP[node.op])
        elif node.op == "const" and isinstance(node.attr, float):
            changed = replace(node, attr=node.attr * 1.01 + 0.01)
        elif node.op == "neg":
            changed = replace(node, op="abs")
        if changed is not None:
            nodes = (*program.nodes[:i], changed, *program.nodes[i + 1 :])
            yield f"node {i} ({node.op}, {node.line})", Program(nodes, program.outputs)


@pytest.mark.parametrize("row", NATIVE, ids=lambda r: r.id)
def test_every_changed_rule_is_noticed(row: Row) -> None:
    p = row.problem("float64")
    spec = ox.native(row.optimizer, **row.arguments)
    dtype = row.dtypes[0]
    lrs = p.lrs(row.lr)
    truth = list(referee(spec, p.params, p.grads, lrs, noise=p.noise))
    right = [(s.params, s.slots) for s in truth]
    survivors, count = [], 0
    for where, program in mutants(spec.groups[-1].rule.program):
        count += 1
        wrong = Spec(tuple(replace(g, rule=replace(g.rule, program=program)) for g in spec.groups))
        states = referee(wrong, p.params, p.grads, lrs, noise=p.noise)
        mismatch, _ = compare_runs(states, right, dtype, amplification=row.amplification, floor=row.floor)
        if mismatch is None:
            survivors.append(where)
    assert count >= 1
    assert not survivors, f"{len(survivors)} of {count} changes were not noticed: {survivors}"
