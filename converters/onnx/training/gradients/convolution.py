"""Convolutions, in any number of spatial dimensions.

The input's gradient is a transposed convolution. The weight's is a convolution of the input with the
output's gradient, batch and channels swapped and strides and dilations swapped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..backward import Gradients, Op, gradient

__all__ = ["Window", "spatial", "weight_gradient", "window"]


@dataclass(frozen=True)
class Window:
    """How a kernel moves: one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    group: int

    def leftover(self, sizes: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
        """Elements at the end of each padded axis that the last position does not reach."""
        return tuple(
            n + b + e - ((o - 1) * s + d * (k - 1) + 1)
            for n, b, e, o, s, d, k in zip(
                sizes, self.begin, self.end, out, self.strides, self.dilations, self.kernel, strict=True
            )
        )


def spatial(op: Op, name: str) -> tuple[int, ...]:
    """Spatial sizes of a value. Raises ModelError where they are not known."""
    dims = (op.tape.shapes.get(name) or ())[2:]
    if not dims or not all(isinstance(d, int) for d in dims):
        raise op.error(
            f"{name!r}: expected known spatial sizes, found {list(dims)}; export with fixed image sizes"
        )
    return tuple(int(d or 0) for d in dims)


def window(op: Op, kernel: tuple[int, ...], x: str, y: str) -> Window:
    n = len(kernel)
    strides = tuple(op.attribute("strides") or (1,) * n)
    dilations = tuple(op.attribute("dilations") or (1,) * n)
    pads = tuple(op.attribute("pads") or (0,) * 2 * n)
    auto = op.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((o - 1) * s + d * (k - 1) + 1 - size, 0)
            for o, s, d, k, size in zip(
                spatial(op, y), strides, dilations, kernel, spatial(op, x), strict=True
            )
        ]
        small, big = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = tuple((*small, *big) if auto == "SAME_UPPER" else (*big, *small))
    return Window(kernel, strides, dilations, pads[:n], pads[n:], op.attribute("group", 1))


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
    if op.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or op.attribute("output_shape"):
        raise op.error("expected explicit pads; export without auto_pad and output_shape")
    win = window(op, shape[2:], op.y, x)
    attributes: dict[str, Any] = {
        "kernel_shape": win.kernel, "strides": win.strides, "dilations": win.dilations,
        "pads": (*win.begin, *win.end), "group": win.group,
    }  # fmt: skip
    dx = t.op("Conv", g, w, like=x, **attributes) if op.needs[0] else None
    dw = weight_gradient(op, g, x, w, win) if op.needs[1] else None
    db = _bias(op, g) if len(op.inputs) > 2 and op.needs[2] else None
    return (dx, dw, db)[: len(op.inputs)]


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


def weight_gradient(op: Op, x: str, g: str, w: str, win: Window) -> str:
    """Of a convolution from x to g's place: [Cin/G, G·N, …] convolved with [Cout, N, …]."""
    t = op.tape
    if _is_pointwise(win):
        return _pointwise(op, x, g, w)
    rank = 2 + len(win.kernel)
    rest = range(2, rank)
    swapped = t.transpose(x, (1, 0, *rest))
    if win.group > 1:
        channels, sizes = t.static(w), spatial(op, x)
        assert channels is not None
        n = t.shapes[x][0]
        batch = n if isinstance(n, int) else t.dim(x, 0)
        parted = t.reshape(
            swapped,
            (win.group, channels[1] if op.proto.op_type == "Conv" else _in(op, x, win), batch, *sizes),
        )
        turned = t.transpose(parted, (1, 0, 2, *(i + 1 for i in rest)))
        inner = t.shapes[turned][0]
        assert isinstance(inner, int)
        swapped = t.reshape(turned, (inner, -1, *sizes))
    out = t.op(
        "Conv",
        swapped,
        t.transpose(g, (1, 0, *rest)),
        strides=win.dilations,
        dilations=win.strides,
        pads=[*win.begin, *win.end],
        group=win.group,
    )
    k = len(win.kernel)
    if any(win.leftover(spatial(op, x), spatial(op, g))):
        out = t.op("Slice", out, t.ints(*(0,) * k), t.ints(*win.kernel), t.ints(*rest))
    return t.op("Transpose", out, perm=[1, 0, *rest], like=w)


def _in(op: Op, x: str, win: Window) -> int:
    channels = op.tape.shapes[x][1]
    if not isinstance(channels, int):
        raise op.error("its channels are not known; expected a number")
    return channels // win.group


def _is_pointwise(win: Window) -> bool:
    ones = math.prod(win.kernel) == 1 and set(win.strides) == {1}
    return ones and win.group == 1 and not any((*win.begin, *win.end))


def _pointwise(op: Op, x: str, g: str, w: str) -> str:
    """A 1×1 kernel: Σ over the batch of g·xᵀ."""
    t = op.tape
    flat = [
        t.op("Flatten", t.op("Transpose", v, perm=[1, 0, *range(2, len(t.shapes[x]))]), axis=1)
        for v in (g, x)
    ]
    return t.reshape_like(t.op("Gemm", *flat, transB=1), w)
