"""Sums, products, powers and their kin, with NumPy's broadcasting."""

from __future__ import annotations

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


@gradient("Identity")
def identity(op: Op, g: str) -> Gradients:
    return (g,)


@gradient("Cast")
def cast(op: Op, g: str) -> Gradients:
    """Back in the input's own type."""
    return (op.tape.cast(g, op.tape.types[op.x]),)


@gradient("Add")
def add(op: Op, g: str) -> Gradients:
    return [op.tape.sum_to(g, i) if need else None for i, need in zip(op.inputs, op.needs, strict=True)]


@gradient("Sum", "Mean")
def sum_all(op: Op, g: str) -> Gradients:
    share = op.tape.mul(g, 1 / len(op.inputs)) if op.proto.op_type == "Mean" else g
    return [op.tape.sum_to(share, i) if need else None for i, need in zip(op.inputs, op.needs, strict=True)]


@gradient("Sub")
def sub(op: Op, g: str) -> Gradients:
    a, b = op.inputs
    return (
        op.tape.sum_to(g, a) if op.needs[0] else None,
        op.tape.unary("Neg", op.tape.sum_to(g, b)) if op.needs[1] else None,
    )


@gradient("Mul")
def mul(op: Op, g: str) -> Gradients:
    a, b = op.inputs
    return (
        op.tape.sum_to(op.tape.mul(g, b), a) if op.needs[0] else None,
        op.tape.sum_to(op.tape.mul(g, a), b) if op.needs[1] else None,
    )


@gradient("Div")
def div(op: Op, g: str) -> Gradients:
    """d(a/b) = da/b − (a/b)·db/b."""
    a, b = op.inputs
    da = op.tape.div(g, b)
    return (
        op.tape.sum_to(da, a) if op.needs[0] else None,
        op.tape.unary("Neg", op.tape.sum_to(op.tape.mul(da, op.y), b)) if op.needs[1] else None,
    )


@gradient("Pow")
def power(op: Op, g: str) -> Gradients:
    """d(aᵇ) = b·aᵇ⁻¹ da; only a constant exponent, as aᵇ·ln a is no number where a is negative."""
    a, b = op.inputs
    if op.needs[1]:
        raise op.error("the exponent depends on a parameter; expected a constant exponent")
    exponent = op.tape.constants.get(b)
    if exponent is not None and exponent.size == 1:
        k = float(exponent.reshape(()))
        lower = a if k == 2 else op.tape.op("Pow", a, op.tape.scalar(k - 1, a), like=a)
        return op.tape.mul(g, op.tape.mul(lower, k)), None
    wide = op.tape.cast(b, op.tape.types[a])
    lower = op.tape.op("Pow", a, op.tape.sub(wide, 1.0), like=op.y)
    return op.tape.sum_to(op.tape.mul(g, op.tape.mul(lower, wide)), a), None


@gradient("Neg")
def neg(op: Op, g: str) -> Gradients:
    return (op.tape.unary("Neg", g),)


@gradient("Abs")
def absolute(op: Op, g: str) -> Gradients:
    return (op.tape.mul(g, op.tape.unary("Sign", op.x)),)


@gradient("Sqrt")
def sqrt(op: Op, g: str) -> Gradients:
    return (op.tape.div(op.tape.mul(g, 0.5), op.y),)


@gradient("Reciprocal")
def reciprocal(op: Op, g: str) -> Gradients:
    return (op.tape.unary("Neg", op.tape.mul(g, op.tape.mul(op.y, op.y))),)


@gradient("Exp")
def exp(op: Op, g: str) -> Gradients:
    return (op.tape.mul(g, op.y),)


@gradient("Log")
def log(op: Op, g: str) -> Gradients:
    return (op.tape.div(g, op.x),)


@gradient("Sin")
def sin(op: Op, g: str) -> Gradients:
    return (op.tape.mul(g, op.tape.unary("Cos", op.x)),)


@gradient("Cos")
def cos(op: Op, g: str) -> Gradients:
    return (op.tape.unary("Neg", op.tape.mul(g, op.tape.unary("Sin", op.x))),)


@gradient("Where")
def where(op: Op, g: str) -> Gradients:
    mask, a, b = op.inputs
    t = op.tape
    return (
        None,
        t.sum_to(t.where(mask, g, 0.0), a) if op.needs[1] else None,
        t.sum_to(t.where(mask, 0.0, g), b) if op.needs[2] else None,
    )


@gradient("Max", "Min")
def extreme(op: Op, g: str) -> Gradients:
    """Two inputs: to the one that is taken, half to each where they are equal, as PyTorch does."""
    if len(op.inputs) == 1:
        return (g,)
    if len(op.inputs) > 2:
        raise op.error("expected two inputs; take the extreme of two at a time")
    t = op.tape
    a, b = op.inputs
    taken = "Greater" if op.proto.op_type == "Max" else "Less"
    same = t.where(t.compare("Equal", a, b), 0.5, t.scalar(0.0, g))
    first = t.add(t.cast(t.compare(taken, a, b), t.types[op.y]), same)
    return (
        t.sum_to(t.mul(g, first), a) if op.needs[0] else None,
        t.sum_to(t.mul(g, t.sub(1.0, first)), b) if op.needs[1] else None,
    )
