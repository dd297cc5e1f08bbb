"""Changed copies of a rule: what a test of it must notice.

One change at a time: an operator swapped for its neighbour, a constant moved, a branch exchanged, a
rounding left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..ir import Node, Program

__all__ = ["mutants"]

# Operator -> the one that stands in for it, with the same operands and the same type of result.
_SWAP = {
    "add": "sub",
    "sub": "add",
    "mul": "div",
    "div": "mul",
    "min": "max",
    "max": "min",
    "sqrt": "abs",
    "neg": "abs",
    "abs": "neg",
    "sign": "abs",
    "exp": "abs",
    "log": "neg",
    "floor": "neg",
    "cos": "abs",
    "pow": "mul",
    "sum": "mean",
    "mean": "sum",
    "norm": "sum",
    "lt": "eq",
    "le": "eq",
    "eq": "lt",
    "sum_axis": "mean_axis",
    "mean_axis": "max_axis",
    "max_axis": "mean_axis",
}


def mutants(program: Program) -> Iterator[tuple[str, Program]]:
    """(what was changed, the changed program), one live node after the other.

    A constant moves by 1 % and 0.01; a rounding to a narrow type and a sum over the group fall away;
    the operands of a matrix product change places; an item of a history becomes its neighbour; an axis
    becomes the other one.

    What computes the same over the reals is no change: a sum for a mean whose sign alone is read, the
    product of a matrix and its own multiple turned round, a rounding that the next one repeats.
    """
    live = program.used()
    for i, node in enumerate(program.nodes):
        if i not in live:
            continue
        if node.op in ("sum", "mean") and _sign_alone(program, i):
            continue
        changed = _changed(program, node)
        if node.op == "rounded" and _rounded_again(program, i):
            continue
        if changed is None and node.op in ("rounded", "group_sum", "mean_rest"):
            yield _where(i, node), _bypassed(program, i)
        elif changed is not None:
            nodes = (*program.nodes[:i], changed, *program.nodes[i + 1 :])
            yield _where(i, node), Program(nodes, program.outputs)


def _sign_alone(program: Program, i: int) -> bool:
    """Whether node ``i`` is only compared with 0, as it is or summed over the group: a sum and a mean have
    one sign, so that neither can stand in for the other unnoticed."""
    users = [k for k, n in enumerate(program.nodes) if i in n.args]
    if i in program.outputs.values() or not users:
        return False
    return all(
        _sign_alone(program, k)
        if program.nodes[k].op == "group_sum"
        else program.nodes[k].op in ("eq", "lt", "le")
        and any(program.nodes[a].op == "const" and program.nodes[a].attr == 0 for a in program.nodes[k].args)
        for k in users
    )


def _rounded_again(program: Program, i: int) -> bool:
    """Whether every user of rounding ``i`` repeats it, directly or behind a minimum or maximum: rounding is
    monotone and idempotent, so r(max(r(x), y)) = r(max(x, y))."""
    attr = program.nodes[i].attr

    def repeated(k: int) -> bool:
        users = [(u, n) for u, n in enumerate(program.nodes) if k in n.args and u in program.used()]
        return (
            bool(users)
            and k not in program.outputs.values()
            and all(
                (n.op == "rounded" and n.attr == attr) or (n.op in ("min", "max") and repeated(u))
                for u, n in users
            )
        )

    return repeated(i)


def _multiple_of(program: Program, i: int) -> int:
    """The node that ``i`` is a scalar multiple of, itself where it is none."""
    node = program.nodes[i]
    if node.op == "mul":
        for scalar, other in (node.args, node.args[::-1]):
            if not program.nodes[scalar].type.is_tensor:
                return _multiple_of(program, other)
    return i


def _where(i: int, node: Node) -> str:
    return f"node {i} ({node.op}, {node.line})"


def _changed(program: Program, node: Node) -> Node | None:
    if node.op == "mul" and any(program.nodes[a].op == "sign" for a in node.args):
        return replace(node, op="add")  # x·sign(y) is its own quotient
    if node.op == "const" and isinstance(node.attr, float):
        return replace(node, attr=node.attr * 1.01 + 0.01)
    if node.op == "where":
        return replace(node, args=(node.args[0], node.args[2], node.args[1]))
    if node.op == "matmul":
        a, b = (_multiple_of(program, k) for k in node.args)
        return replace(node, args=node.args[::-1]) if a != b else None  # (cA)·A = A·(cA)
    if node.op == "push":
        return None
    if node.op == "item":
        return replace(node, attr=str(int(str(node.attr)) + (1 if node.attr == "0" else -1)))
    if node.op == "size" and node.attr != "all":
        return replace(node, attr="all")
    return replace(node, op=_SWAP[node.op]) if node.op in _SWAP else None


def _bypassed(program: Program, i: int) -> Program:
    """Without node ``i``: what it takes stands in its place."""
    source = program.nodes[i].args[0]
    nodes = tuple(
        replace(n, args=tuple(source if a == i else a for a in n.args)) if k > i else n
        for k, n in enumerate(program.nodes)
    )
    return Program(nodes, {o: source if j == i else j for o, j in program.outputs.items()})
