"""Gathers. Gradients are added by ScatterElements: the runtime adds ScatterND's from several threads at once."""

from __future__ import annotations

from collections.abc import Iterable

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


@gradient("TopK")
def top_k(op: Op, g: str) -> Gradients:
    """Each value's gradient goes to where it stood."""
    t = op.tape
    zeros = t.expand_like(t.scalar(0.0, g), op.x)
    place = op.output(1)
    out = t.op("ScatterElements", zeros, place, g, axis=op.attribute("axis", -1), like=op.x)
    return out, None


@gradient("Compress")
def compress(op: Op, g: str) -> Gradients:
    """The slices that were kept, between zeros."""
    t = op.tape
    axis = op.attribute("axis")
    kept = t.op("Squeeze", t.op("NonZero", op.inputs[1]), t.ints(0))
    if axis is None:
        zeros = t.op("Expand", t.scalar(0.0, g), t.op("ReduceProd", t.shape_of(op.x), keepdims=1))
        out = t.op("ScatterElements", zeros, kept, g, axis=0)
    else:
        axis %= op.rank()
        wide = t.op("Reshape", kept, t.ints(*(-1 if i == axis else 1 for i in range(op.rank()))))
        index = t.op("Expand", wide, t.op("Shape", g))
        out = t.op("ScatterElements", t.expand_like(t.scalar(0.0, g), op.x), index, g, axis=axis)
    t.types[out] = t.types[g]
    return t.reshape_like(out, op.x), None


@gradient("GatherND")
def gather_nd(op: Op, g: str) -> Gradients:
    """Index tuples become numbers of rows; each row's gradients are added as in Gather's rule."""
    t = op.tape
    index = op.inputs[1]
    b = op.attribute("batch_dims", 0)
    k = (t.shapes.get(index) or (None,))[-1]
    if not isinstance(k, int):
        raise op.error("the length of its index tuples is not known; expected a number")
    rank = op.rank()
    dims = [t.dim(op.x, i) for i in range(b, b + k)]
    # The stride of each part of a tuple, and the number of rows of one batch entry.
    strides = [t.ints(1)]
    for d in dims[::-1]:
        strides.append(_times(op, strides[-1], d))
    rows, strides = strides[-1], strides[-2::-1]
    size = t.concat_dims(dims)
    negative = t.op("Less", index, t.constant(np.int64(0), "int"))
    from_end = t.op("Add", index, size)
    place = t.op("Where", negative, from_end, index)
    place = t.op("ReduceSum", t.op("Mul", place, t.concat_dims(strides)), t.ints(-1), keepdims=0)
    if b:
        batch = _product(op, range(b))
        zero, one = (t.constant(np.int64(i), "int") for i in (0, 1))
        number = t.op("Range", zero, t.op("Squeeze", batch, t.ints(0)), one)
        start = t.op("Reshape", t.op("Mul", number, rows), t.ints(-1, 1))
        place = t.op("Add", t.op("Reshape", place, t.op("Concat", batch, t.ints(-1), axis=0)), start)
        rows = _times(op, rows, batch)
    width = _product(op, range(b + k, rank))
    flat = t.op("Reshape", g, t.op("Concat", t.ints(-1), width, axis=0))
    wide = t.op("Expand", t.op("Reshape", place, t.ints(-1, 1)), t.op("Shape", flat))
    zeros = t.op("Expand", t.scalar(0.0, g), t.op("Concat", rows, width, axis=0))
    added = t.op("ScatterElements", zeros, wide, flat, axis=0, reduction="add")
    t.types[added] = t.types[g]
    return t.reshape_like(added, op.x), None


def _times(op: Op, a: str, b: str) -> str:
    """The product of two sizes, int64 vectors of one."""
    t = op.tape
    if a in t.constants and b in t.constants:
        return t.ints(int(t.constants[a][0] * t.constants[b][0]))
    out = t.op("Mul", a, b)
    t.types[out], t.shapes[out] = T.INT64, (1,)
    return out


def _product(op: Op, axes: Iterable[int]) -> str:
    """How many elements these axes of the first input have, an int64 vector of one."""
    out = op.tape.ints(1)
    for a in axes:
        out = _times(op, out, op.tape.dim(op.x, a))
    return out


@gradient("ScatterElements")
def scatter_elements(op: Op, g: str) -> Gradients:
    """Elements that were replaced get nothing; what replaced or joined them gets theirs."""
    t = op.tape
    reduction, axis = op.attribute("reduction", "none"), op.attribute("axis", 0)
    if reduction not in ("none", "add"):
        raise op.error(f"reduction {reduction!r} has no gradient here; expected 'none' or 'add'")
    index, updates = op.inputs[1:]
    dx = g
    if reduction == "none" and op.needs[0]:
        dx = t.op("ScatterElements", g, index, t.expand_like(t.scalar(0.0, g), updates), axis=axis, like=op.x)
    du = t.op("GatherElements", g, index, axis=axis, like=updates) if op.needs[2] else None
    return dx, None, du


@gradient("ScatterND")
def scatter_nd(op: Op, g: str) -> Gradients:
    t = op.tape
    reduction = op.attribute("reduction", "none")
    if reduction != "none":
        raise op.error(
            f"reduction {reduction!r} has no gradient here, and the runtime adds from several threads at once; "
            "expected 'none', or ScatterElements"
        )
    index, updates = op.inputs[1:]
    dx = (
        t.op("ScatterND", g, index, t.expand_like(t.scalar(0.0, g), updates), like=op.x)
        if op.needs[0]
        else None
    )
    du = t.op("GatherND", g, index, like=updates) if op.needs[2] else None
    return dx, None, du


@gradient("OneHot")
def one_hot(op: Op, g: str) -> Gradients:
    raise op.error("its values depend on a parameter; expected constants")
