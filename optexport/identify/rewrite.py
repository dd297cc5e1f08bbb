"""Programs with a change in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..ir import Program
from ..ir.canonical import sweep
from ..ir.ops import OPS
from ..ir.program import Input, Node
from ..ir.types import FLOAT32, FLOAT64, TENSOR, Type, join

__all__ = ["After", "Builder", "rewritten"]


class Builder:
    """Nodes being laid down; each method gives the new node's index."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def put(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def const(self, value: float) -> int:
        return self.put(Node("const", (), FLOAT64, value))

    def hyper(self, name: str) -> int:
        return self.put(Node("input", (), FLOAT64, Input("hyper", name)))

    def given(self, role: str, kind: Type) -> int:
        return self.put(Node("input", (), kind, Input(role)))  # type: ignore[arg-type]

    def slot(self, name: str) -> int:
        return self.put(Node("input", (), TENSOR, Input("slot", name)))

    def op(self, name: str, *args: int) -> int:
        kinds = [self.nodes[a].type for a in args]
        if OPS[name].result == "scalar":
            kind = FLOAT64
        elif OPS[name].result == "truth":
            kind = Type.MASK if any(k.is_tensor for k in kinds) else Type.BOOL
        else:
            kind = join([k for k in kinds if not k.is_truth])
        return self.put(Node(name, args, kind))

    def float32(self, x: int) -> int:
        """A scalar through float32."""
        narrow = self.put(Node("cast", (x,), FLOAT32, "float32"))
        return self.put(Node("cast", (narrow,), FLOAT64, "float64"))


After = Callable[[Builder, int, Mapping[int, int]], int]


def rewritten(
    program: Program,
    after: Mapping[int, After] | None = None,
    use: Mapping[tuple[int, int], After] | None = None,
    output: Mapping[str, After] | None = None,
) -> Program:
    """A copy of ``program`` with changes.

    after: node -> what stands for it everywhere, given a builder, its new index and the map of old to
        new indexes. use: (node, operand number) -> what stands for that operand there alone.
    output: name -> what stands for that output.
    """
    b = Builder()
    new: dict[int, int] = {}
    for i, node in enumerate(program.nodes):
        args = []
        for k, a in enumerate(node.args):
            change = (use or {}).get((i, k))
            args.append(new[a] if change is None else change(b, new[a], new))
        new[i] = b.put(replace(node, args=tuple(args)))
        if after and i in after:
            new[i] = after[i](b, new[i], new)
    outputs = {o: new[i] for o, i in program.outputs.items()}
    for name, change in (output or {}).items():
        outputs[name] = change(b, outputs[name], new)
    return sweep(Program(tuple(b.nodes), outputs))
