"""Programs as protobuf messages, both ways."""

from __future__ import annotations

from typing import Any

from ..errors import RuleError
from .check import check, check_nodes
from .program import Input, Node, Program
from .types import Type

__all__ = ["from_message", "to_message"]


def to_message(program: Program) -> Any:
    """The ``Program`` message of a program."""
    from optexport.schemas import message

    out = message("Program")()
    for node in program.nodes:
        m = out.nodes.add(op=node.op, args=node.args, type=node.type.value, label=node.label)
        if isinstance(node.attr, Input):
            m.input.role, m.input.name = node.attr.role, node.attr.name
        elif isinstance(node.attr, float):
            m.constant = node.attr
        elif node.attr is not None:
            m.text = node.attr
    for name, index in program.outputs.items():
        out.outputs[name] = index
    return out


def from_message(m: Any, *, rule: bool = True) -> Program:
    """The checked program of a ``Program`` message.

    rule: whether it must have a rule's outputs, rather than any (a schedule's).

    Raises:
        RuleError: the message is not a well-formed program.
    """
    nodes = []
    for i, n in enumerate(m.nodes):
        attr: Input | float | str | None = None
        kind = n.WhichOneof("attr")
        if kind == "input":
            attr = Input(n.input.role, n.input.name)
        elif kind is not None:
            attr = n.constant if kind == "constant" else n.text
        try:
            type_ = Type(n.type)
        except ValueError:
            raise RuleError(f"node {i}: unknown type {n.type!r}; written by a newer optexport?") from None
        nodes.append(Node(n.op, tuple(n.args), type_, attr, n.label, f"node {i}"))
    made = Program(tuple(nodes), dict(sorted(m.outputs.items())))
    return check(made) if rule else check_nodes(made)
