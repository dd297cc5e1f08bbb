"""One change, and the words for the nodes that it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...ir import Program
from ...ir.program import Input, Node
from ...rules import Hyper
from ..rewrite import After, rewritten

__all__ = ["Edit", "at_node", "at_output", "at_uses", "grads", "is_hyper", "told", "users", "where"]


@dataclass(frozen=True)
class Edit:
    """kind: a word for programs. words: for people. apply: gives the changed program. extra: what it adds."""

    kind: str
    words: str
    apply: Callable[[], Program]
    extra: tuple[Hyper, ...] = ()


def at_node(program: Program, *places: int, make: After) -> Callable[[], Program]:
    """The program with something else for these nodes, everywhere; ``make`` as `rewritten` takes it."""
    return lambda: rewritten(program, dict.fromkeys(places, make))


def at_uses(program: Program, *places: tuple[int, int], make: After) -> Callable[[], Program]:
    """The same for operands: (node, operand number)."""
    return lambda: rewritten(program, use=dict.fromkeys(places, make))


def at_output(program: Program, name: str, make: After) -> Callable[[], Program]:
    """The same for one output."""
    changes: Mapping[str, After] = {name: make}
    return lambda: rewritten(program, output=changes)


def is_hyper(node: Node, *names: str) -> bool:
    return isinstance(node.attr, Input) and node.attr.role == "hyper" and node.attr.name in names


def grads(program: Program) -> list[int]:
    """The nodes that read the gradient."""
    found = ((i, program.nodes[i].attr) for i in sorted(program.used()))
    return [i for i, attr in found if isinstance(attr, Input) and attr.role == "grad"]


def users(program: Program, i: int) -> list[tuple[int, int]]:
    """(node, operand number) of every reader of a node."""
    live = program.used()
    return [(u, k) for u in sorted(live) for k, a in enumerate(program.nodes[u].args) if a == i]


def told(program: Program, i: int) -> str:
    """A name for a node: its label, its output, or its operator and what it works on."""
    node = program.nodes[i]
    outputs = {j: o for o, j in program.outputs.items()}
    if isinstance(node.attr, Input):
        return node.attr.name or node.attr.role
    if i in outputs:
        return f"the new {outputs[i]}"
    if node.op == "const":
        return f"{node.attr:g}"
    if node.label:
        return node.label
    return f"{node.op}({', '.join(told(program, a) for a in node.args)})"


def where(program: Program, i: int) -> str:
    """The first named value that node ``i`` goes into."""
    seen = {i}
    while True:
        for j in sorted(seen):
            if program.nodes[j].label or j in program.outputs.values():
                return told(program, j)
        more = {u for j in seen for u, _ in users(program, j)} - seen
        if not more:
            return told(program, i)
        seen |= more
