"""Operators that move elements and change none."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto as T

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


def _rest(op: Op) -> tuple[None, ...]:
    return tuple(None for _ in op.inputs[1:])


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshaped(op: Op, g: str) -> Gradients:
    return (op.tape.reshape_like(g, op.x), *_rest(op))


@gradient("Transpose")
def transpose(op: Op, g: str) -> Gradients:
    perm = op.attribute("perm") or list(range(op.rank()))[::-1]
    return (op.tape.transpose(g, [int(i) for i in np.argsort(perm)]),)


@gradient("Expand")
def expand(op: Op, g: str) -> Gradients:
    return op.tape.sum_to(g, op.x), None


@gradient("Concat")
def concat(op: Op, g: str) -> Gradients:
    t = op.tape
    axis = op.attribute("axis") % op.rank()
    sizes = [t.dim(i, axis) for i in op.inputs]
    parts = t.ops("Split", [g, t.concat_dims(sizes)], [None] * len(op.inputs), axis=axis)
    for part, i in zip(parts, op.inputs, strict=True):
        if i in t.shapes:
            t.shapes[part] = t.shapes[i]
    return [p if need else None for p, need in zip(parts, op.needs, strict=True)]


@gradient("Split", all_outputs=True)
def split(op: Op, _: str) -> Gradients:
    t = op.tape
    axis = op.attribute("axis", 0) % op.rank()
    parts = [
        g if g is not None else t.expand_like(t.scalar(0.0, y), y)
        for g, y in zip(op.grads, op.proto.output, strict=True)
    ]
    return (t.op("Concat", *parts, axis=axis, like=op.x), *_rest(op))


@gradient("Slice")
def slice_(op: Op, g: str) -> Gradients:
    """Zeros around the part; axis by axis where the step is not 1, or sizes or bounds are not known."""
    t = op.tape
    rank = op.rank()
    if all(op.input(i) in ("", *t.constants) for i in (1, 2, 3, 4)):
        starts, ends = (np.atleast_1d(op.constant(i)) for i in (1, 2))
        axes = _axes(op, 3, len(starts))
        steps = np.atleast_1d(op.constant(4)) if op.input(4) else np.ones(len(starts), np.int64)
        if all(s == 1 for s in steps) and all(isinstance(t.shapes[op.x][a], int) for a in axes):
            low, high = [0] * rank, [0] * rank
            for a, start, end in zip(axes, starts, ends, strict=True):
                n = int(t.shapes[op.x][a] or 0)
                begin, stop, _ = slice(int(start), int(end)).indices(n)
                low[a], high[a] = begin, n - max(stop, begin)
            return (t.op("Pad", g, t.ints(*low, *high), t.scalar(0.0, g), like=op.x), *_rest(op))
    count = t.shapes.get(op.input(1), (rank,))[0]
    axes = _axes(op, 3, count if isinstance(count, int) else rank)
    for i, axis in enumerate(axes):
        bounds = [_entry(op, j, i) for j in (1, 2)]
        step = _entry(op, 4, i) if op.input(4) else t.ints(1)
        taken = t.op("Slice", _positions(op, axis), *bounds, t.ints(0), step)
        g = _put(op, g, taken, axis)
    return (t.reshape_like(g, op.x), *_rest(op))


def _axes(op: Op, i: int, count: int) -> list[int]:
    """Axes from 0 on; the first ``count`` where input i is left out."""
    if not op.input(i):
        return list(range(count))
    return [int(a) % op.rank() for a in np.atleast_1d(op.constant(i))]


def _entry(op: Op, j: int, i: int) -> str:
    """Entry i of input j, an int64 vector of one."""
    t = op.tape
    if op.input(j) in t.constants:
        return t.ints(int(np.atleast_1d(op.constant(j))[i]))
    return t.cast(t.op("Gather", op.input(j), t.ints(i), axis=0), T.INT64)


def _positions(op: Op, axis: int) -> str:
    """0, 1, … along an axis of the first input."""
    t = op.tape
    length = t.op("Squeeze", t.dim(op.x, axis), t.ints(0))
    return t.op("Range", t.constant(np.int64(0), "int"), length, t.constant(np.int64(1), "int"))


def _put(op: Op, g: str, taken: str, axis: int) -> str:
    """Each slice of g along an axis added to the slice of zeros that it was taken from."""
    t = op.tape
    rank = op.rank()
    shape = t.op("Shape", g)
    t.types[shape] = T.INT64
    wide = t.op("Reshape", taken, t.ints(*(-1 if i == axis else 1 for i in range(rank))))
    index = t.op("Expand", wide, shape)
    around = [t.op("Slice", shape, t.ints(i), t.ints(j)) for i, j in ((0, axis), (axis + 1, rank))]
    whole = t.op("Concat", around[0], t.dim(op.x, axis), around[1], axis=0)
    zeros = t.op("Expand", t.scalar(0.0, g), whole)
    out = t.op("ScatterElements", zeros, index, g, axis=axis, reduction="add")
    t.types[out] = t.types[g]
    return out


@gradient("Pad")
def pad(op: Op, g: str) -> Gradients:
    """Constant: pads of the other sign. Else each element's gradient goes back to where it was copied from."""
    t = op.tape
    mode = op.attribute("mode", "constant")
    if mode == "constant":
        back = t.ints(*(-int(p) for p in op.constant(1)))
        over = [op.input(3)] if op.input(3) else []
        dx = t.op("Pad", g, back, t.scalar(0.0, g), *over, like=op.x)
        dv = None
        if op.input(2) and op.needs[2]:
            if any(int(p) < 0 for p in op.constant(1)):
                raise op.error("the value that pads depends on a parameter; expected no negative pads then")
            total = [t.reduce("ReduceSum", v, None, keep=False) for v in (g, dx)]
            dv = t.reshape_like(t.sub(*total), op.input(2))
        return (dx if op.needs[0] else None, None, dv, None)[: len(op.inputs)]
    pads = [int(p) for p in op.constant(1)]
    axes = _axes(op, 3, op.rank())
    for i, axis in enumerate(axes):
        both = (pads[i], pads[i + len(axes)])
        if any(both):
            taken = t.op("Pad", _positions(op, axis), t.ints(*both), mode=mode)
            g = _put(op, g, taken, axis)
    return (t.reshape_like(g, op.x), *_rest(op))


@gradient("Tile")
def tile(op: Op, g: str) -> Gradients:
    """Each copy's gradient, summed."""
    t = op.tape
    repeats = [int(r) for r in op.constant(1)]
    dims: list[int | str] = []
    for axis, r in enumerate(repeats):
        d = t.shapes[op.x][axis]
        dims += [r, d if isinstance(d, int) else t.dim(op.x, axis)]
    split = t.reshape(g, dims)
    total = t.reduce("ReduceSum", split, list(range(0, 2 * len(repeats), 2)), keep=False)
    return t.reshape_like(total, op.x), None


@gradient("DepthToSpace")
def depth_to_space(op: Op, g: str) -> Gradients:
    t = op.tape
    size = op.attribute("blocksize")
    if op.attribute("mode", "DCR") == "DCR":
        return (t.op("SpaceToDepth", g, blocksize=size, like=op.x),)
    n, c, h, w = (d if isinstance(d, int) else t.dim(op.x, i) for i, d in enumerate(t.shapes[op.x]))
    if not isinstance(c, int):
        raise op.error("its channels are not known; expected a number")
    apart = t.reshape(g, (n, c // size**2, h, size, w, size))
    return (t.reshape_like(t.transpose(apart, (0, 1, 3, 5, 2, 4)), op.x),)


@gradient("SpaceToDepth")
def space_to_depth(op: Op, g: str) -> Gradients:
    return (op.tape.op("DepthToSpace", g, blocksize=op.attribute("blocksize"), like=op.x),)


@gradient("Trilu")
def trilu(op: Op, g: str) -> Gradients:
    return (op.tape.op("Trilu", g, *op.inputs[1:], upper=op.attribute("upper", 1), like=op.x), *_rest(op))


@gradient("ReverseSequence")
def reverse_sequence(op: Op, g: str) -> Gradients:
    axes = {k: op.attribute(k, d) for k, d in (("batch_axis", 1), ("time_axis", 0))}
    return op.tape.op("ReverseSequence", g, op.inputs[1], like=op.x, **axes), None


@gradient("Range")
def range_(op: Op, g: str) -> Gradients:
    """start + i·delta; the end only counts."""
    t = op.tape
    places = t.op("CumSum", t.expand_like(t.scalar(1.0, g), g), t.ints(0), exclusive=1, like=g)
    return (
        t.reduce("ReduceSum", g, None, keep=False),
        t.scalar(0.0, g),
        t.reduce("ReduceSum", t.mul(g, places), None, keep=False),
    )
