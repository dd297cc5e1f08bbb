"""Gathers and scatters: axes, repeated and negative indexes, batch dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from .referee import Case, case, check, torch

EVERY = ("static", "batch", "free")
RNG = np.random.default_rng(9)


def index(high: int, *shape: int) -> np.ndarray:
    """Indexes that repeat, a few counted from the end."""
    return np.asarray(RNG.integers(-high, high, shape), np.int64)


def _gathers() -> list[Case]:
    made = []
    for axis in (0, 1, 2, -1):
        for shape in ((), (5,), (3, 2)):
            at = index((4, 3, 5)[axis], *shape)

            def f(x: Any, i: Any, a: int = axis) -> Any:
                i = torch.where(i < 0, i + x.shape[a], i)
                y = x.index_select(a, i.reshape(-1))
                a %= x.ndim
                return y.reshape(*x.shape[:a], *i.shape, *x.shape[a + 1 :])

            for known in (True, False):
                held = {"fixed" if known else "other": {"i": at}}
                g = (lambda x, f=f, at=at: f(x, torch.tensor(at))) if known else f
                made.append(case(f"axis {axis}, indexes {shape}, known {known}", "Gather", "x i", g,
                                 {"x": (4, 3, 5)}, axis=axis, modes=EVERY, **held))  # fmt: skip
        at = index(2, 2, 3, 2)

        def f(x: Any, i: Any, a: int = axis) -> Any:
            i = torch.where(i < 0, i + x.shape[a], i)
            return torch.gather(x, a, i)

        made.append(case(f"axis {axis}", "GatherElements", "x i", f, {"x": (4, 3, 5)}, other={"i": at}, axis=axis,
                         modes=EVERY))  # fmt: skip
    made += [
        case("of a vector", "Gather", "x i", lambda x, i: x[i], {"x": (4,)}, other={"i": index(4, 6)}, modes=EVERY),
        case("many of few rows", "Gather", "x i", lambda x, i: x[i], {"x": (3, 2)}, other={"i": index(3, 50)}),
        case("int32", "Gather", "x i", lambda x, i: x[i.long()], {"x": (3, 2)},
             other={"i": index(3, 5).astype(np.int32)}),
        case("int32", "GatherElements", "x i", lambda x, i: torch.gather(x, 0, i.long()), {"x": (3, 2)},
             other={"i": np.array([[0, 1], [0, 1], [0, 2]], np.int32)}),
    ]  # fmt: skip
    return made


def _tuples() -> list[Case]:
    def at(x: Any, i: Any) -> Any:
        return x[tuple(i[..., j] for j in range(i.shape[-1]))]

    made = []
    for k in (1, 2, 3):
        for shape in ((5,), (2, 3)):
            i = np.stack([index((2, 3, 4)[j], *shape) for j in range(k)], -1)
            made.append(case(f"tuples of {k}, {shape}", "GatherND", "x i", at, {"x": (2, 3, 4)}, other={"i": i},
                             modes=("static", "batch")))  # fmt: skip
    i = np.stack([index(3, 2, 5), index(4, 2, 5)], -1)
    made.append(case("one batch dimension", "GatherND", "x i",
                     lambda x, i: torch.stack([at(x[n], i[n]) for n in range(2)]), {"x": (2, 3, 4, 2)},
                     other={"i": i}, batch=("x", "i"), batch_dims=1))  # fmt: skip
    i = index(4, 2, 3, 6, 1)
    made.append(case("two batch dimensions", "GatherND", "x i",
                     lambda x, i: torch.stack([torch.stack([at(x[n, m], i[n, m]) for m in range(3)]) for n in range(2)]),
                     {"x": (2, 3, 4)}, other={"i": i}, batch=("x", "i"), batch_dims=2))  # fmt: skip
    i = index(4, 2, 3, 1)
    made.append(case("two batch dimensions, one each", "GatherND", "x i",
                     lambda x, i: torch.stack([torch.stack([at(x[n, m], i[n, m]) for m in range(3)]) for n in range(2)]),
                     {"x": (2, 3, 4)}, other={"i": i}, batch=("x", "i"), batch_dims=2))  # fmt: skip
    return made


def _scatters() -> list[Case]:
    made = []
    at = np.array([[0, 2, 1], [3, 0, -2]], np.int64)
    places = torch.tensor(np.where(at < 0, at + 4, at))
    for reduction, f in (
        ("none", lambda x, u, i: x.scatter(0, places, u)),
        ("add", lambda x, u, i: x.scatter_add(0, places, u)),
    ):
        made.append(case(f"reduction {reduction}", "ScatterElements", "x i u", f, {"x": (4, 3), "u": (2, 3)},
                         other={"i": at}, reduction=reduction, modes=EVERY))  # fmt: skip
    made.append(case("last axis", "ScatterElements", "x i u", lambda x, u, i: x.scatter(1, i, u),
                     {"x": (2, 4), "u": (2, 2)}, other={"i": np.array([[0, 3], [2, 1]])}, axis=-1,
                     batch=("x", "u", "i"), modes=EVERY))  # fmt: skip
    made.append(case("repeated places are added", "ScatterElements", "x i u",
                     lambda x, u, i: x.scatter_add(0, i, u), {"x": (3, 2), "u": (4, 2)},
                     other={"i": np.array([[0, 1], [0, 1], [0, 2], [2, 2]])}, reduction="add"))  # fmt: skip
    i = np.array([[0, 1], [1, 2]])
    made.append(case("", "ScatterND", "x i u", lambda x, u, i: x.index_put((i[:, 0], i[:, 1]), u),
                     {"x": (2, 3, 4), "u": (2, 4)}, other={"i": i}, modes=EVERY))  # fmt: skip
    return made


def _choices() -> list[Case]:
    x = RNG.permutation(24).reshape(2, 3, 4).astype(np.float64)
    made = []
    for axis in (-1, 0, 1):
        for largest in (0, 1):
            for tidy in (0, 1):
                k = 2 if axis else 1
                made.append(case(f"axis {axis}, largest {largest}, sorted {tidy}", "TopK", "x k",
                                 lambda x, a=axis, n=largest, k=k: torch.topk(x, k, a, largest=bool(n)).values,
                                 {"x": x}, fixed={"k": np.array([k])}, outputs="y i", axis=axis, largest=largest,
                                 sorted=1, modes=("static", "batch")))  # fmt: skip
                if not tidy:
                    # Their order is open: summed, it does not count.
                    nodes = [helper.make_node("TopK", ["x", "k"], ["v", ""], axis=axis, largest=largest, sorted=0),
                             helper.make_node("ReduceSum", ["v"], ["y"], keepdims=0)]  # fmt: skip
                    made.append(Case(f"TopK axis {axis}, largest {largest}, unsorted", nodes, {"x": x},
                                     lambda x, a=axis, n=largest, k=k: torch.topk(x, k, a, largest=bool(n)).values.sum(),
                                     fixed={"k": np.array([k])}))  # fmt: skip
    made.append(case("newer", "TopK", "x k", lambda x: torch.topk(x, 2).values, {"x": x}, fixed={"k": np.array([2])},
                     outputs="y i", opset=24))  # fmt: skip
    keep = np.array([True, False, True])
    made += [
        case("axis 1", "Compress", "x m", lambda x, m: x[:, m], {"x": (2, 3, 4)}, other={"m": keep}, axis=1,
             modes=EVERY),
        case("axis -2", "Compress", "x m", lambda x, m: x[:, m], {"x": (2, 3, 4)}, other={"m": keep}, axis=-2),
        case("flat", "Compress", "x m", lambda x, m: x.reshape(-1)[:3][m], {"x": (2, 3, 4)}, other={"m": keep},
             modes=EVERY),
    ]  # fmt: skip
    return made


CASES = [*_gathers(), *_tuples(), *_scatters(), *_choices()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
