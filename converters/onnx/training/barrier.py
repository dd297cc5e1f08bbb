"""The barrier: no parameter is written before everything that reads it has run.

A scalar zero that depends on the loss and on every gradient is taken from each learning rate, and from
``step``. An update waits for both; so memory of parameters may be written over in the same run. A slice of no
element carries no NaN, and x − 0 is x, bit for bit, −0 included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

__all__ = ["BARRIER", "with_barrier"]

BARRIER = "optexport/barrier"


def with_barrier(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a finished training graph, with the barrier.

    model: as `training_graph` made it. What the updates take from outside of them (``step``, learning rates,
    other runtime hyperparameters) they take behind the barrier; where there is no such thing but ``step``, the
    gradients are taken behind it too.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    meta = {p.key: p.value for p in model.metadata_props}
    told = json.loads(meta["optexport.training"])
    given = {*told["data"], told["label"], *told["params"], *told["buffers"]}
    graph = made.graph
    state = {o.name.removesuffix(".new") for o in graph.output}
    types = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    scalars = [
        i.name for i in graph.input
        if i.name not in given and not i.type.tensor_type.shape.dim and (i.name == "step" or i.name not in state)
        and types[i.name] in (T.FLOAT, T.DOUBLE, T.INT64) and i.name != "seed"
    ]  # fmt: skip
    produced = {o for n in graph.node for o in n.output}
    grads = [f"{p}.grad" for p in told["params"] if f"{p}.grad" in produced]
    kept = [o.name for o in graph.output if o.name != "loss" and o.name.removesuffix(".new") == o.name]
    rates = [s for s in scalars if types[s] != T.INT64]
    gated = scalars if rates else [*scalars, *grads]
    real = _type_of_gradients(model, told["params"])
    nodes = [*_zero(graph, ["loss", *grads, *kept], real)]
    for name in gated:
        kind = types.get(name, real)
        zero = BARRIER if kind == real else f"{BARRIER}/{kind}"
        if kind != real and not any(zero in n.output for n in nodes):
            nodes.append(helper.make_node("Cast", [BARRIER], [zero], to=kind))
        nodes.append(helper.make_node("Sub", [name, zero], [f"{BARRIER}/{name}"]))
    split = max(i for i, n in enumerate(graph.node) if set(n.output) & {*grads, "loss", *kept}) + 1
    before, after = list(graph.node[:split]), list(graph.node[split:])
    for node in after:
        _reread(node, gated)
    del graph.node[:]
    graph.node.extend([*before, *nodes, *after])
    return made


def _type_of_gradients(model: onnx.ModelProto, params: Iterable[str]) -> int:
    names = set(params)
    return next(int(i.type.tensor_type.elem_type) for i in model.graph.input if i.name in names)


def _zero(graph: onnx.GraphProto, values: Iterable[str], kind: int) -> list[onnx.NodeProto]:
    """The nodes of the zero: no element of each value, end to end, summed."""
    for name, number in (("line", -1), ("none", 0)):
        array = np.asarray([number], np.int64)
        graph.initializer.append(numpy_helper.from_array(array, f"{BARRIER}/{name}"))
    line, none = f"{BARRIER}/line", f"{BARRIER}/none"
    nodes, parts = [], []
    types = {o.name: o.type.tensor_type.elem_type for o in graph.output}
    for name in values:
        flat, part = f"{BARRIER}/{name}/line", f"{BARRIER}/{name}/none"
        nodes.append(helper.make_node("Reshape", [name, line], [flat]))
        nodes.append(helper.make_node("Slice", [flat, none, none], [part]))
        if types.get(name, kind) != kind:
            nodes.append(helper.make_node("Cast", [part], [f"{part}/real"], to=kind))
            part = f"{part}/real"
        parts.append(part)
    whole = f"{BARRIER}/parts"
    nodes.append(helper.make_node("Concat", parts, [whole], axis=0))
    nodes.append(helper.make_node("ReduceSum", [whole], [BARRIER], keepdims=0))
    return nodes


def _reread(node: onnx.NodeProto, gated: Iterable[str]) -> None:
    """Let a node, and the graphs in it, read the values behind the barrier."""
    names = set(gated)
    for i, name in enumerate(node.input):
        if name in names:
            node.input[i] = f"{BARRIER}/{name}"
    for a in node.attribute:
        for sub in (a.g, *a.graphs):
            for inner in sub.node:
                _reread(inner, names)
