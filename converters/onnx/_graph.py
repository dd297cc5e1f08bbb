"""Reads an update graph: what its inputs are, where parameters lie, which outputs are only views."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from optexport.errors import CheckpointError

__all__ = [
    "GIVEN",
    "View",
    "check_graph",
    "find_tensors",
    "flat_shapes",
    "free_rows",
    "numpy_type",
    "read_model",
    "shape_of",
    "training_facts",
    "without_output_views",
]


# The tensors of an update that each step is given, beside the state.
GIVEN = ("grad", "noise", "hessian")


@dataclass(frozen=True)
class View:
    """Where a named tensor lies: ``buffer`` from element ``offset`` on, with ``shape``."""

    buffer: str
    offset: int
    shape: tuple[int, ...]


def read_model(model: onnx.ModelProto | str | os.PathLike[str]) -> tuple[onnx.ModelProto, str]:
    if isinstance(model, onnx.ModelProto):
        return model, "model"
    path = os.fspath(model)
    try:
        return onnx.load(path), path
    except OSError as e:
        raise CheckpointError(f"{path}: expected an ONNX file, found {e.strerror or e}") from None
    except Exception:
        raise CheckpointError(f"{path}: expected an ONNX file, found something else") from None


def check_graph(proto: onnx.ModelProto, meta: Mapping[str, str], where: str) -> None:
    names = {i.name for i in proto.graph.input}
    if "step" not in names or "optexport.spec" not in meta:
        raise CheckpointError(
            f"{where}: expected an update graph that optexport emitted, found another graph"
        )


def training_facts(meta: Mapping[str, str], where: str) -> dict[str, Any]:
    """What a training graph says of itself: its data, label, loss, params and buffers."""
    if "optexport.training" not in meta:
        raise CheckpointError(f"{where}: expected a training graph that optexport made, found another graph")
    facts: dict[str, Any] = json.loads(meta["optexport.training"])
    return facts


def shape_of(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in info.type.tensor_type.shape.dim)


def numpy_type(info: onnx.ValueInfoProto) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)


def find_tensors(
    proto: onnx.ModelProto, meta: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[tuple[str, str], View]]:
    """Graph inputs by kind, and where each (parameter, ``param`` | ``grad`` | slot) lies."""
    shapes = {i.name: shape_of(i) for i in proto.graph.input}
    state = [o.name[: -len(".new")] for o in proto.graph.output if o.name != "step.new"]
    views: dict[tuple[str, str], View] = {}
    flat = json.loads(meta["optexport.flat"])["buffers"] if "optexport.flat" in meta else None
    if flat is not None:
        for buffer in flat:
            for s in buffer["segments"]:
                for key in ("param", *buffer.get("given", ["grad"]), *buffer["slots"]):
                    name = buffer["name"] if key == "param" else f"{buffer['name']}.{key}"
                    views[s["name"], key] = View(name, s["offset"], tuple(s["shape"]))
    held = {v.buffer for v in views.values()}
    params = {n: None for n in state if f"{n}.grad" in shapes and n not in held}
    for name in params:
        views[name, "param"] = View(name, 0, shapes[name])
        for key in GIVEN:
            if f"{name}.{key}" in shapes:
                views[name, key] = View(f"{name}.{key}", 0, shapes[name])
    for name in state:
        if name not in params and name not in held:
            owner, _, slot = name.rpartition(".")
            views[owner, slot] = View(name, 0, shapes[name])
    grads = list(dict.fromkeys(v.buffer for (_, key), v in views.items() if key in GIVEN))
    scalars = [n for n in shapes if n not in state and n not in grads and n != "step"]
    return {"state": state, "grads": grads, "scalars": scalars}, views


def without_output_views(
    proto: onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, tuple[str, tuple[int, ...]]]]:
    """The graph with outputs taken before a final Reshape, and their names and shapes there.

    The runtime copies a tensor that it reshapes into an output. The session owns the memory and can
    look at it under any shape, so it takes the result of a Scan as it is: rows of a parameter.
    """
    initial = {i.name: i for i in proto.graph.initializer}
    reshapes = {n.output[0]: n for n in proto.graph.node if n.op_type == "Reshape" and not n.domain}
    scans = {o: n for n in proto.graph.node if n.op_type == "Scan" for o in n.output}
    found = {}
    for out in proto.graph.output:
        node = reshapes.get(out.name)
        if node is None or node.input[0] not in scans:
            continue
        # The rows' shape is that of the Reshape before the Scan.
        before = reshapes[scans[node.input[0]].input[0]]
        rows = onnx.numpy_helper.to_array(initial[before.input[1]])
        found[out.name] = (node.input[0], tuple(int(n) for n in rows))
    if not found:
        return proto, {}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    kept = [n for n in copy.graph.node if not (n.output and n.output[0] in found)]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    for out in copy.graph.output:
        if out.name in found:
            name, shape = found[out.name]
            kind = out.type.tensor_type.elem_type
            out.CopyFrom(onnx.helper.make_tensor_value_info(name, kind, list(shape)))
    return copy, found


def flat_shapes(meta: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a flat buffer, from the table: the graph leaves the number of rows free."""
    out: dict[str, tuple[int, ...]] = {}
    for buffer in json.loads(meta["optexport.flat"])["buffers"] if "optexport.flat" in meta else ():
        for suffix in ("", *(f".{s}" for s in (*buffer.get("given", ["grad"]), *buffer["slots"]))):
            out[buffer["name"] + suffix] = tuple(buffer["shape"])
    return out


def free_rows(proto: onnx.ModelProto) -> dict[str, int]:
    """Tensor -> index of its flat buffer, where every buffer's rows may be updated apart; else empty."""
    flat = any(p.key == "optexport.flat" for p in proto.metadata_props)
    # Without buffers, or with state outside of them, there are no rows to share out.
    state = {o.name.removesuffix(".new") for o in proto.graph.output} - {"step"}
    tensors = (
        [i for i in proto.graph.input if i.type.tensor_type.shape.dim or i.name in state] if flat else []
    )
    lanes: dict[str, int] = {}
    found: dict[str, int] = {}
    for info in tensors:
        dims = info.type.tensor_type.shape.dim
        rows = dims[0].dim_param if dims else ""
        if not rows:
            return {}
        lanes[info.name] = found.setdefault(rows, len(found))
    return lanes
