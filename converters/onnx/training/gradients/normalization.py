"""Normalisation by the statistics of the input itself."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto as T

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


def _statistics(op: Op, x: str, axes: list[int]) -> tuple[str, str]:
    """Mean and 1/√(variance + ε) over axes, which are kept as 1."""
    t = op.tape
    m = t.reduce("ReduceMean", x, axes)
    centred = t.sub(x, m)
    v = t.reduce("ReduceMean", t.mul(centred, centred), axes)
    return m, t.unary("Reciprocal", t.unary("Sqrt", t.add(v, op.attribute("epsilon", 1e-5))))


def _through(op: Op, gw: str, xhat: str, r: str, axes: list[int]) -> str:
    """x̂ = (x − m)·r: dx = r·(gw − mean(gw) − x̂·mean(gw·x̂)), gw the gradient of x̂."""
    t = op.tape
    spread = t.mul(xhat, t.reduce("ReduceMean", t.mul(gw, xhat), axes))
    return t.mul(t.sub(t.sub(gw, t.reduce("ReduceMean", gw, axes)), spread), r)


@gradient("LayerNormalization")
def layer_normalization(op: Op, g: str) -> Gradients:
    """In float32 the node is asked for its mean and deviation; 16-bit types are widened to float32, as it does."""
    t = op.tape
    x, scale = op.input(0), op.input(1)
    rank, own = op.rank(), t.types[op.x]
    axis = op.attribute("axis", -1) % rank
    axes = list(range(axis, rank))
    if own == T.FLOAT:
        m, r = op.output(1), op.output(2)
        for name in (m, r):
            t.types[name] = own
            t.shapes[name] = (*t.shapes[x][:axis], *(1 for _ in axes))
    else:
        stash = T.DOUBLE if own == T.DOUBLE else T.FLOAT
        x, scale, g = (t.cast(v, stash) for v in (x, scale, g))
        m, r = _statistics(op, x, axes)
    xhat = t.mul(t.sub(x, m), r)
    dx = t.cast(_through(op, t.mul(g, scale), xhat, r, axes), own) if op.needs[0] else None
    dscale = t.cast(t.sum_to(t.mul(g, xhat), scale), own) if op.needs[1] else None
    dbias = t.cast(t.sum_to(g, op.inputs[2]), own) if len(op.inputs) > 2 and op.needs[2] else None
    return (dx, dscale, dbias)[: len(op.inputs)]


@gradient("InstanceNormalization")
def instance_normalization(op: Op, g: str) -> Gradients:
    t = op.tape
    x, scale, bias = op.inputs
    rank = op.rank()
    axes = list(range(2, rank))
    m, r = _statistics(op, x, axes)
    xhat = t.mul(t.sub(x, m), r)
    column = (-1, *(1 for _ in axes))
    over = [0, *axes]
    dx = _through(op, t.mul(g, t.reshape(scale, column)), xhat, r, axes) if op.needs[0] else None
    dscale = t.reshape_like(t.reduce("ReduceSum", t.mul(g, xhat), over), scale) if op.needs[1] else None
    dbias = t.reshape_like(t.reduce("ReduceSum", g, over), bias) if op.needs[2] else None
    return dx, dscale, dbias


@gradient("LpNormalization")
def lp_normalization(op: Op, g: str) -> Gradients:
    """y = x/n: (g − n′·Σ(g·y))/n, where n′ is y for the 2-norm and the sign for the 1-norm; 0 where n is."""
    t = op.tape
    axis = op.attribute("axis", -1) % op.rank()
    p = op.attribute("p", 2)
    n = t.reduce("ReduceL2" if p == 2 else "ReduceL1", op.x, [axis])
    slope = op.y if p == 2 else t.unary("Sign", op.x)
    inner = t.sub(g, t.mul(slope, t.reduce("ReduceSum", t.mul(g, op.y), [axis])))
    zero = t.compare("Equal", n, 0.0)
    return (t.where(zero, 0.0, t.div(inner, t.where(zero, 1.0, n))),)


@gradient("LRN")
def local_response(op: Op, g: str) -> Gradients:
    """y = x·s⁻ᵝ, s = k + α/n·Σ x² over a window of n channels; the window is a band of ones between channels."""
    t = op.tape
    channels = t.shapes[op.x][1] if op.shape() else None
    if not isinstance(channels, int):
        raise op.error("its channels are not known; expected a number")
    n, beta = op.attribute("size"), op.attribute("beta", 0.75)
    alpha, bias = op.attribute("alpha", 1e-4) / n, op.attribute("bias", 1.0)
    away = np.arange(channels)[None] - np.arange(channels)[:, None]
    band = t.constant(((away >= -((n - 1) // 2)) & (away <= n // 2)).astype(t.dtype(g)), "band")

    def flat(v: str) -> str:
        return t.op("Reshape", v, t.ints(0, channels, -1), like=None)

    x, g = flat(op.x), flat(g)
    s = t.add(t.mul(t.op("MatMul", band, t.mul(x, x)), alpha), bias)
    part = t.mul(g, t.op("Pow", s, t.scalar(-beta, s)))
    back = t.op("MatMul", t.transpose(band, (1, 0)), t.div(t.mul(part, x), s))
    return (t.reshape_like(t.sub(part, t.mul(t.mul(back, x), 2 * alpha * beta)), op.x),)


@gradient("BatchNormalization")
def batch_normalization(op: Op, g: str) -> Gradients:
    """In inference mode: the running statistics are constants, y = γ(x − μ)/√(σ² + ε) + β."""
    if op.attribute("training_mode", 0):
        raise op.error("training mode is written in plain operators before; say batch_norm='train'")
    t = op.tape
    x, scale, bias, mean, var = op.inputs
    rank = op.rank()
    axes = [0, *range(2, rank)]
    column = (-1, *(1 for _ in range(rank - 2)))
    r = t.unary("Reciprocal", t.unary("Sqrt", t.add(var, op.attribute("epsilon", 1e-5))))
    wide_r = t.reshape(r, column)
    dx = t.mul(g, t.mul(t.reshape(scale, column), wide_r)) if op.needs[0] else None
    dscale = dbias = None
    if op.needs[1]:
        xhat = t.mul(t.sub(x, t.reshape(mean, column)), wide_r)
        dscale = t.reshape_like(t.reduce("ReduceSum", t.mul(g, xhat), axes), scale)
    if op.needs[2]:
        dbias = t.reshape_like(t.reduce("ReduceSum", g, axes), bias)
    return dx, dscale, dbias, None, None
