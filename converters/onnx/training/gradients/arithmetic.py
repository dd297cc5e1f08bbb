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
    """d(aᵇ) = b·aᵇ⁻¹ da + aᵇ·ln a db; a power of 0 does not move with its base, nor 0ᵇ with b, as in PyTorch."""
    t = op.tape
    a, b = op.inputs
    exponent = t.constants.get(b)
    if exponent is not None and exponent.size == 1:
        k = float(exponent.reshape(()))
        if k == 0:
            return t.expand_like(t.scalar(0.0, a), a), None
        lower = a if k == 2 else t.op("Pow", a, t.scalar(k - 1, a), like=a)
        return t.sum_to(t.mul(g, t.mul(lower, k)), a), None
    wide = t.cast(b, t.types[a])
    da = db = None
    if op.needs[0]:
        zero = t.compare("Equal", wide, 0.0)
        lower = t.op("Pow", a, t.where(zero, 1.0, t.sub(wide, 1.0)), like=op.y)
        da = t.sum_to(t.mul(g, t.mul(lower, wide)), a)
    if op.needs[1]:
        ground = t.compare("Equal", a, 0.0)
        slope = t.mul(op.y, t.unary("Log", t.where(ground, 1.0, a)))
        db = t.sum_to(t.cast(t.mul(g, slope), t.types[b]), b)
    return da, db


@gradient("Mod")
def modulo(op: Op, g: str) -> Gradients:
    """The remainder of a division that is cut off, a − b·trunc(a/b): a whole number of times b."""
    t = op.tape
    a, b = op.inputs
    if not op.attribute("fmod", 0):
        raise op.error("expected fmod=1, the remainder of real numbers")
    times = t.unary("Round", t.div(t.sub(a, op.y), b))
    return (
        t.sum_to(g, a) if op.needs[0] else None,
        t.unary("Neg", t.sum_to(t.mul(g, times), b)) if op.needs[1] else None,
    )


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


@gradient("Tan")
def tan(op: Op, g: str) -> Gradients:
    """1 + tan²x"""
    return (op.tape.mul(g, op.tape.add(op.tape.mul(op.y, op.y), 1.0)),)


@gradient("Sinh")
def sinh(op: Op, g: str) -> Gradients:
    return (op.tape.mul(g, op.tape.unary("Cosh", op.x)),)


@gradient("Cosh")
def cosh(op: Op, g: str) -> Gradients:
    return (op.tape.mul(g, op.tape.unary("Sinh", op.x)),)


@gradient("Asin", "Acos")
def asin(op: Op, g: str) -> Gradients:
    """±1/√(1 − x²), as (1 − x)(1 + x), which loses nothing near 1."""
    t = op.tape
    root = t.unary("Sqrt", t.mul(t.sub(1.0, op.x), t.add(1.0, op.x)))
    slope = t.div(g, root)
    return (slope if op.proto.op_type == "Asin" else t.unary("Neg", slope),)


@gradient("Atan")
def atan(op: Op, g: str) -> Gradients:
    """1/(1 + x²)"""
    return (op.tape.div(g, op.tape.add(op.tape.mul(op.x, op.x), 1.0)),)


@gradient("Asinh")
def asinh(op: Op, g: str) -> Gradients:
    """1/√(x² + 1)"""
    t = op.tape
    return (t.div(g, t.unary("Sqrt", t.add(t.mul(op.x, op.x), 1.0))),)


@gradient("Acosh")
def acosh(op: Op, g: str) -> Gradients:
    """1/√(x² − 1)"""
    t = op.tape
    return (t.div(g, t.unary("Sqrt", t.mul(t.sub(op.x, 1.0), t.add(op.x, 1.0)))),)


@gradient("Atanh")
def atanh(op: Op, g: str) -> Gradients:
    """1/(1 − x²)"""
    t = op.tape
    return (t.div(g, t.mul(t.sub(1.0, op.x), t.add(1.0, op.x))),)


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
    """To the input that is taken, in equal shares where several are, as PyTorch does for two."""
    t = op.tape
    if len(op.inputs) == 1:
        return (g,)
    taken = [t.cast(t.compare("Equal", op.y, i), t.types[op.y]) for i in op.inputs]
    count = taken[0]
    for mask in taken[1:]:
        count = t.add(count, mask)
    share = t.div(g, count)
    return [
        t.sum_to(t.mul(share, mask), i) if need else None
        for i, mask, need in zip(op.inputs, taken, op.needs, strict=True)
    ]
