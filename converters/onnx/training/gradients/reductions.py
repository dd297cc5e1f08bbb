"""Sums, means and extremes over axes."""

from __future__ import annotations

import numpy as np

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


def _axes(op: Op) -> list[int] | None:
    """Axes from 0 on; None where all are reduced. An empty list means all, or none if the node says so."""
    given = op.attribute("axes")
    if given is None and op.input(1):
        given = op.constant(1)
    axes = [int(a) % op.rank() for a in np.atleast_1d(given)] if given is not None else []
    if axes:
        return sorted(axes)
    return [] if op.attribute("noop_with_empty_axes", 0) else None


def _wide(op: Op, v: str, axes: list[int] | None) -> str:
    """A reduced value with its axes back as 1."""
    if op.attribute("keepdims", 1):
        return v
    return op.tape.unsqueeze(v, list(range(op.rank())) if axes is None else axes)


def _count(op: Op, axes: list[int] | None) -> str | float:
    t = op.tape
    over = range(op.rank()) if axes is None else axes
    dims = [t.shapes[op.x][a] for a in over]
    if all(isinstance(d, int) for d in dims):
        return float(np.prod([int(d or 0) for d in dims]))
    picked = t.op("Gather", t.shape_of(op.x), t.ints(*over), axis=0)
    n = t.op("ReduceProd", picked, keepdims=0)
    t.types[n], t.shapes[n] = 7, ()
    return t.cast(n, t.types[op.x])


def _rest(op: Op) -> tuple[None, ...]:
    return tuple(None for _ in op.inputs[1:])


def _composed(op: Op) -> list[int] | None:
    """Axes of a reduction that also changes single elements: what it does over none is not agreed on."""
    axes = _axes(op)
    if axes == []:
        raise op.error("reduces no axis (noop_with_empty_axes), expected at least one; leave the node out")
    return axes


@gradient("ReduceSum", "ReduceMean")
def reduce_sum(op: Op, g: str) -> Gradients:
    axes = _axes(op)
    if axes == []:
        return (g, *_rest(op))
    if op.proto.op_type == "ReduceMean":
        g = op.tape.div(g, _count(op, axes))
    return (op.tape.expand_like(_wide(op, g, axes), op.x), *_rest(op))


@gradient("ReduceSumSquare")
def reduce_sum_square(op: Op, g: str) -> Gradients:
    return (op.tape.mul(op.tape.mul(op.x, 2.0), _wide(op, g, _composed(op))), *_rest(op))


@gradient("ReduceL1")
def reduce_l1(op: Op, g: str) -> Gradients:
    return (op.tape.mul(op.tape.unary("Sign", op.x), _wide(op, g, _composed(op))), *_rest(op))


@gradient("ReduceProd")
def reduce_prod(op: Op, g: str) -> Gradients:
    """The product of the others: y/x, and where one element is 0, that one's alone."""
    t = op.tape
    axes = _axes(op)
    if axes == []:
        return (g, *_rest(op))
    zero = t.compare("Equal", op.x, 0.0)
    safe = t.where(zero, 1.0, op.x)
    product = t.reduce("ReduceProd", safe, axes)
    zeros = t.reduce("ReduceSum", t.cast(zero, t.types[op.x]), axes)
    alone = t.where(t.compare("Equal", zeros, 1.0), product, 0.0)
    none = t.where(t.compare("Equal", zeros, 0.0), product, 0.0)
    others = t.where(zero, alone, t.div(none, safe))
    return (t.mul(others, _wide(op, g, axes)), *_rest(op))


@gradient("ReduceLogSum")
def reduce_log_sum(op: Op, g: str) -> Gradients:
    """1/Σx, which is e⁻ʸ."""
    t = op.tape
    axes = _composed(op)
    each = t.mul(_wide(op, g, axes), t.unary("Exp", t.unary("Neg", _wide(op, op.y, axes))))
    return (t.expand_like(each, op.x), *_rest(op))


@gradient("ReduceL2")
def reduce_l2(op: Op, g: str) -> Gradients:
    """x/‖x‖, and 0 where the norm is."""
    t = op.tape
    axes = _composed(op)
    norm = _wide(op, op.y, axes)
    safe = t.where(t.compare("Equal", norm, 0.0), 1.0, norm)
    return (t.mul(op.x, t.div(_wide(op, g, axes), safe)), *_rest(op))


@gradient("ReduceMax", "ReduceMin")
def reduce_extreme(op: Op, g: str) -> Gradients:
    """To the elements that are the extreme, in equal shares, as PyTorch's amax does."""
    t = op.tape
    axes = _axes(op)
    if axes == []:
        return (g, *_rest(op))
    hit = t.cast(t.compare("Equal", op.x, _wide(op, op.y, axes)), t.types[op.x])
    t.shapes[hit] = t.shapes[op.x]
    share = t.div(hit, t.reduce("ReduceSum", hit, axes))
    return (t.mul(share, _wide(op, g, axes)), *_rest(op))


@gradient("ReduceLogSumExp")
def reduce_log_sum_exp(op: Op, g: str) -> Gradients:
    t = op.tape
    axes = _composed(op)
    return (t.mul(t.unary("Exp", t.sub(op.x, _wide(op, op.y, axes))), _wide(op, g, axes)), *_rest(op))


@gradient("CumSum")
def cumsum(op: Op, g: str) -> Gradients:
    """The cumulative sum from the other end."""
    out = op.tape.op(
        "CumSum",
        g,
        op.inputs[1],
        reverse=1 - op.attribute("reverse", 0),
        exclusive=op.attribute("exclusive", 0),
        like=op.x,
    )
    return out, None
