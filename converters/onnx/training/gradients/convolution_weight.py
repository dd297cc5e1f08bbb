"""The gradient of a convolution's weight, dW[o, c, k] = Σ over batch and places of g[o, p]·x[c, s·p + d·k].

Four ways to the same sum. Which is fastest follows from the shape; the choice is from
``benchmarks/convolution_weight.py``, on one and on two threads:

- `_pointwise`: a kernel of one element is one matrix product.
- `_taps`: one product for each element of the kernel, with the part of x that this element meets. The
  best where a group has many channels, and for depthwise ones.
- `_columns`: all those parts end to end, and one product. The best where a group has few channels,
  of which a product alone would be thin.
- `_swapped`: a convolution of the input with the output's gradient, batch and channels swapped and
  strides and dilations swapped. Its kernel is as big as the image, which runtimes are not made for; but it
  has no copies of x, so large kernels take it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from ..backward import Op
from .windows import Window, spatial

__all__ = ["weight_gradient"]

_TAPS = 25  # elements of a kernel; more are too many copies of x
_COLUMNS = 9
_CHANNELS = 8  # of a group; fewer make thin products


def weight_gradient(op: Op, x: str, g: str, w: str, win: Window) -> str:
    """Of a convolution from x to g's place, with the weight ``w`` (of a known shape)."""
    size = math.prod(win.kernel)
    if size == 1 and win.group == 1 and set(win.strides) == {1} and not any((*win.begin, *win.end)):
        return _pointwise(op, x, g, w)
    channels = _channels(op, w)[1]
    depthwise = channels == 1 and win.group > 1
    if size <= _TAPS and (channels >= _CHANNELS or depthwise or size == 1):
        return _taps(op, x, g, w, win)
    if size <= _COLUMNS:
        return _columns(op, x, g, w, win)
    return _swapped(op, x, g, w, win)


def _channels(op: Op, w: str) -> tuple[int, int]:
    """(channels of g, channels of x in a group)."""
    shape = op.tape.static(w)
    assert shape is not None
    return shape[0], shape[1]


def _pointwise(op: Op, x: str, g: str, w: str) -> str:
    t = op.tape
    flat = [
        t.op("Flatten", t.op("Transpose", v, perm=[1, 0, *range(2, len(t.shapes[x]))]), axis=1)
        for v in (g, x)
    ]
    return t.reshape_like(t.op("Gemm", *flat, transB=1), w)


def _parts(op: Op, x: str, g: str, win: Window) -> Iterator[str]:
    """For each element of the kernel the part of x that it meets, [C, N, places…]."""
    t, k = op.tape, len(win.kernel)
    axes = range(2, 2 + k)
    turned = t.transpose(x, (1, 0, *axes))
    if any((*win.begin, *win.end)):
        turned = t.op("Pad", turned, t.ints(0, 0, *win.begin, 0, 0, *win.end))
    places = spatial(op, g)
    for at in itertools.product(*map(range, win.kernel)):
        starts = [i * d for i, d in zip(at, win.dilations, strict=True)]
        ends = [i + (n - 1) * s + 1 for i, n, s in zip(starts, places, win.strides, strict=True)]
        yield t.op("Slice", turned, t.ints(*starts), t.ints(*ends), t.ints(*axes), t.ints(*win.strides))


def _lines(op: Op, g: str, channels: int, group: int) -> str:
    """[channels, N·places], or [group, channels/group, N·places], of a value that is [N, channels, places…]."""
    t = op.tape
    return _line(op, t.transpose(g, (1, 0, *range(2, len(t.shapes[g])))), channels, group)


def _line(op: Op, turned: str, channels: int, group: int) -> str:
    return op.tape.reshape(turned, (channels, -1) if group == 1 else (group, channels // group, -1))


def _product(op: Op, g: str, x: str, group: int) -> str:
    """g·xᵀ, in each group."""
    t = op.tape
    return t.op("Gemm", g, x, transB=1) if group == 1 else t.op("MatMul", g, t.transpose(x, (0, 2, 1)))


def _taps(op: Op, x: str, g: str, w: str, win: Window) -> str:
    t, (out, channels) = op.tape, _channels(op, w)
    lines = _lines(op, g, out, win.group)
    products = [
        _product(op, lines, _line(op, part, channels * win.group, win.group), win.group)
        for part in _parts(op, x, g, win)
    ]
    if len(products) == 1:
        return t.reshape_like(products[0], w)
    size = math.prod(win.kernel)
    whole = t.reshape(t.op("Concat", *products, axis=0), (size, out, channels))
    return t.reshape_like(t.transpose(whole, (1, 2, 0)), w)


def _columns(op: Op, x: str, g: str, w: str, win: Window) -> str:
    t, (out, channels) = op.tape, _channels(op, w)
    parts = [_line(op, part, channels * win.group, win.group) for part in _parts(op, x, g, win)]
    columns = t.op("Concat", *parts, axis=0 if win.group == 1 else 1)
    if win.group > 1:
        t.shapes[columns] = (win.group, channels * len(parts), None)
    product = _product(op, _lines(op, g, out, win.group), columns, win.group)
    whole = t.reshape(product, (out, math.prod(win.kernel), channels))
    return t.reshape_like(t.transpose(whole, (0, 2, 1)), w)


def _swapped(op: Op, x: str, g: str, w: str, win: Window) -> str:
    t = op.tape
    rest = range(2, 2 + len(win.kernel))
    swapped = t.transpose(x, (1, 0, *rest))
    if win.group > 1:
        n = t.shapes[x][0]
        batch, channels = n if isinstance(n, int) else t.dim(x, 0), _channels(op, w)[1]
        parted = t.reshape(swapped, (win.group, channels, batch, *spatial(op, x)))
        turned = t.transpose(parted, (1, 0, 2, *(i + 1 for i in rest)))
        swapped = t.reshape(turned, (channels, -1, *spatial(op, x)))
    out = t.op(
        "Conv",
        swapped,
        t.transpose(g, (1, 0, *rest)),
        strides=win.dilations,
        dilations=win.strides,
        pads=[*win.begin, *win.end],
        group=win.group,
    )
    if any(win.leftover(spatial(op, x), spatial(op, g))):
        k = len(win.kernel)
        out = t.op("Slice", out, t.ints(*(0,) * k), t.ints(*win.kernel), t.ints(*rest))
    return t.op("Transpose", out, perm=[1, 0, *rest], like=w)
