"""Pooling in 1 to 3 dimensions: padding, dilation, ceil_mode, auto_pad, ties, windows that overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optexport.errors import ModelError

from .referee import Case, case, check, derive, torch

F = torch.nn.functional
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _real(size: Any, kernel: Any, strides: Any, pads: Any, dilations: Any, ceil: int) -> bool:
    """Whether every window has an element of the image: torch's own gradient ends the process where one has none.

    And whether ceil_mode means the same along every axis, which is needed here.
    """
    means = set()
    for n, k, s, p, d in zip(size, kernel, strides, pads, dilations, strict=True):
        reach = d * (k - 1) + 1
        last = n + 2 * p - reach
        count = (-(-last // s) if ceil else last // s) + 1
        if ceil and (count - 1) * s >= n + p:
            count -= 1  # a window that would start behind the image
            means.add("less")
        elif ceil and last % s:
            means.add("more")
        for i in range(count):
            if not any(0 <= i * s - p + j * d < n for j in range(k)):
                return False
    # torch refuses a kernel larger than an image with its pads, in 3-D one larger than the image.
    return len(means) < 2 and all(
        d * (k - 1) + 1 <= n for n, k, d in zip(size, kernel, dilations, strict=True)
    )


def _a_max(n: int, draw: np.random.Generator, index: int, ceil: int, **given: Any) -> Case:
    kernel = draw.integers(1, 4, n)
    strides, dilations = draw.integers(1, 4, n), draw.integers(1, 3, n)
    pads = np.array([int(draw.integers(0, k // 2 + 1)) for k in kernel])
    size = np.maximum(dilations * (kernel - 1) + 1 - 2 * pads, 1) + draw.integers(0, 5, n)
    if not _real(size, kernel, strides, pads, dilations, ceil):
        return _a_max(n, draw, index, ceil, **given)
    x = (2, int(draw.integers(1, 3)), *(int(s) for s in size))
    k, s, p, d = (v.tolist() for v in (kernel, strides, pads, dilations))
    name = f"{n}-D {index}: x {x} kernel {k} strides {s} pads {p} dilations {d} ceil {ceil}"
    return case(name, "MaxPool", "x", lambda x: MAX[n](x, k, s, p, d, ceil_mode=bool(ceil)), {"x": x}, kernel_shape=k,
                strides=s, pads=p + p, dilations=d, ceil_mode=ceil, **given)  # fmt: skip


def _an_average(n: int, draw: np.random.Generator, index: int, ceil: int, counted: int, **given: Any) -> Case:
    kernel, strides = draw.integers(1, 4, n), draw.integers(1, 4, n)
    pads = np.array([int(draw.integers(0, k // 2 + 1)) for k in kernel])
    size = np.maximum(kernel - 2 * pads, 1) + draw.integers(0, 5, n)
    if not _real(size, kernel, strides, pads, np.ones_like(kernel), ceil):
        return _an_average(n, draw, index, ceil, counted, **given)
    x = (2, int(draw.integers(1, 3)), *(int(s) for s in size))
    k, s, p = (v.tolist() for v in (kernel, strides, pads))
    name = f"{n}-D {index}: x {x} kernel {k} strides {s} pads {p} ceil {ceil} count_include_pad {counted}"
    return case(name, "AveragePool", "x", lambda x: AVERAGE[n](x, k, s, p, bool(ceil), bool(counted)), {"x": x},
                kernel_shape=k, strides=s, pads=p + p, ceil_mode=ceil, count_include_pad=counted, **given)  # fmt: skip


def behind(x: Any) -> Any:
    """Means of windows of 2 × 2, one row and one column of zeros behind the image."""
    return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 2)


def _named() -> list[Case]:
    ties = np.random.default_rng(1).integers(0, 2, (2, 2, 6, 6)).astype(np.float64)
    x = {"x": (2, 3, 7, 7)}
    made = [
        case("defaults", "MaxPool", "x", lambda x: F.max_pool2d(x, 2, 1), x, kernel_shape=[2, 2]),
        case("2 × 2", "MaxPool", "x", lambda x: F.max_pool2d(x, 2), x, kernel_shape=[2, 2], strides=[2, 2]),
        case("3 × 3 of stride 2", "MaxPool", "x", lambda x: F.max_pool2d(x, 3, 2, 1), x, kernel_shape=[3, 3],
             strides=[2, 2], pads=[1] * 4),
        case("newer", "MaxPool", "x", lambda x: F.max_pool2d(x, 2), x, kernel_shape=[2, 2], strides=[2, 2], opset=22),
        case("ties", "MaxPool", "x", lambda x: F.max_pool2d(x, 3, 1, 1), {"x": ties}, kernel_shape=[3, 3], pads=[1] * 4),
        case("places asked for", "MaxPool", "x", lambda x: F.max_pool2d(x, 2), x, kernel_shape=[2, 2], strides=[2, 2],
             outputs="y places"),
        case("SAME_UPPER", "MaxPool", "x", lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, 2), x,
             kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
        case("SAME_LOWER", "MaxPool", "x", lambda x: F.max_pool2d(F.pad(x, (1, 0, 1, 0), value=-torch.inf), 2, 2), x,
             kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
        case("VALID", "MaxPool", "x", lambda x: F.max_pool2d(x, 2, 2), x, kernel_shape=[2, 2], strides=[2, 2],
             auto_pad="VALID"),
        case("unknown spatial sizes", "MaxPool", "x", lambda x: F.max_pool2d(x, 2), x, kernel_shape=[2, 2],
             strides=[2, 2], modes=("free",)),
        case("defaults", "AveragePool", "x", lambda x: F.avg_pool2d(x, 2, 1), x, kernel_shape=[2, 2]),
        case("2 × 2", "AveragePool", "x", lambda x: F.avg_pool2d(x, 2), x, kernel_shape=[2, 2], strides=[2, 2]),
        case("newer", "AveragePool", "x", lambda x: F.avg_pool2d(x, 2), x, kernel_shape=[2, 2], strides=[2, 2], opset=22),
        case("SAME_UPPER", "AveragePool", "x",
             lambda x: behind(x) / behind(torch.ones_like(x)), x, kernel_shape=[2, 2], strides=[2, 2],
             auto_pad="SAME_UPPER"),
        case("SAME_LOWER, counted", "AveragePool", "x", lambda x: F.avg_pool2d(F.pad(x, (1, 0, 1, 0)), 2, 2), x,
             kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER", count_include_pad=1),
        case("dilated", "AveragePool", "x",
             lambda x: F.conv2d(x, torch.full((3, 1, 2, 2), 0.25).to(x), dilation=2, groups=3), x, kernel_shape=[2, 2],
             dilations=[2, 2], opset=19),
    ]  # fmt: skip
    for shape in ((2, 3, 5), (2, 3, 4, 5), (1, 2, 2, 3, 4)):
        over = tuple(range(2, len(shape)))
        made += [
            case(
                f"{shape}", "GlobalAveragePool", "x", lambda x, a=over: x.mean(a, keepdim=True), {"x": shape}
            ),
            case(
                f"{shape}",
                "GlobalMaxPool",
                "x",
                lambda x, a=over: x.amax(a, keepdim=True),
                {"x": shape},
                doubles=len(shape) == 4,
            ),  # onnxruntime has float32, the reference evaluator images
        ]
    made.append(
        case("newer", "GlobalAveragePool", "x", lambda x: x.mean((2, 3), True), {"x": (2, 3, 4, 4)}, opset=22)
    )
    made.append(
        case("newer", "GlobalMaxPool", "x", lambda x: x.amax((2, 3), True), {"x": (2, 3, 4, 4)}, opset=22)
    )
    made.append(case("ties", "GlobalMaxPool", "x", lambda x: x.amax((2, 3), True), {"x": ties}))
    made.append(
        case(
            "free",
            "GlobalAveragePool",
            "x",
            lambda x: x.mean((2, 3), True),
            {"x": (2, 3, 4, 4)},
            modes=("free",),
        )
    )
    return made


def _random() -> list[Case]:
    draw = np.random.default_rng(77)
    single: dict[str, Any] = {"modes": ("static",), "doubles": False}
    made = [_a_max(1 + i % 3, draw, i, i // 3 % 2, **single) for i in range(96)]
    made += [_an_average(1 + i % 3, draw, i, i // 3 % 2, i // 6 % 2, **single) for i in range(96)]
    made += [_a_max(2, draw, 1000 + i, i % 2, modes=("batch",), doubles=False) for i in range(12)]
    made += [
        _an_average(2, draw, 1000 + i, i % 2, i // 2 % 2, modes=("batch",), doubles=False) for i in range(12)
    ]
    return made


RANDOM = _random()
CASES = [*_named(), *RANDOM]


@pytest.mark.parametrize("c", _named(), ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)


@pytest.mark.parametrize("c", RANDOM, ids=lambda c: c.name.split(":")[0])
def test_shapes_drawn_at_random(c: Case) -> None:
    check(c)


def test_ceil_mode_that_means_two_things() -> None:
    """Along one axis a window more, along the other one that starts behind the image."""
    c = case(
        "mixed",
        "AveragePool",
        "x",
        None,
        {"x": (1, 1, 4, 4)},
        kernel_shape=[3, 1],
        strides=[2, 2],
        ceil_mode=1,
    )
    with pytest.raises(
        ModelError, match=r"the_AveragePool.*ceil_mode adds a window along one axis and leaves one out"
    ):
        derive(c.model("float32", "static"), ["x"], 4)
