"""Whether an output may be written over an input: a proof on the graph that the runtime really runs.

ONNX Runtime takes one memory as input and output, and promises nothing about it: nodes do not run in the
file's order, and one that comes late may read what another has overwritten. Only data dependencies
order them. So an output is safe to write over an input where every node that reads the input is needed to
compute the output, or is the node that writes it and works element by element.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

__all__ = ["safe_aliases"]

# Results that may be the same memory as the first input.
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
# Element i of the result is written after all elements i of the operands are read.
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Neg", "Sum", "Where"}


def safe_aliases(model: onnx.ModelProto, aliases: Mapping[str, str], gate: str = "") -> set[str]:
    """The inputs among ``aliases`` (input -> output) whose output may be written over them.

    model: the graph as the runtime has optimized it, with functions inlined. gate: a value that most
    writers depend on (the barrier), which makes the proof short; right without it too.
    """
    graph = _Graph(model.graph)
    before = graph.needed_for(gate) if gate in graph.producer else frozenset()
    return {x for x, y in aliases.items() if y in graph.producer and graph.ordered(x, y, gate, before)}


class _Graph:
    """Nodes by number; who makes and who reads each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.inputs = [tuple(_reads(n)) for n in self.nodes]
        self.producer = {o: i for i, n in enumerate(self.nodes) for o in n.output if o}
        self.readers: dict[str, list[int]] = {}
        for i, names in enumerate(self.inputs):
            for name in names:
                self.readers.setdefault(name, []).append(i)

    def needed_for(self, value: str, known: Iterable[int] = ()) -> frozenset[int]:
        """Nodes that a value is computed from, its own among them; the walk stops at ``known`` ones."""
        found = {self.producer[value]} if value in self.producer else set()
        left, stop = list(found), set(known)
        while left:
            for name in self.inputs[left.pop()]:
                i = self.producer.get(name)
                if i is not None and i not in found and i not in stop:
                    found.add(i)
                    left.append(i)
        return frozenset(found)

    def ordered(self, x: str, y: str, gate: str, before: frozenset[int]) -> bool:
        """Whether every reader of ``x`` has run when ``y`` is written."""
        writer = self.producer[y]
        own = self.needed_for(y, before)
        gated = any(gate in self.inputs[i] for i in own) if before else False
        for i in self._touching(x):
            if i == writer:
                if self.nodes[i].op_type not in _ELEMENTWISE or self.nodes[i].domain not in ("", "ai.onnx"):
                    return False
            elif i not in own and not (gated and i in before) and not self._reaches(i, y, before):
                return False
        return True

    def _reaches(self, i: int, y: str, before: frozenset[int]) -> bool:
        """The long way: some walks stopped at nodes before the gate without passing it."""
        return i in before and i in self.needed_for(y)

    def _touching(self, x: str) -> Iterator[int]:
        """Nodes that read ``x``, under whatever shape."""
        left = [x]
        while left:
            for i in self.readers.get(left.pop(), ()):
                yield i
                if self.nodes[i].op_type in _VIEWS:
                    left.extend(self.nodes[i].output)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Inputs of a node, and what its subgraphs take from outside."""
    yield from (i for i in node.input if i)
    for a in node.attribute:
        for graph in (a.g, *a.graphs):
            made = {o for n in graph.node for o in n.output} | {
                i.name for i in (*graph.input, *graph.initializer)
            }
            yield from (i for n in graph.node for i in _reads(n) if i not in made)
            yield from (o.name for o in graph.output if o.name not in made)
