"""Gathers. Gradients are added by ScatterElements: the runtime adds ScatterND's from several threads at once."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto as T

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


@gradient("Gather")
def gather(op: Op, g: str) -> Gradients:
    """Each index's gradient is added to its row: axis first, indexes flat, one row of gradients each."""
    t = op.tape
    table, index = op.inputs
    rank = op.rank()
    axis = op.attribute("axis", 0) % rank
    k = t.rank(index)
    if k is None:
        raise op.error("its indexes have an unknown rank; export with fixed ranks")
    order = [*range(axis, axis + k), *range(axis), *range(axis + k, rank + k - 1)]
    front = g if order == sorted(order) else t.transpose(g, order)
    others = [a for a in range(rank) if a != axis]
    width = _size(op, others)
    rows = t.reshape(front, (-1, width) if isinstance(width, int) else (t.ints(-1), width))
    flat = t.op("Reshape", index, t.ints(-1, 1))
    wide = t.op("Expand", flat, t.shape_of(rows))
    height = _dim(op, axis)
    shape = t.ints(height, width) if isinstance(height, int) and isinstance(width, int) else t.concat_dims(
        [t.ints(d) if isinstance(d, int) else d for d in (height, width)]
    )  # fmt: skip
    zeros = t.op("Expand", t.scalar(0.0, g), shape)
    t.types[zeros] = t.types.get(g, T.FLOAT)
    added = t.op("ScatterElements", zeros, wide, rows, axis=0, reduction="add")
    if axis == 0:
        return t.reshape_like(added, table), None
    dims = [_dim(op, axis), *(_dim(op, a) for a in others)]
    back = t.reshape(added, dims)
    inverse = [int(i) for i in np.argsort([axis, *others])]
    out = t.transpose(back, inverse)
    t.shapes[out] = t.shapes[table]
    return out, None


def _dim(op: Op, axis: int) -> int | str:
    d = op.tape.shapes[op.x][axis]
    return d if isinstance(d, int) else op.tape.dim(op.x, axis)


def _size(op: Op, axes: list[int]) -> int | str:
    """How many elements a row has, as a number or an int64 vector of one."""
    t = op.tape
    dims = [t.shapes[op.x][a] for a in axes]
    if all(isinstance(d, int) for d in dims):
        return int(np.prod([int(d or 0) for d in dims], dtype=np.int64))
    picked = t.op("Gather", t.shape_of(op.x), t.ints(*axes), axis=0)
    return t.op("ReduceProd", picked, keepdims=1)


@gradient("GatherElements")
def gather_elements(op: Op, g: str) -> Gradients:
    t = op.tape
    zeros = t.expand_like(t.scalar(0.0, g), op.x)
    out = t.op(
        "ScatterElements", zeros, op.inputs[1], g, axis=op.attribute("axis", 0), reduction="add", like=op.x
    )
    return out, None
