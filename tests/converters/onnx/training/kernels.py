"""CUDA kernels of ONNX Runtime by its own table, and what a graph has that none of them runs.

A node is the provider's where a kernel is for its operator's version and its types. A kernel written ``n+`` is
for version n alone: the runtime takes an open end for "not known of later versions". The table is
``tests/data/onnx/cuda_kernels.json``, whose source it names.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any

import onnx
from onnx import TensorProto as T
from onnx import helper, inliner, shape_inference

from ..making import DATA

WORDS = {T.FLOAT: "float", T.DOUBLE: "double", T.FLOAT16: "float16", T.BFLOAT16: "bfloat16", T.BOOL: "bool"}
COUNTS = {"int64", "int32", "bool"}


@lru_cache(maxsize=1)
def table() -> dict[str, list[dict[str, Any]]]:
    held = json.loads((DATA / "onnx" / "cuda_kernels.json").read_text("utf-8"))
    out: dict[str, list[dict[str, Any]]] = {}
    for row in held["kernels"]:
        out.setdefault(row["op"], []).append(row)
    return out


def matches(versions: str, since: int) -> bool:
    numbers = [int(n) for n in re.findall(r"\d+", versions)]
    return numbers[0] <= since <= numbers[-1]


def word(kind: int) -> str:
    return WORDS.get(kind) or helper.tensor_dtype_to_np_dtype(kind).name


def missing(model: onnx.ModelProto) -> list[str]:
    """One line for each node that no kernel runs, shape arithmetic aside; functions are inlined."""
    flat = inliner.inline_local_functions(model)
    flat = shape_inference.infer_shapes(flat, strict_mode=True, data_prop=True)
    opset = next(o.version for o in flat.opset_import if not o.domain)
    types, shapes = _values(flat)
    lines = [_of(n, opset, types, shapes) for n in flat.graph.node]
    return sorted({line for line in lines if line})


def _values(model: onnx.ModelProto) -> tuple[dict[str, str], dict[str, list[int] | None]]:
    types, shapes = {}, {}
    for t in model.graph.initializer:
        types[t.name], shapes[t.name] = word(t.data_type), list(t.dims)
    for v in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = v.type.tensor_type
        types[v.name] = word(kind.elem_type)
        known = kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
        shapes[v.name] = [d.dim_value for d in kind.shape.dim] if known else None
    return types, shapes


def _of(node: onnx.NodeProto, opset: int, types: dict[str, str], shapes: dict[str, list[int] | None]) -> str:
    if node.op_type == "Constant" or _is_shape_arithmetic(node, types, shapes):
        return ""
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    rows = [r for r in table().get(node.op_type, []) if matches(r["versions"], schema.since_version)]
    has: dict[str, str] = {}
    for formals, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for i, name in enumerate(names):
            if name:
                # As the runtime does: the first argument of a constraint tells its type.
                has.setdefault(formals[min(i, len(formals) - 1)].type_str, types[name])
    if any(all(kind in r["types"].get(c, [kind]) for c, kind in has.items()) for r in rows):
        return ""
    told = ", ".join(f"{c}={k}" for c, k in sorted(has.items()))
    return f"{node.op_type}-{schema.since_version}({told})"


def _is_shape_arithmetic(
    node: onnx.NodeProto, types: dict[str, str], shapes: dict[str, list[int] | None]
) -> bool:
    """Outputs of a few whole numbers, of known size."""
    for name in node.output:
        shape = shapes.get(name)
        if not name or types[name] not in COUNTS or shape is None or len(shape) > 1 or math.prod(shape) > 64:
            return False
    return True
