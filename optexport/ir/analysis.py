"""What a program touches: how an emitter may schedule it.

An elementwise program may run on a flat bucket of many parameters, or on one parameter cut into
blocks; a per-tensor program needs each parameter whole, because it reduces over it; a group program
needs all parameters of the step, because it sums over them.
"""

from __future__ import annotations

from enum import Enum

from .ops import OPS
from .program import Input, Program
from .types import ARRAY

__all__ = ["Reach", "axes_matter", "dead_slots", "reach", "scalars", "whole_tensor"]


class Reach(Enum):
    ELEMENTWISE = "elementwise"
    TENSOR = "per-tensor"
    GROUP = "group"


def reach(program: Program) -> Reach:
    """The widest neighbourhood that one element of an output depends on."""
    live = [program.nodes[i] for i in program.used()]
    if any(n.op == "group_sum" for n in live):
        return Reach.GROUP
    wide = {"scalar", "array", "matrix", "tensor"}
    # A scalar slot is one number for the whole parameter.
    if any(
        (n.op in OPS and OPS[n.op].result in wide)
        or n.type is ARRAY
        or (isinstance(n.attr, Input) and n.attr.role == "slot" and not n.type.is_tensor)
        for n in live
    ):
        return Reach.TENSOR
    return Reach.ELEMENTWISE


def scalars(program: Program) -> list[int]:
    """Live scalar nodes that depend on no tensor and no slot: step, hyperparameters and what is made of them."""
    live, out = program.used(), []
    host: set[int] = set()
    for i, node in enumerate(program.nodes):
        if node.type.is_tensor or node.op == "group_sum":
            continue
        own = isinstance(node.attr, Input) and node.attr.role == "slot"
        if not own and all(a in host for a in node.args):
            host.add(i)
            if i in live:
                out.append(i)
    return out


def dead_slots(program: Program) -> set[str]:
    """Slots whose value can never reach the parameter: they are written, and read only by themselves.

    Found by walking back from ``param`` through the slots it reads, to a fixed point.
    """
    alive: set[str] = set()
    grew = True
    while grew:
        used = program.used("param", *sorted(alive))
        names = {n.attr.name for i in used if (n := program.nodes[i]).op == "input" and n.attr.role == "slot"}  # type: ignore[union-attr]
        grew = not names <= alive
        alive |= names
    return {o for o in program.outputs if o != "param"} - alive


def axes_matter(program: Program) -> bool:
    """Whether an axis of the parameter is told from another: a program that does not is the same on a
    tensor whose axes stand in another order."""
    live = [program.nodes[i] for i in program.used()]
    return any(
        n.op in ("mean_rest", "matmul", "transpose")
        or (n.op in OPS and OPS[n.op].attr == "axis" and n.attr != "all")
        for n in live
    )


def whole_tensor(program: Program, *outputs: str) -> dict[str, str]:
    """What is computed from a whole parameter or along its axes: its name in the rule or its operator,
    and what comes of it, ``scalar``, ``array`` or ``matrix``.

    outputs: only what these depend on (default: all).

    A program without any is the same on a parameter cut into pieces. A sum that only sums over the
    group take in is the same however the group's parameters are cut.
    """
    live = program.used(*outputs)
    readers: dict[int, set[str]] = {}
    for i in live:
        for a in program.nodes[i].args:
            readers.setdefault(a, set()).add(program.nodes[i].op)
    found: dict[str, str] = {}
    for i in sorted(live):
        node = program.nodes[i]
        kind = OPS[node.op].result if node.op in OPS else ""
        if kind not in ("scalar", "array", "matrix") or node.op == "push":
            continue
        if node.op == "sum" and readers.get(i) == {"group_sum"}:
            continue
        found.setdefault(node.label or node.op, kind)
    return found
