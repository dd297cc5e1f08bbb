"""An operand alone in place of an operation, one operator for another, a fixed number of another value."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from ...ir import Program
from ...rules import Hyper
from .edit import Edit, at_node, told, where

__all__ = ["edits"]

_LEFT_OUT = ("add", "sub", "mul", "div", "sqrt", "max", "min", "sign", "pow", "abs", "neg")
_SWAPS = {"add": "sub", "sub": "add", "max": "min", "min": "max", "sqrt": "abs"}


def edits(program: Program) -> Iterator[Edit]:
    for i in sorted(program.used()):
        yield from _left_out(program, i)
        yield from _swapped(program, i)
        yield from _another_number(program, i)


def _left_out(program: Program, i: int) -> Iterator[Edit]:
    node = program.nodes[i]
    if node.op not in _LEFT_OUT:
        return

    def alone(a: int) -> Edit:
        words = f"{told(program, a)} stands in place of {told(program, i)}"
        return Edit("left out", words, at_node(program, i, make=lambda b, x, new: new[a]))

    for a in dict.fromkeys(node.args):
        if program.nodes[a].type is node.type:
            yield alone(a)


def _swapped(program: Program, i: int) -> Iterator[Edit]:
    node = program.nodes[i]
    if node.op not in _SWAPS:
        return
    other = _SWAPS[node.op]
    words = (
        "the absolute value in place of the root" if node.op == "sqrt" else f"{other} in place of {node.op}"
    )
    yield Edit(
        "operator",
        f"{words} in {where(program, i)}",
        at_node(program, i, make=lambda b, x, new: b.op(other, *(new[a] for a in node.args))),
    )


def _another_number(program: Program, i: int) -> Iterator[Edit]:
    node = program.nodes[i]
    if node.op == "const" and isinstance(node.attr, float) and node.attr != 0.0:
        yield Edit(
            "constant",
            f"another number in place of {node.attr:g} in {where(program, i)}",
            at_node(program, i, make=lambda b, x, new: b.hyper("constant")),
            (Hyper("constant", node.attr, -inf, inf, f"the number in place of {node.attr:g}"),),
        )
