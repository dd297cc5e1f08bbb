"""Sums, products, powers and their kin, over every way to broadcast."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from .referee import Case, case, check, torch

EVERY = ("static", "batch", "free")
RNG = np.random.default_rng(7)


def away(*shape: int, low: float = 0.5, high: float = 2.0) -> np.ndarray:
    """Numbers of both signs that are not near 0."""
    return RNG.uniform(low, high, shape) * RNG.choice([-1.0, 1.0], shape)


def between(low: float, high: float, *shape: int) -> np.ndarray:
    return RNG.uniform(low, high, shape)


# Shapes of the two operands, and which of them have the batch as their first dimension.
PAIRS = (
    ((4, 3), (4, 3), ("x", "b")), ((4, 3), (3,), ("x",)), ((4, 3), (), ("x",)), ((3,), (4, 3), ("b",)),
    ((4, 3), (4, 1), ("x", "b")), ((4, 3), (1, 3), ("x",)), ((2, 1, 3), (4, 1), ("x",)),
    ((1, 4, 1), (2, 4, 3), ("b",)), ((1, 1), (4, 3), ("b",)), ((2, 3), (2, 2, 2, 1), ("b",)),
)  # fmt: skip
BINARY = {
    "Add": (lambda x, b: x + b, {}),
    "Sub": (lambda x, b: x - b, {}),
    "Mul": (lambda x, b: x * b, {}),
    "Div": (lambda x, b: x / b, {}),
    "Max": (lambda x, b: torch.maximum(x, b), {}),
    "Min": (lambda x, b: torch.minimum(x, b), {}),
    "Sum": (lambda x, b: x + b, {}),
    "Mean": (lambda x, b: (x + b) / 2, {}),
    "Mod": (lambda x, b: torch.fmod(x, b), {"fmod": 1}),
}
UNARY = {
    "Identity": (lambda x: x * 1, away(4, 3)),
    "Neg": (lambda x: torch.neg(x), away(4, 3)),
    "Abs": (lambda x: torch.abs(x), np.append(away(11), 0.0).reshape(4, 3)),
    "Sqrt": (lambda x: torch.sqrt(x), between(0.1, 3, 4, 3)),
    "Reciprocal": (lambda x: torch.reciprocal(x), away(4, 3)),
    "Exp": (lambda x: torch.exp(x), away(4, 3)),
    "Log": (lambda x: torch.log(x), between(0.1, 3, 4, 3)),
    "Sin": (lambda x: torch.sin(x), away(4, 3)),
    "Cos": (lambda x: torch.cos(x), away(4, 3)),
    "Tan": (lambda x: torch.tan(x), between(-1.2, 1.2, 4, 3)),
    "Sinh": (lambda x: torch.sinh(x), away(4, 3)),
    "Cosh": (lambda x: torch.cosh(x), away(4, 3)),
    "Asin": (lambda x: torch.asin(x), between(-0.9, 0.9, 4, 3)),
    "Acos": (lambda x: torch.acos(x), between(-0.9, 0.9, 4, 3)),
    "Atan": (lambda x: torch.atan(x), away(4, 3)),
    "Asinh": (lambda x: torch.asinh(x), away(4, 3)),
    "Acosh": (lambda x: torch.acosh(x), between(1.2, 3, 4, 3)),
    "Atanh": (lambda x: torch.atanh(x), between(-0.9, 0.9, 4, 3)),
}


def double(kind: str) -> bool:
    """onnxruntime has no Mean in float64, and ONNX' reference evaluator adds in the first operand's place."""
    return kind != "Mean"


def _binary() -> list[Case]:
    made = []
    for kind, (f, attributes) in BINARY.items():
        for opset in (18, 21):
            for a, b, batch in PAIRS if opset == 18 else PAIRS[:2]:
                real = {"x": away(*a), "b": away(*b)}
                name = f"{a} {b} opset {opset}"
                made.append(case(name, kind, "x b", f, real, batch=batch, modes=EVERY, opset=opset,
                                 doubles=double(kind), **attributes))  # fmt: skip
    return made


def _unary() -> list[Case]:
    return [
        case(f"opset {opset}", kind, "x", f, {"x": x}, modes=EVERY, opset=opset)
        for kind, (f, x) in UNARY.items()
        for opset in (18, 22)
    ]


def _powers() -> list[Case]:
    x, base = away(4, 3), between(0.3, 2, 4, 3)
    made = [
        case(f"to {k} ({np.asarray(k).dtype})", "Pow", "x k", lambda x, k=k: x ** float(k), {"x": base if k % 1 else x},
             fixed={"k": np.asarray(k)}, modes=EVERY)
        for k in (2.0, 3.0, 0.5, -1.0, -1.5, 1.0, 0.0, np.int64(2), np.int64(3))
    ]  # fmt: skip
    made += [
        case("exponent of higher rank", "Pow", "x k", lambda x: (x**3).reshape(1, 1, 4, 3), {"x": x},
             fixed={"k": np.full((1, 1, 1, 1), 3.0)}, modes=EVERY),
        case("0 to the power of 0", "Pow", "x k", lambda x: x ** torch.tensor([0.0, 1.0, 2.0]),
             {"x": np.array([[0.0, 0.0, 0.0], [1.0, 2.0, -3.0]])}, fixed={"k": np.array([0.0, 1.0, 2.0])}),
        case("0 to the power of 0, scalar", "Pow", "x k", lambda x: x**0, {"x": np.array([[0.0], [2.0]])},
             fixed={"k": np.asarray(0.0)}),
        case("exponent that trains", "Pow", "x b", lambda x, b: x**b, {"x": base, "b": (4, 3)},
             batch=("x", "b"), modes=EVERY),
        case("exponent that trains, broadcast", "Pow", "x b", lambda x, b: x**b, {"x": base, "b": (3,)}, modes=EVERY),
        case("base that is broadcast", "Pow", "b x", lambda x, b: b**x, {"x": (4, 3), "b": between(0.3, 2, 3)},
             modes=EVERY),
        case("0 to an exponent that trains", "Pow", "x b", lambda x, b: x**b,
             {"x": np.array([[0.0, 1.0, 2.0]]), "b": np.array([[2.0, 3.0, 0.0]])}),
        case("exponents of integers", "Pow", "x k", lambda x, k: x ** k.double(), {"x": away(4, 3)},
             other={"k": np.array([1, 2, 3])}, modes=EVERY),
    ]  # fmt: skip
    return made


def _others() -> list[Case]:
    mask = np.array([[True, False, True]] * 2 + [[False, True, True]] * 2)
    three = {"x": away(4, 3), "b": away(3), "c": away(4, 1)}
    made = [
        case("three", kind, "x b c", f, three, batch=("x", "c"), modes=EVERY, doubles=double(kind))
        for kind, f in {
            "Max": lambda x, b, c: torch.maximum(torch.maximum(x, b), c),
            "Min": lambda x, b, c: torch.minimum(torch.minimum(x, b), c),
            "Sum": lambda x, b, c: x + b + c,
            "Mean": lambda x, b, c: (x + b + c) / 3,
        }.items()
    ]
    made += [
        case("one", kind, "x", lambda x: x * 1, {"x": (4, 3)}, doubles=double(kind))
        for kind in ("Max", "Min", "Sum", "Mean")
    ]
    ties = {"x": np.array([[1.0, 2.0, 3.0]] * 2), "b": np.array([1.0, 3.0, 2.0])}
    made += [
        case("ties", "Max", "x b", lambda x, b: torch.maximum(x, b), ties),
        case("ties", "Min", "x b", lambda x, b: torch.minimum(x, b), ties),
    ]
    made += [
        case("of one value with itself", "Mul", "x x", lambda x: x * x, {"x": (4, 3)}, modes=EVERY),
        case("of one value with itself", "Add", "x x", lambda x: x + x, {"x": (4, 3)}, modes=EVERY),
        case("of one value with itself", "Sub", "x x", lambda x: x - x, {"x": (4, 3)}, modes=EVERY),
        case("of one value with itself", "Div", "x x", lambda x: x / x, {"x": away(4, 3)}, modes=EVERY),
    ]
    for a, b, m in (
        ((4, 3), (4, 3), mask),
        ((4, 3), (3,), mask),
        ((1, 3), (), mask),
        ((4, 3), (4, 1), mask[:1]),
    ):
        batch = [n for n, s in (("x", a), ("b", b), ("m", m.shape)) if len(s) == 2 and s[0] == 4]
        made.append(case(f"{a} {b} {m.shape}", "Where", "m x b", lambda x, b, m: torch.where(m, x, b),
                         {"x": a, "b": b}, other={"m": m}, batch=batch, modes=EVERY))  # fmt: skip
    there = helper.make_node("Cast", ["x"], ["wide"], to=11)
    back = helper.make_node("CastLike", ["wide", "x"], ["y"])
    made.append(Case("Cast to double and back", [there, back], {"x": (4, 3)}, lambda x: x * 1, modes=EVERY))
    return made


CASES = [*_binary(), *_unary(), *_powers(), *_others()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
