"""Normalisation by the statistics of the input itself."""

from __future__ import annotations

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


@gradient("LayerNormalization")
def layer_normalization(op: Op, g: str) -> Gradients:
    """x̂ = (x − m)·r; dx = r·(gγ − mean(gγ) − x̂·mean(gγ·x̂)); the node is asked for m and r."""
    t = op.tape
    x, scale = op.input(0), op.input(1)
    rank = op.rank()
    axis = op.attribute("axis", -1) % rank
    axes = list(range(axis, rank))
    m, r = op.output(1), op.output(2)
    for name in (m, r):
        t.types[name] = t.types[x]
        t.shapes[name] = (*t.shapes[x][:axis], *(1 for _ in axes))
    xhat = t.mul(t.sub(x, m), r)
    gw = t.mul(g, scale)
    dx = None
    if op.needs[0]:
        inner = t.sub(
            t.sub(gw, t.reduce("ReduceMean", gw, axes)),
            t.mul(xhat, t.reduce("ReduceMean", t.mul(gw, xhat), axes)),
        )
        dx = t.mul(inner, r)
    dscale = t.sum_to(t.mul(g, xhat), scale) if op.needs[1] else None
    dbias = t.sum_to(g, op.inputs[2]) if len(op.inputs) > 2 and op.needs[2] else None
    return (dx, dscale, dbias)[: len(op.inputs)]


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
