"""Sums, means and extremes: axes given every way, negative, none; kept or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .referee import Case, case, check, torch

RNG = np.random.default_rng(5)
X = RNG.uniform(0.25, 2.0, (2, 3, 4)) * RNG.choice([-1.0, 1.0], (2, 3, 4))
POSITIVE = np.abs(X)
ZEROS = X.copy()
ZEROS[0, 0, 0] = ZEROS[1, 1, 1] = ZEROS[1, 1, 2] = 0.0
TIES = np.array([[[1.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0], [-1.0, -1.0, 0.0, 0.0]]] * 2)
EVERY = ("static", "batch", "free")


def prod(x: Any, a: tuple[int, ...], k: bool) -> Any:
    for axis in sorted((i % x.ndim for i in a), reverse=True):
        x = x.prod(axis, keepdim=k)
    return x


KINDS = {
    "ReduceSum": (lambda x, a, k: x.sum(a, keepdim=k), X),
    "ReduceMean": (lambda x, a, k: x.mean(a, keepdim=k), X),
    "ReduceSumSquare": (lambda x, a, k: (x * x).sum(a, keepdim=k), X),
    "ReduceL1": (lambda x, a, k: x.abs().sum(a, keepdim=k), X),
    "ReduceL2": (lambda x, a, k: torch.linalg.vector_norm(x, dim=a, keepdim=k), X),
    "ReduceMax": (lambda x, a, k: x.amax(a, keepdim=k), X),
    "ReduceMin": (lambda x, a, k: x.amin(a, keepdim=k), X),
    "ReduceProd": (prod, X),
    "ReduceLogSum": (lambda x, a, k: x.sum(a, keepdim=k).log(), POSITIVE),
    "ReduceLogSumExp": (lambda x, a, k: x.logsumexp(a, keepdim=k), X),
}
AXES = ((0,), (1,), (-1,), (0, 2), (-2, -1), (2, 0), None)


def _cases() -> list[Case]:
    made = []
    for kind, (f, x) in KINDS.items():
        for axes in AXES:
            for keep in (0, 1):
                given = {} if axes is None else {"axes": np.asarray(axes, np.int64)}
                over = (0, 1, 2) if axes is None else axes
                made.append(
                    case(
                        f"axes {axes}, keepdims {keep}",
                        kind,
                        "x axes" if given else "x",
                        lambda x, f=f, a=over, k=keep: f(x, a, bool(k)),
                        {"x": x},
                        fixed=given,
                        keepdims=keep,
                        modes=EVERY if axes in ((-1,), (0, 2)) else ("static", "batch"),
                    )
                )
        # In operator sets up to 17 the axes were an attribute: ONNX' converter makes them an input.
        made.append(
            case(
                "newer",
                kind,
                "x axes",
                lambda x, f=f: f(x, (1,), True),
                {"x": x},
                fixed={"axes": np.array([1])},
                opset=21,
            )
        )
    for kind in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
        none = {"axes": np.zeros(0, np.int64)}
        f = KINDS[kind][0]
        made.append(
            case("over none", kind, "x axes", lambda x: x * 1, {"x": X}, fixed=none, noop_with_empty_axes=1)
        )
        made.append(case("over none, left out", kind, "x", lambda x: x * 1, {"x": X}, noop_with_empty_axes=1))
        made.append(
            case(
                "empty axes mean all",
                kind,
                "x axes",
                lambda x, f=f: f(x, (0, 1, 2), True),
                {"x": X},
                fixed=none,
            )
        )
    for kind in ("ReduceMax", "ReduceMin", "ReduceProd"):
        f = KINDS[kind][0]
        at = ZEROS if kind == "ReduceProd" else TIES
        made.append(
            case(
                "zeros, equal ones",
                kind,
                "x axes",
                lambda x, f=f: f(x, (2,), True),
                {"x": at},
                fixed={"axes": np.array([2])},
            )
        )
    made.append(
        case(
            "norm of zeros",
            "ReduceL2",
            "x axes",
            lambda x: torch.linalg.vector_norm(x, dim=(1,), keepdim=True),
            {"x": np.array([[0.0, 0.0], [3.0, 4.0]])},
            fixed={"axes": np.array([1])},
        )
    )
    made.append(case("a scalar", "ReduceSum", "x", lambda x: x * 1, {"x": np.asarray(2.0)}))
    return made  # fmt: skip


def _sums() -> list[Case]:
    made = []
    for axis in (0, 1, 2, -1):
        for reverse in (0, 1):
            for exclusive in (0, 1):

                def f(x: Any, a: int = axis, r: int = reverse, e: int = exclusive) -> Any:
                    x = x.flip(a) if r else x
                    y = x.cumsum(a) - (x if e else 0)
                    return y.flip(a) if r else y

                made.append(case(f"axis {axis}, reverse {reverse}, exclusive {exclusive}", "CumSum", "x axis", f,
                                 {"x": X}, fixed={"axis": np.asarray(axis)}, reverse=reverse, exclusive=exclusive,
                                 modes=EVERY))  # fmt: skip
    return made


CASES = [*_cases(), *_sums()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
