"""How the update of one tensor is called: on a parameter, a bucket of several, blocks of one, rows of a flat
buffer, or, where a rule sums over the group, on all parameters in step with each other.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport.ir.analysis import scalars as host_scalars
from optexport.rules import Slot
from optexport.specs import Group

from . import _layout
from ._functions import DOMAIN, Functions, lower_update
from ._graph import GIVEN
from ._lower import Body

__all__ = ["Graph", "Lane", "blocks", "bucket", "call", "cut", "declare", "flat", "scalar_type", "together"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Lane:
    """Parameters that share all scalars: one group at one step count.

    index: of the lane's flat buffer. offset: step count minus the input ``step``, at most 0.
    """

    index: int
    group_index: int
    group: Group
    offset: int
    shapes: Mapping[str, Shape]

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.group.rule.slots


@dataclass
class Graph:
    """The graph under construction."""

    dtype: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    functions: dict[tuple[Any, ...], Functions] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    flat: list[dict[str, Any]] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), **attributes))

    def integers(self, value: int | Sequence[int], hint: str = "") -> str:
        """Name of an int64 constant; equal ones are one initializer."""
        text = hint or "x".join(map(str, np.atleast_1d(value)))
        name = f"optexport/{'shape_' if not hint else ''}{text}"
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(value, np.int64), name)
        return name

    def double(self, value: float, name: str) -> str:
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(value, np.float64), name))
        return name

    def tensor(self, name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.dtype, list(shape))


def value(stem: str, key: str) -> str:
    """The input of one tensor: the parameter itself, its gradient, or a slot."""
    return stem if key == "param" else f"{stem}.{key}"


def scalar_type(slot: Slot) -> int | None:
    """ONNX type of a slot that is one number, None of one that is a tensor."""
    return None if slot.type.is_tensor else T.FLOAT if slot.dtype == "float32" else T.DOUBLE


def declare(
    graph: Graph, stem: str, shape: Sequence[int | str], made: Functions, slots: Sequence[Slot]
) -> None:
    """Graph inputs and outputs of one parameter or flat buffer."""
    own = {s.name: s for s in slots if s.shape != "param"}

    def tensor(key: str, name: str) -> onnx.ValueInfoProto:
        if key not in own:
            return graph.tensor(name, shape)
        sizes = own[key].shape_for(shape)  # type: ignore[arg-type]  # only flat buffers have symbolic sizes
        return helper.make_tensor_value_info(name, scalar_type(own[key]) or graph.dtype, list(sizes))

    given = [key for key in GIVEN if key == "grad" or key in made.tensors]
    for key in ("param", *given, *(s.name for s in slots)):
        graph.inputs.append(tensor(key, value(stem, key)))
    for key in made.outputs:
        graph.outputs.append(tensor(key, f"{value(stem, key)}.new"))
        if key in made.copied:
            graph.copied.append(f"{value(stem, key)}.new")


def call(nodes: list[onnx.NodeProto], stem: str, made: Functions, scalars: Sequence[str]) -> None:
    """Call the update function on ``<stem>``, ``<stem>.grad``, …, giving ``<stem>.new``, …"""
    assert made.update is not None
    nodes.append(
        helper.make_node(
            made.update.name,
            [*(value(stem, key) for key in made.tensors), *scalars],
            [f"{value(stem, key)}.new" for key in made.outputs],
            name=stem,
            domain=DOMAIN,
        )
    )


def bucket(graph: Graph, shapes: Mapping[str, Shape], made: Functions, scalars: Sequence[str]) -> None:
    """Small parameters joined along their first axis, updated, and cut apart again.

    Parameters that differ in other axes are flattened first.
    """
    stem = f"optexport/bucket/{next(iter(shapes))}"
    direct = _layout.joins_directly(shapes.values())
    for key in made.tensors:
        parts = []
        for name, shape in shapes.items():
            part = value(name, key)
            if not direct and len(shape) != 1:
                graph.node("Reshape", [part, graph.integers([-1], "line")], [f"optexport/{part}/line"])
                part = f"optexport/{part}/line"
            parts.append(part)
        graph.node("Concat", parts, [value(stem, key)], axis=0)
    call(graph.nodes, stem, made, scalars)
    lengths = [s[0] if direct else _layout.size(s) for s in shapes.values()]
    sizes = graph.integers(lengths, f"sizes/{stem}")
    for key in made.outputs:
        outs = {f"{value(n, key)}.new": s for n, s in shapes.items()}
        parts = [o if direct or len(s) == 1 else f"optexport/{o}/line" for o, s in outs.items()]
        graph.node("Split", [f"{value(stem, key)}.new", sizes], parts, axis=0)
        for part, (out, shape) in zip(parts, outs.items(), strict=True):
            if part != out:
                graph.node("Reshape", [part, graph.integers(shape)], [out])


def blocks(
    graph: Graph, name: str, shape: Shape, tiles: tuple[int, int], made: Functions, scalars: Sequence[str]
) -> None:
    """A big parameter seen as rows, updated row by row."""
    stem = f"optexport/blocks/{name}"
    rows = graph.integers(tiles)
    for key in made.tensors:
        graph.node("Reshape", [value(name, key), rows], [value(stem, key)])
    scan(graph, stem, stem, tiles[1], made, scalars)
    for key in made.outputs:
        graph.node("Reshape", [f"{value(stem, key)}.new", graph.integers(shape)], [f"{value(name, key)}.new"])


def scan(graph: Graph, stem: str, body: str, row: int, made: Functions, scalars: Sequence[str]) -> None:
    """Apply the update to every row of ``<stem>`` in turn."""
    inner = f"{body}/row"
    nodes: list[onnx.NodeProto] = []
    call(nodes, inner, made, scalars)
    block = helper.make_graph(
        nodes,
        f"{body}/update",
        [graph.tensor(value(inner, key), [row]) for key in made.tensors],
        [graph.tensor(f"{value(inner, key)}.new", [row]) for key in made.outputs],
    )
    graph.node(
        "Scan",
        [value(stem, key) for key in made.tensors],
        [f"{value(stem, key)}.new" for key in made.outputs],
        body=block,
        num_scan_inputs=len(made.tensors),
    )


def flat(graph: Graph, lane: Lane, made: Functions, scalars: Sequence[str], elementwise: bool) -> None:
    """A lane's parameters in one buffer: row by row, or, where the rule reduces, cut into parameters."""
    stem = f"flat.{lane.index}"
    table = _layout.segments(lane.shapes.items())
    used = sum(_layout.size(s) for s in lane.shapes.values())
    rows, row = _layout.flat_shape(used)
    declare(graph, stem, (f"{stem}.rows" if elementwise else rows, row), made, lane.slots)
    graph.flat.append(
        {
            "name": stem,
            "group": lane.group_index,
            "shape": [rows, row],
            "slots": [s.name for s in lane.slots],
            "given": [key for key in GIVEN if key == "grad" or key in made.tensors],
            "segments": [{"name": s.name, "offset": s.offset, "shape": list(s.shape)} for s in table],
        }
    )
    if elementwise:
        scan(graph, stem, f"optexport/{stem}", row, made, scalars)
    else:
        cut(graph, stem, table, (rows, row), made, scalars)


def cut(
    graph: Graph,
    stem: str,
    table: Sequence[_layout.Segment],
    shape: tuple[int, int],
    made: Functions,
    scalars: Sequence[str],
) -> None:
    """A flat buffer cut into its parameters, each updated whole, and joined again; padding is kept."""
    line, padding = graph.integers([-1], "line"), f"optexport/{stem}/padding"
    used = sum(_layout.size(s.shape) for s in table)
    left = shape[0] * shape[1] - used
    sizes = graph.integers([*(_layout.size(s.shape) for s in table), left], f"sizes/{stem}")
    parts = [f"optexport/{stem}/{s.name}" for s in table]
    for key in made.tensors:
        graph.node("Reshape", [value(stem, key), line], [f"optexport/{value(stem, key)}/line"])
        cut = [f"{value(p, key)}/line" for p in parts]
        graph.node(
            "Split", [f"optexport/{value(stem, key)}/line", sizes], [*cut, value(padding, key)], axis=0
        )
        for piece, part, s in zip(cut, parts, table, strict=True):
            graph.node("Reshape", [piece, graph.integers(s.shape)], [value(part, key)])
    for part in parts:
        call(graph.nodes, part, made, scalars)
    for key in made.outputs:
        new = [f"{value(p, key)}.new" for p in parts]
        for name in new:
            graph.node("Reshape", [name, line], [f"{name}/line"])
        rest = value(padding, key if key in made.tensors else "param")
        joined = f"optexport/{value(stem, key)}.new/line"
        graph.node("Concat", [*(f"{n}/line" for n in new), rest], [joined], axis=0)
        graph.node("Reshape", [joined, graph.integers(shape)], [f"{value(stem, key)}.new"])


def together(graph: Graph, lanes: Sequence[tuple[Lane, Functions, Sequence[str]]]) -> None:
    """Lanes whose programs sum over the group: every parameter's update in the graph itself, all of them
    brought to their next sum before it is taken.

    A function has one parameter's tensors, so these updates cannot be functions.
    """
    running: dict[str, tuple[Body, Generator[str, str, None]]] = {}
    for lane, made, names in lanes:
        host = set(host_scalars(made.program))
        for param in lane.shapes:
            body = Body(set(), prefix=f"optexport/{param}/")
            body.values.update(dict(zip(made.crossing_values, names, strict=True)))
            keys = {key: value(param, key) for key in made.tensors}
            new = {key: f"{value(param, key)}.new" for key in made.outputs}
            running[param] = body, lower_update(body, made.program, host, graph.dtype, keys, made.types, new)
    total: str | None = None
    count = 0
    while running:
        parts = []
        for param, (body, lowering) in list(running.items()):
            try:
                parts.append(lowering.send(total))  # type: ignore[arg-type]  # None starts it
            except StopIteration:
                del running[param]
            graph.nodes.extend(body.nodes)
            body.nodes.clear()
        if parts:
            total = f"optexport/group/{count}"
            graph.node("Sum", parts, [total])
            count += 1
