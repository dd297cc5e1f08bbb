"""Convolutions, in any number of spatial dimensions.

The input's gradient is a transposed convolution. The weight's has a file of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..backward import Gradients, Op, gradient
from .convolution_weight import weight_gradient
from .windows import Window, spatial, window

__all__: list[str] = []


@gradient("Conv")
def conv(op: Op, g: str) -> Gradients:
    t = op.tape
    x, w = op.input(0), op.input(1)
    shape = t.static(w)
    if shape is None:
        raise op.error("its weight has an unknown shape; expected known sizes")
    win = window(op, shape[2:], x, op.y)
    dx = _input_gradient(op, g, w, x, op.y, win) if op.needs[0] else None
    dw = weight_gradient(op, x, g, w, win) if op.needs[1] else None
    db = _bias(op, g) if len(op.inputs) > 2 and op.needs[2] else None
    return (dx, dw, db)[: len(op.inputs)]


@gradient("ConvTranspose")
def conv_transpose(op: Op, g: str) -> Gradients:
    """The transposed convolution is a convolution's input gradient, so its own gradients are that convolution's."""
    t = op.tape
    x, w = op.input(0), op.input(1)
    shape = t.static(w)
    if shape is None:
        raise op.error("its weight has an unknown shape; expected known sizes")
    win = _cropping(op, window(op, shape[2:], op.y, x), x)
    attributes: dict[str, Any] = {
        "kernel_shape": win.kernel, "strides": win.strides, "dilations": win.dilations,
        "pads": (*win.begin, *win.end), "group": win.group,
    }  # fmt: skip
    dx = t.op("Conv", g, w, like=x, **attributes) if op.needs[0] else None
    dw = weight_gradient(op, g, x, w, win) if op.needs[1] else None
    db = _bias(op, g) if len(op.inputs) > 2 and op.needs[2] else None
    return (dx, dw, db)[: len(op.inputs)]


def _cropping(op: Op, win: Window, x: str) -> Window:
    """The pads of a transposed convolution that follow from the size of its output."""
    auto = op.attribute("auto_pad", "NOTSET")
    if not auto.startswith("SAME") and not op.attribute("output_shape"):
        return win
    more = op.attribute("output_padding") or (0,) * len(win.kernel)
    total = [
        max(s * (n - 1) + p + (k - 1) * d + 1 - out, 0)
        for s, n, p, k, d, out in zip(
            win.strides, spatial(op, x), more, win.kernel, win.dilations, spatial(op, op.y), strict=True
        )
    ]
    small, big = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    begin, end = (small, big) if auto == "SAME_UPPER" else (big, small)
    return replace(win, begin=begin, end=end)


def _bias(op: Op, g: str) -> str:
    axes = [0, *range(2, len(op.tape.shapes[op.x]))]
    return op.tape.reshape_like(op.tape.reduce("ReduceSum", g, axes), op.inputs[2])


def _input_gradient(op: Op, g: str, w: str, x: str, y: str, win: Window) -> str:
    left = win.leftover(spatial(op, x), spatial(op, y))
    end = [max(e - r, 0) for e, r in zip(win.end, left, strict=True)]
    more = [max(r - e, 0) for e, r in zip(win.end, left, strict=True)]
    return op.tape.op(
        "ConvTranspose",
        g,
        w,
        like=x,
        kernel_shape=win.kernel,
        strides=win.strides,
        dilations=win.dilations,
        pads=[*win.begin, *end],
        output_padding=more if any(more) else None,
        group=win.group,
    )
