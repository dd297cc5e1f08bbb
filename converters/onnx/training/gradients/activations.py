"""Elementwise activations, and softmax."""

from __future__ import annotations

import math

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


@gradient("Relu")
def relu(op: Op, g: str) -> Gradients:
    t = op.tape
    return (t.where(t.compare("Greater", op.y, 0.0), g, 0.0),)


@gradient("LeakyRelu")
def leaky_relu(op: Op, g: str) -> Gradients:
    t = op.tape
    slope = op.attribute("alpha", 0.01)
    return (t.where(t.compare("Greater", op.x, 0.0), g, t.mul(g, slope)),)


@gradient("PRelu")
def prelu(op: Op, g: str) -> Gradients:
    t = op.tape
    x, slope = op.inputs
    positive = t.compare("Greater", x, 0.0)
    return (
        t.where(positive, g, t.mul(g, slope)) if op.needs[0] else None,
        t.sum_to(t.where(positive, 0.0, t.mul(g, x)), slope) if op.needs[1] else None,
    )


@gradient("Elu")
def elu(op: Op, g: str) -> Gradients:
    """y = α(eˣ − 1) below 0, so y′ = y + α there."""
    t = op.tape
    return (t.where(t.compare("Greater", op.x, 0.0), g, t.mul(g, t.add(op.y, op.attribute("alpha", 1.0)))),)


@gradient("Sigmoid")
def sigmoid(op: Op, g: str) -> Gradients:
    t = op.tape
    return (t.mul(g, t.mul(op.y, t.sub(1.0, op.y))),)


@gradient("Tanh")
def tanh(op: Op, g: str) -> Gradients:
    t = op.tape
    return (t.mul(g, t.sub(1.0, t.mul(op.y, op.y))),)


@gradient("Erf")
def erf(op: Op, g: str) -> Gradients:
    """2/√π·e^(−x²)."""
    t = op.tape
    slope = t.mul(t.unary("Exp", t.unary("Neg", t.mul(op.x, op.x))), 2 / math.sqrt(math.pi))
    return (t.mul(g, slope),)


@gradient("Softplus")
def softplus(op: Op, g: str) -> Gradients:
    return (op.tape.mul(g, op.tape.unary("Sigmoid", op.x)),)


@gradient("HardSigmoid")
def hard_sigmoid(op: Op, g: str) -> Gradients:
    """α where 0 < y < 1."""
    t = op.tape
    slope = op.attribute("alpha", 0.2)
    inside = t.op("And", t.compare("Greater", op.y, 0.0), t.compare("Less", op.y, 1.0), like=op.y)
    return (t.where(inside, t.mul(g, slope), 0.0),)


@gradient("HardSwish")
def hard_swish(op: Op, g: str) -> Gradients:
    """0 up to −3, 1 from 3 on, (2x + 3)/6 between."""
    t = op.tape
    between = t.mul(g, t.add(t.mul(op.x, 1 / 3), 0.5))
    low = t.where(t.compare("Greater", op.x, -3.0), between, 0.0)
    return (t.where(t.compare("Less", op.x, 3.0), low, g),)


@gradient("Clip")
def clip(op: Op, g: str) -> Gradients:
    """To what is not clipped; a value at a bound passes, as in PyTorch."""
    t = op.tape
    grads: list[str | None] = [t.where(t.compare("Equal", op.x, op.y), g, 0.0) if op.needs[0] else None]
    for i, kind in ((1, "Less"), (2, "Greater")):
        if op.input(i) and op.needs[i]:
            clipped = t.where(t.compare(kind, op.x, op.input(i)), g, 0.0)
            grads += [None] * (i - len(grads)) + [t.sum_to(clipped, op.input(i))]
    return (*grads, *(None for _ in range(len(op.inputs) - len(grads))))


@gradient("Gelu")
def gelu(op: Op, g: str) -> Gradients:
    """Φ(x) + x·φ(x), or the derivative of its approximation by tanh."""
    t = op.tape
    x = op.x
    if op.attribute("approximate", "none") == "tanh":
        k, a = math.sqrt(2 / math.pi), 0.044715
        square = t.mul(x, x)
        u = t.unary("Tanh", t.mul(t.mul(x, t.add(t.mul(square, a), 1.0)), k))
        inner = t.mul(t.add(t.mul(square, 3 * a), 1.0), k)
        slope = t.mul(t.mul(t.sub(1.0, t.mul(u, u)), inner), x)
        return (t.mul(g, t.mul(t.add(t.add(u, 1.0), slope), 0.5)),)
    phi = t.mul(t.unary("Exp", t.mul(t.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    cdf = t.mul(t.add(t.unary("Erf", t.mul(x, 1 / math.sqrt(2))), 1.0), 0.5)
    return (t.mul(g, t.add(cdf, t.mul(x, phi))),)


@gradient("Selu")
def selu(op: Op, g: str) -> Gradients:
    """y = γx above 0, γα(eˣ − 1) below, so y′ = γ or y + γα."""
    t = op.tape
    alpha = op.attribute("alpha", 1.67326319217681884765625)
    gamma = op.attribute("gamma", 1.05070102214813232421875)
    below = t.mul(g, t.add(op.y, alpha * gamma))
    return (t.where(t.compare("Greater", op.x, 0.0), t.mul(g, gamma), below),)


@gradient("Celu")
def celu(op: Op, g: str) -> Gradients:
    """y = α(e^(x/α) − 1) below 0, so y′ = y/α + 1 there."""
    t = op.tape
    below = t.mul(g, t.add(t.div(op.y, op.attribute("alpha", 1.0)), 1.0))
    return (t.where(t.compare("Greater", op.x, 0.0), g, below),)


@gradient("ThresholdedRelu")
def thresholded_relu(op: Op, g: str) -> Gradients:
    t = op.tape
    return (t.where(t.compare("Greater", op.x, op.attribute("alpha", 1.0)), g, 0.0),)


@gradient("Shrink")
def shrink(op: Op, g: str) -> Gradients:
    """Nothing between −λ and λ."""
    t = op.tape
    return (t.where(t.compare("Greater", t.unary("Abs", op.x), op.attribute("lambd", 0.5)), g, 0.0),)


@gradient("Softsign")
def softsign(op: Op, g: str) -> Gradients:
    """1/(1 + |x|)²"""
    t = op.tape
    scale = t.add(t.unary("Abs", op.x), 1.0)
    return (t.div(g, t.mul(scale, scale)),)


@gradient("Mish")
def mish(op: Op, g: str) -> Gradients:
    """y = x·u, u = tanh(softplus x): u + x·(1 − u²)·σ(x)."""
    t = op.tape
    u = t.unary("Tanh", t.unary("Softplus", op.x))
    slope = t.mul(t.sub(1.0, t.mul(u, u)), t.unary("Sigmoid", op.x))
    return (t.mul(g, t.add(u, t.mul(op.x, slope))),)


@gradient("Swish")
def swish(op: Op, g: str) -> Gradients:
    """y = x·s, s = σ(αx): s + α·y·(1 − s)."""
    t = op.tape
    alpha = op.attribute("alpha", 1.0)
    s = t.unary("Sigmoid", t.mul(op.x, alpha))
    return (t.mul(g, t.add(s, t.mul(t.mul(op.y, t.sub(1.0, s)), alpha))),)


@gradient("Softmax")
def softmax(op: Op, g: str) -> Gradients:
    """y·(g − Σ g·y)."""
    t = op.tape
    axis = op.attribute("axis", -1) % op.rank()
    gy = t.mul(g, op.y)
    return (t.sub(gy, t.mul(op.y, t.reduce("ReduceSum", gy, [axis]))),)


@gradient("LogSoftmax")
def log_softmax(op: Op, g: str) -> Gradients:
    """g − eʸ·Σ g."""
    t = op.tape
    axis = op.attribute("axis", -1) % op.rank()
    return (t.sub(g, t.mul(t.unary("Exp", op.y), t.reduce("ReduceSum", g, [axis]))),)
