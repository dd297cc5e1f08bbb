"""A program: nodes in single-assignment order, and which of them are the outputs.

Immutable. Node ``i`` may use nodes ``0 … i−1`` only, so a program is its own topological order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .types import Type

__all__ = ["Input", "Node", "Program", "Role"]

Role = Literal["param", "grad", "step", "hyper", "slot", "noise", "hessian"]


@dataclass(frozen=True)
class Input:
    """What an input node stands for.

    role: ``param`` the parameter before the step; ``grad`` the raw gradient; ``step`` the number of
        completed updates (float64 scalar holding an integer); ``hyper`` a hyperparameter; ``slot``
        a state tensor before the step; ``noise`` standard normal numbers; ``hessian`` the diagonal
        of the Hessian, or its product with a vector.
    name: the hyperparameter's or slot's name, empty for the others.
    """

    role: Role
    name: str = ""

    @property
    def key(self) -> str:
        return f"{self.role}:{self.name}" if self.name else self.role


@dataclass(frozen=True)
class Node:
    """One value.

    op: a key of `ops.OPS`, or ``input`` or ``const``.
    args: operands, indexes of earlier nodes.
    attr: an `Input` for ``input``, a float for ``const`` (of tensor type: every element), a scalar
        type's name for ``cast``.
    label: the rule's own name for the value (``m_hat``), for people; not part of equality or hash.
    line: ``file:line`` of the rule that made it; not part of equality, hash or wire form.
    """

    op: str
    args: tuple[int, ...]
    type: Type
    attr: Input | float | str | None = None
    label: str = field(default="", compare=False)
    line: str = field(default="", compare=False)


@dataclass(frozen=True)
class Program:
    """nodes in order; outputs maps ``param`` and slot names to the node of the new value."""

    nodes: tuple[Node, ...]
    outputs: Mapping[str, int]

    def inputs(self, role: Role | None = None) -> list[Input]:
        """The inputs in order of first use, all or those of one role."""
        found = [n.attr for n in self.nodes if isinstance(n.attr, Input)]
        return [i for i in found if role is None or i.role == role]

    def used(self, *outputs: str) -> set[int]:
        """Indexes of the nodes that the given outputs (default: all) depend on."""
        todo = [self.outputs[o] for o in (outputs or self.outputs)]
        seen: set[int] = set()
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                todo.extend(self.nodes[i].args)
        return seen
