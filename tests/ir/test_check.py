"""Checking: malformed programs, as a file may hold them, are refused with the reason."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optexport.errors import RuleError
from optexport.ir import BOOL, FLOAT32, FLOAT64, MASK, TENSOR, Input, Node, Program, check
from optexport.ir.ops import OPS
from optexport.rules import CATALOGUE

W = Node("input", (), TENSOR, Input("param"), line="rule.py:1")
G = Node("input", (), TENSOR, Input("grad"), line="rule.py:2")
LR = Node("input", (), FLOAT64, Input("hyper", "lr"), line="rule.py:3")


def refused(*nodes: Node, outputs: dict[str, int] | None = None) -> str:
    with pytest.raises(RuleError) as caught:
        check(Program((W, G, LR, *nodes), outputs or {"param": 0}))
    return str(caught.value)


def node(op: str, *args: int, type=TENSOR, attr=None) -> Node:
    return Node(op, args, type, attr, line="rule.py:9")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (node("convolve", 0, 1), "unknown operator 'convolve'; expected one of add, sub, mul"),
        (node("add", 0), "add takes 2 operands, found 1"),
        (node("sqrt", 0, 1), "sqrt takes 1 operands, found 2"),
        (node("add", 0, 3), "add uses [0, 3] at node 3; expected earlier nodes"),
        (node("add", 0, 99), "add uses [0, 99] at node 3; expected earlier nodes"),
        (node("add", 0, -1), "add uses [0, -1] at node 3; expected earlier nodes"),
        (node("add", 0, 1, type=FLOAT64), "add gives a tensor, found float64"),
        (node("add", 2, 2, type=TENSOR), "add gives a scalar, found tensor"),
        (node("add", 0, 1, type=MASK), "add gives a tensor, found mask"),
        (node("lt", 0, 1, type=BOOL), "lt gives a mask, found bool"),
        (node("lt", 2, 2, type=MASK), "lt gives a bool, found mask"),
        (node("lt", 0, 1, type=TENSOR), "lt gives a mask, found tensor"),
        (node("norm", 0, type=TENSOR), "norm gives a float64, found tensor"),
        (node("norm", 2, type=FLOAT64), "norm takes a tensor, found a float64"),
        (node("where", 0, 0, 1), "where needs a condition first, found a tensor"),
        (node("cast", 0, type=FLOAT32, attr="float32"), "cast is for scalars, float32 or float64; found t"),
        (node("cast", 2, type=FLOAT32, attr="float64"), "cast to 'float64' gives a float64, found float32"),
        (node("add", 0, 1, attr="x"), "add has no attribute, found 'x'"),
        (node("const", type=FLOAT64), "constant None; expected a number"),
        (node("const", type=FLOAT64, attr=math.nan), "constant nan; expected a number"),
        (node("const", type=FLOAT64, attr="1"), "constant '1'; expected a number"),
        (node("const", type=MASK, attr=1.0), "constant 1.0 is a number, found mask"),
        (node("const", 0, type=FLOAT64, attr=1.0), "const takes no operands, found 1"),
        (node("input", type=TENSOR), "input without a role"),
        (node("input", 0, type=TENSOR, attr=Input("param")), "input takes no operands, found 1"),
        (node("input", type=TENSOR, attr=Input("loss")), "unknown input 'loss'; expected one of param, grad,"),
        (node("input", type=TENSOR, attr=Input("hyper", "lr")), "input 'hyper:lr' is a float64, found t"),
        (node("input", type=BOOL, attr=Input("slot", "m")), "input 'slot:m' is a tensor, found bool"),
        (node("input", type=TENSOR, attr=Input("param", "w")), "input 'param' has no name, found 'w'"),
    ],
)  # fmt: skip
def test_a_malformed_node_is_named_with_its_line(bad, message):
    assert refused(bad).startswith(f"rule.py:9: {message}")


def test_a_node_without_a_line_is_named_by_its_operator():
    assert refused(replace(node("add", 0), line="")).startswith("add: add takes 2 operands")


@pytest.mark.parametrize("index", [-1, 3, 1 << 40])
def test_an_output_is_a_node(index):
    assert refused(outputs={"param": index}) == f"rule: output 'param' refers to node {index} of 3"


def test_infinity_is_a_number():
    bound = Node("const", (), FLOAT64, math.inf)
    check(Program((W, bound, Node("min", (0, 1), TENSOR)), {"param": 2}))


@given(st.data())
def test_any_change_of_a_node_is_refused_or_still_a_program_of_the_same_types(data):
    """Whatever passes the check has for every node the type that its operator gives."""
    entry = CATALOGUE[data.draw(st.sampled_from(sorted(CATALOGUE)))]
    program = entry.rule().program
    index = data.draw(st.integers(0, len(program.nodes) - 1))
    old = program.nodes[index]
    new = replace(
        old,
        op=data.draw(st.sampled_from([old.op, *OPS, "input", "const"])),
        args=tuple(data.draw(st.lists(st.integers(0, len(program.nodes)), max_size=3))),
        type=data.draw(st.sampled_from([TENSOR, FLOAT64, FLOAT32, MASK, BOOL])),
    )
    nodes = (*program.nodes[:index], new, *program.nodes[index + 1 :])
    try:
        check(Program(nodes, program.outputs))
    except RuleError:
        return
    for n in nodes:
        if n.op in OPS and OPS[n.op].result in ("real", "select"):
            assert n.type.is_tensor == any(nodes[a].type.is_tensor for a in n.args)
        assert all(nodes[a].op for a in n.args)
