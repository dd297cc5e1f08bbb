"""Operators that move elements and change none."""

from __future__ import annotations

import numpy as np

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
    """Zeros around, and between where a step is greater than 1."""
    t = op.tape
    starts, ends = (np.atleast_1d(op.constant(i)) for i in (1, 2))
    rank = op.rank()
    axes = [int(a) % rank for a in (np.atleast_1d(op.constant(3)) if op.input(3) else range(len(starts)))]
    steps = np.atleast_1d(op.constant(4)) if op.input(4) else np.ones(len(starts), np.int64)
    if all(s == 1 for s in steps) and all(isinstance(op.tape.shapes[op.x][a], int) for a in axes):
        low, high = [0] * rank, [0] * rank
        for a, start, end in zip(axes, starts, ends, strict=True):
            n = int(t.shapes[op.x][a] or 0)
            begin, stop, _ = slice(int(start), int(end)).indices(n)
            low[a], high[a] = begin, n - max(stop, begin)
        out = t.op("Pad", g, t.ints(*low, *high), t.scalar(0.0, g), like=op.x)
        return (out, *_rest(op))
    # Any step, any size: where each element came from, found by slicing the positions themselves.
    if len(axes) != 1:
        raise op.error("expected steps of 1 and known sizes, or one axis; slice one axis at a time")
    length = t.op("Squeeze", t.dim(op.x, axes[0]), t.ints(0))
    positions = t.op("Range", t.constant(np.int64(0), "int"), length, t.constant(np.int64(1), "int"))
    taken = t.op(
        "Slice", positions, t.ints(int(starts[0])), t.ints(int(ends[0])), t.ints(0), t.ints(int(steps[0]))
    )
    wide = t.op("Reshape", taken, t.ints(*(-1 if i == axes[0] else 1 for i in range(rank))))
    index = t.op("Expand", wide, t.shape_of(op.y))
    zeros = t.expand_like(t.scalar(0.0, g), op.x)
    return (t.op("ScatterElements", zeros, index, g, axis=axes[0], like=op.x), *_rest(op))


@gradient("Pad")
def pad(op: Op, g: str) -> Gradients:
    if op.attribute("mode", "constant") != "constant":
        raise op.error(f"mode {op.attribute('mode')!r} has no gradient here; expected 'constant'")
    t = op.tape
    pads = [int(p) for p in op.constant(1)]
    rank = op.rank()
    axes = [int(a) % rank for a in op.constant(3)] if op.input(3) else list(range(rank))
    k = len(axes)
    starts: list[int] = []
    ends: list[int] = []
    for i in range(k):
        starts.append(pads[i])
        ends.append(-pads[k + i] if pads[k + i] else np.iinfo(np.int64).max)
    if any(p < 0 for p in pads):
        raise op.error("negative pads have no gradient here; slice instead")
    out = t.op("Slice", g, t.ints(*starts), t.ints(*ends), t.ints(*axes), like=op.x)
    return (out, *_rest(op))


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
    if op.attribute("mode", "DCR") == "DCR":
        return (op.tape.op("SpaceToDepth", g, blocksize=op.attribute("blocksize"), like=op.x),)
    raise op.error("mode 'CRD' has no gradient here; expected 'DCR'")


@gradient("SpaceToDepth")
def space_to_depth(op: Op, g: str) -> Gradients:
    return (op.tape.op("DepthToSpace", g, blocksize=op.attribute("blocksize"), like=op.x),)
