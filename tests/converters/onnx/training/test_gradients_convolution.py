"""Convolutions in 1 to 3 dimensions: kernel, stride, dilation, padding, groups, drawn at random by the hundred."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .referee import Case, case, check, torch

F = torch.nn.functional
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TURNED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def around(x: Any, begin: Any, end: Any) -> Any:
    """Zeros before and after each spatial axis; a negative number crops."""
    pads = [p for b, e in zip(begin[::-1], end[::-1], strict=True) for p in (int(b), int(e))]
    return F.pad(x, pads)


def a_conv(n: int, draw: np.random.Generator, index: int, **given: Any) -> Case:
    group = int(draw.choice([1, 1, 2, 4]))
    cin, cout = group * int(draw.integers(1, 3)), group * int(draw.integers(1, 3))
    kernel = draw.integers(1, 4, n)
    strides, dilations = draw.integers(1, 4, n), draw.integers(1, 3, n)
    begin, end = draw.integers(0, 3, n), draw.integers(0, 3, n)
    reach = dilations * (kernel - 1) + 1
    size = np.maximum(reach - begin - end, 1) + draw.integers(0, 5, n)
    x = (int(draw.integers(1, 4)), cin, *(int(s) for s in size))
    w = (cout, cin // group, *(int(k) for k in kernel))
    bias = bool(draw.integers(2))

    def f(x: Any, w: Any, b: Any = None) -> Any:
        return CONV[n](around(x, begin, end), w, b, strides.tolist(), 0, dilations.tolist(), group)

    name = (
        f"{n}-D {index}: x {x} w {w} strides {strides} dilations {dilations} pads {begin} {end} group {group}"
    )
    return case(name, "Conv", "x w b" if bias else "x w", f, {"x": x, "w": w} | ({"b": (cout,)} if bias else {}),
                strides=strides.tolist(), dilations=dilations.tolist(), group=group,
                pads=[int(i) for i in (*begin, *end)], **given)  # fmt: skip


def a_transposed(n: int, draw: np.random.Generator, index: int, **given: Any) -> Case:
    group = int(draw.choice([1, 1, 2]))
    cin, cout = group * int(draw.integers(1, 3)), group * int(draw.integers(1, 3))
    kernel = draw.integers(1, 4, n)
    strides, dilations = draw.integers(1, 4, n), draw.integers(1, 3, n)
    more = np.array([int(draw.integers(0, max(s, d))) for s, d in zip(strides, dilations, strict=True)])
    more = np.minimum(more, strides - 1)
    size = draw.integers(1, 5, n)
    whole = (size - 1) * strides + dilations * (kernel - 1) + 1 + more
    begin, end = (
        np.minimum(draw.integers(0, 3, n), (whole - 1) // 2),
        np.minimum(draw.integers(0, 3, n), (whole - 1) // 2),
    )
    x = (int(draw.integers(1, 4)), cin, *(int(s) for s in size))
    w = (cin, cout // group, *(int(k) for k in kernel))
    bias = bool(draw.integers(2))

    def f(x: Any, w: Any, b: Any = None) -> Any:
        y = TURNED[n](x, w, None, strides.tolist(), 0, 0, group, dilations.tolist())
        y = around(y, [0] * n, more)
        y = around(y, -begin, -end)
        return y if b is None else y + b.reshape(-1, *(1,) * n)

    name = (f"{n}-D {index}: x {x} w {w} strides {strides} dilations {dilations} pads {begin} {end} "
            f"output_padding {more} group {group}")  # fmt: skip
    return case(name, "ConvTranspose", "x w b" if bias else "x w", f, {"x": x, "w": w} | ({"b": (cout,)} if bias else {}),
                strides=strides.tolist(), dilations=dilations.tolist(), group=group, output_padding=more.tolist(),
                pads=[int(i) for i in (*begin, *end)], **given)  # fmt: skip


def _named() -> list[Case]:
    """What layers of real networks are like, with a symbolic batch too, and attributes left out."""
    made = []
    for name, x, w, given in (
        ("3 × 3", (2, 3, 6, 6), (4, 3, 3, 3), {"padding": 1}),
        ("of stride 2", (2, 3, 7, 7), (4, 3, 3, 3), {"padding": 1, "stride": 2}),
        ("of stride 2 on an even size", (2, 3, 8, 8), (4, 3, 3, 3), {"padding": 1, "stride": 2}),
        ("pointwise", (2, 3, 5, 5), (4, 3, 1, 1), {}),
        ("pointwise of stride 2", (2, 3, 5, 5), (4, 3, 1, 1), {"stride": 2}),
        ("pointwise with padding", (2, 3, 4, 4), (4, 3, 1, 1), {"padding": 1}),
        ("depthwise", (2, 4, 6, 6), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
        ("depthwise of stride 2", (2, 4, 6, 6), (4, 1, 3, 3), {"padding": 1, "groups": 4, "stride": 2}),
        ("depthwise, two a channel", (2, 3, 5, 5), (6, 1, 3, 3), {"groups": 3}),
        ("patches", (2, 3, 8, 8), (5, 3, 4, 4), {"stride": 4}),
        ("dilated", (2, 2, 9, 9), (3, 2, 3, 3), {"dilation": 2, "padding": 2}),
        ("7 × 7 of stride 2", (1, 3, 11, 11), (2, 3, 7, 7), {"stride": 2, "padding": 3}),
        ("of one row", (2, 2, 1, 8), (3, 2, 1, 3), {}),
    ):
        p, s = given.get("padding", 0), given.get("stride", 1)
        d, g = given.get("dilation", 1), given.get("groups", 1)
        attributes = {k: v for k, v in (("pads", [p] * 4 if p else None), ("strides", [s] * 2 if s > 1 else None),
                                        ("dilations", [d] * 2 if d > 1 else None), ("group", g if g > 1 else None))
                      if v is not None}  # fmt: skip
        # onnxruntime has no Conv in float64, and the reference evaluator refuses two outputs a channel.
        for opset in (18, 22):
            made.append(case(f"{name}, opset {opset}", "Conv", "x w b",
                             lambda x, w, b, given=given: F.conv2d(x, w, b, **given),
                             {"x": x, "w": w, "b": (w[0],)}, opset=opset,
                             doubles=name != "depthwise, two a channel", **attributes))  # fmt: skip
    made.append(case("that trains its weight alone", "Conv", "x w", lambda w: F.conv2d(torch.ones(2, 3, 5, 5).to(w), w),
                     {"w": (2, 3, 3, 3)}, fixed={"x": np.ones((2, 3, 5, 5))}))  # fmt: skip
    made.append(case("of a fixed kernel", "Conv", "x w", lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3).to(x)),
                     {"x": (2, 3, 5, 5)}, fixed={"w": np.ones((2, 3, 3, 3))}))  # fmt: skip
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for stride in (1, 2, 3):
            for k in (2, 3):
                for d in (1, 2):
                    size = (7, 6)
                    out = [-(-n // stride) for n in size]
                    total = [
                        max((o - 1) * stride + d * (k - 1) + 1 - n, 0) for o, n in zip(out, size, strict=True)
                    ]
                    small, big = [t // 2 for t in total], [t - t // 2 for t in total]
                    begin, end = (small, big) if auto == "SAME_UPPER" else (big, small)
                    if auto == "VALID":
                        begin = end = [0, 0]
                    if auto != "VALID" and d > 1:
                        continue
                    made.append(case(f"auto_pad {auto}, stride {stride}, kernel {k}, dilation {d}", "Conv", "x w",
                                     lambda x, w, b=begin, e=end, s=stride, d=d: F.conv2d(around(x, b, e), w, None, s, 0, d),
                                     {"x": (2, 2, *size), "w": (3, 2, k, k)}, auto_pad=auto, strides=[stride] * 2,
                                     dilations=[d] * 2))  # fmt: skip
    for opset in (18, 22):
        made.append(case(f"defaults, opset {opset}", "ConvTranspose", "x w", lambda x, w: F.conv_transpose2d(x, w),
                         {"x": (2, 3, 4, 4), "w": (3, 2, 3, 3)}, opset=opset))  # fmt: skip
        made.append(case(f"of stride 2, opset {opset}", "ConvTranspose", "x w b",
                         lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
                         {"x": (2, 3, 4, 4), "w": (3, 2, 3, 3), "b": (2,)},
                         strides=[2, 2], pads=[1] * 4, output_padding=[1, 1], opset=opset))  # fmt: skip
    made.append(case("to a given shape", "ConvTranspose", "x w",
                     lambda x, w: around(F.conv_transpose2d(x, w, None, 2), [-1, -1], [0, 0]),
                     {"x": (2, 3, 4, 4), "w": (3, 2, 3, 3)}, strides=[2, 2], output_shape=[8, 8],
                     doubles=False))  # fmt: skip
    made.append(case("auto_pad SAME_UPPER", "ConvTranspose", "x w",
                     lambda x, w: around(F.conv_transpose2d(x, w, None, 2), [0, 0], [-1, -1]),
                     {"x": (2, 3, 4, 4), "w": (3, 2, 3, 3)}, strides=[2, 2], auto_pad="SAME_UPPER"))  # fmt: skip
    made.append(case("auto_pad SAME_LOWER", "ConvTranspose", "x w",
                     lambda x, w: around(F.conv_transpose2d(x, w, None, 2), [-1, -1], [0, 0]),
                     {"x": (2, 3, 4, 4), "w": (3, 2, 3, 3)}, strides=[2, 2], auto_pad="SAME_LOWER"))  # fmt: skip
    return made


def _random() -> list[Case]:
    draw = np.random.default_rng(2024)
    single: dict[str, Any] = {"modes": ("static",), "doubles": False}
    made = [a_conv(1 + i % 3, draw, i, **single) for i in range(240)]
    made += [a_transposed(1 + i % 3, draw, i, **single) for i in range(120)]
    made += [a_conv(1 + i % 3, draw, 1000 + i, modes=("batch",), doubles=False) for i in range(30)]
    made += [a_transposed(1 + i % 3, draw, 1000 + i, modes=("batch",), doubles=False) for i in range(15)]
    return made


RANDOM = _random()
CASES = [*_named(), *RANDOM]


@pytest.mark.parametrize("c", _named(), ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)


@pytest.mark.parametrize("part", range(15))
def test_hundreds_of_shapes(part: int) -> None:
    for c in RANDOM[part::15]:
        check(c)
