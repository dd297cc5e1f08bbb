"""Pooling."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto as T

from ..backward import Gradients, Op, gradient
from .windows import Window, spatial, window

__all__: list[str] = []


@gradient("MaxPool")
def max_pool(op: Op, g: str) -> Gradients:
    """Every window's gradient is added where the node found its maximum."""
    t = op.tape
    if op.attribute("storage_order", 0):
        raise op.error("storage_order 1 has no gradient here; expected 0")
    index = op.output(1)
    t.types[index], t.shapes[index] = T.INT64, t.shapes[op.y]
    flat = t.op("Reshape", g, t.ints(-1))
    places = t.op("Reshape", index, t.ints(-1))
    static = t.static(op.x)
    if static is not None:
        zeros = t.constant(np.zeros(math.prod(static), t.dtype(g)), "zeros")
    else:
        size = t.op("ReduceProd", t.shape_of(op.x), keepdims=1)
        zeros = t.op("Expand", t.scalar(0.0, g), size)
    added = t.op("ScatterElements", zeros, places, flat, axis=0, reduction="add")
    t.types[added], t.shapes[added] = t.types.get(g, T.FLOAT), (None,)
    return (t.reshape_like(added, op.x),)


@gradient("AveragePool")
def average_pool(op: Op, g: str) -> Gradients:
    """A depthwise transposed convolution with a constant kernel, each output divided by its count."""
    t = op.tape
    kernel = tuple(op.attribute("kernel_shape"))
    win = window(op, kernel, op.x, op.y)
    channels = t.shapes[op.x][1]
    if not isinstance(channels, int):
        raise op.error("its channels are not known; expected a number")
    sizes, out = spatial(op, op.x), spatial(op, op.y)
    share = t.mul(
        g,
        t.constant(
            _shares(sizes, out, win, bool(op.attribute("count_include_pad", 0))).astype(t.dtype(g)), "shares"
        ),
    )
    ones = t.constant(np.ones((channels, 1, *kernel), t.dtype(g)), "ones")
    left = win.leftover(sizes, out)
    end = [e - r for e, r in zip(win.end, left, strict=True)]
    # A window of ceil_mode that reaches past the padding is cut off, as if there were more of it.
    more = [max(-e, 0) for e in end]
    dx = t.op(
        "ConvTranspose",
        share,
        ones,
        like=op.x,
        kernel_shape=kernel,
        strides=win.strides,
        dilations=win.dilations,
        pads=[*win.begin, *(max(e, 0) for e in end)],
        output_padding=more if any(more) else None,
        group=channels,
    )
    return (dx,)


def _shares(sizes: tuple[int, ...], out: tuple[int, ...], win: Window, padded: bool) -> np.ndarray:
    """1/count of each window, [1, 1, out…]."""
    total = np.ones(())
    for n, o, k, s, d, b, e in zip(
        sizes,
        out,
        win.kernel,
        win.strides,
        win.dilations,
        win.begin,
        win.end,
        strict=True,
    ):
        places = np.arange(o)[:, None] * s + np.arange(k) * d - b
        inside = (places >= 0) & (places < n) if not padded else places < n + e
        total = np.multiply.outer(total, inside.sum(1))
    shares: np.ndarray = (1.0 / total)[None, None]
    return shares


@gradient("GlobalAveragePool")
def global_average_pool(op: Op, g: str) -> Gradients:
    t = op.tape
    sizes = t.shapes[op.x][2:] if op.shape() else ()
    if sizes and all(isinstance(n, int) for n in sizes):
        count: str | float = float(math.prod(int(n or 0) for n in sizes))
    else:
        n = t.op("ReduceProd", t.op("Slice", t.shape_of(op.x), t.ints(2), t.ints(op.rank())), keepdims=0)
        t.types[n], t.shapes[n] = T.INT64, ()
        count = t.cast(n, t.types[op.x])
    return (t.expand_like(t.div(g, count), op.x),)


@gradient("GlobalMaxPool")
def global_max_pool(op: Op, g: str) -> Gradients:
    t = op.tape
    axes = list(range(2, op.rank()))
    hit = t.cast(t.compare("Equal", op.x, op.y), t.types[op.x])
    t.shapes[hit] = t.shapes[op.x]
    return (t.mul(t.div(hit, t.reduce("ReduceSum", hit, axes)), g),)
