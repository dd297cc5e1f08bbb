"""Counts, corrections, precision and order: from when a reader counts, what it is corrected by, which value it reads."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import Program
from ...ir.program import Input
from ...ir.types import FLOAT64, TENSOR
from .edit import Edit, at_node, at_uses, told, users, where

__all__ = ["edits"]

_CORRECTED = {"c1": "mean", "c2": "mean square", "c1_next": "mean"}


def edits(program: Program) -> Iterator[Edit]:
    for made in (_counting, _corrections, _rounded):
        for i in sorted(program.used()):
            yield from made(program, i)
    for slot in program.outputs:
        yield from _stale(program, slot)


def _counting(program: Program, i: int) -> Iterator[Edit]:
    """One reader of the step counts from elsewhere."""
    node = program.nodes[i]
    if not (isinstance(node.attr, Input) and node.attr.role == "step"):
        return
    readers = users(program, i)
    # ``t`` is step + 1; its readers are the ones with a name.
    ts = [u for u, _ in readers if program.nodes[u].op == "add" and not program.nodes[u].type.is_tensor]
    named = [reader for t in ts for reader in users(program, t)] + [r for r in readers if r[0] not in ts]
    if len(named) < 2:
        return

    def moved(user: tuple[int, int], by: float, words: str) -> Edit:
        made = at_uses(program, user, make=lambda b, x, new: b.op("add", x, b.const(by)))
        return Edit("counting", f"{where(program, user[0])} counts {words}", made)

    yield from (moved(user, 1.0, "one update late, from 2") for user in named)
    yield from (moved(user, -1.0, "one update early, from 0") for user in named)


def _corrections(program: Program, i: int) -> Iterator[Edit]:
    """A named scalar that is left out."""
    node = program.nodes[i]
    if node.label not in _CORRECTED or node.type.is_tensor:
        return
    yield Edit(
        "bias_correction",
        f"the bias correction {node.label} of the {_CORRECTED[node.label]} is dropped",
        at_node(program, i, make=lambda b, x, new: b.const(1.0)),
    )
    for u in [u for u, _ in users(program, i) if program.nodes[u].op == "sqrt"]:
        yield Edit(
            "bias_correction",
            f"{node.label} stands in place of its root",
            at_node(program, u, make=lambda b, x, new: new[i]),
        )


def _rounded(program: Program, i: int) -> Iterator[Edit]:
    """A scalar in float32 where double stood."""
    node = program.nodes[i]
    if node.type is FLOAT64 and node.op not in ("const", "cast", "group_sum"):
        yield Edit(
            "float32",
            f"{told(program, i)} is rounded to float32",
            at_node(program, i, make=lambda b, x, new: b.float32(x)),
        )


def _stale(program: Program, slot: str) -> Iterator[Edit]:
    """The update reads a slot's old value where the rule reads its new one."""
    j = program.outputs[slot]
    if slot == "param" or program.nodes[j].type is not TENSOR or isinstance(program.nodes[j].attr, Input):
        return
    if readers := users(program, j):
        yield Edit(
            "order",
            f"the update reads {slot} before it takes the gradient in",
            at_uses(program, *readers, make=lambda b, x, new: b.slot(slot)),
        )
