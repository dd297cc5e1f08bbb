"""Matrix products."""

from __future__ import annotations

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


@gradient("Gemm")
def gemm(op: Op, g: str) -> Gradients:
    """y = α·A′·B′ + β·C, where ′ transposes if the node says so."""
    t = op.tape
    a, b = op.input(0), op.input(1)
    ta, tb = op.attribute("transA", 0), op.attribute("transB", 0)
    alpha, beta = op.attribute("alpha", 1.0), op.attribute("beta", 1.0)
    da = db = dc = None
    if op.needs[0]:
        da = (
            t.op("Gemm", b, g, alpha=alpha, transA=tb, transB=1, like=a)
            if ta
            else t.op("Gemm", g, b, alpha=alpha, transB=1 - tb, like=a)
        )
    if op.needs[1]:
        db = (
            t.op("Gemm", g, a, alpha=alpha, transA=1, transB=ta, like=b)
            if tb
            else t.op("Gemm", a, g, alpha=alpha, transA=1 - ta, like=b)
        )
    if len(op.inputs) > 2 and op.needs[2]:
        dc = t.sum_to(g, op.inputs[2])
        dc = dc if beta == 1 else t.mul(dc, beta)
    return (da, db, dc)[: len(op.inputs)]


@gradient("MatMul")
def matmul(op: Op, g: str) -> Gradients:
    t = op.tape
    a, b = op.inputs
    ra, rb = t.rank(a), t.rank(b)
    if ra is None or rb is None:
        raise op.error("an operand has an unknown rank; export with fixed ranks")
    if ra == 1 or rb == 1:
        return _with_vector(op, g, ra, rb)
    if rb == 2:
        # One product over all leading axes.
        return (
            t.op("MatMul", g, t.transpose(b, (1, 0)), like=a) if op.needs[0] else None,
            _flat_product(op, a, g) if op.needs[1] else None,
        )
    return (
        t.sum_to(_product(op, g, _turned(op, b, rb)), a) if op.needs[0] else None,
        t.sum_to(_product(op, _turned(op, a, ra), g), b) if op.needs[1] else None,
    )


def _turned(op: Op, x: str, rank: int) -> str:
    return op.tape.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


def _product(op: Op, a: str, b: str) -> str:
    t = op.tape
    out = t.op("MatMul", a, b)
    sa, sb = t.shapes.get(a), t.shapes.get(b)
    if sa is not None and sb is not None:
        lead = sa[:-2] if len(sa) >= len(sb) else sb[:-2]
        other = sb[:-2] if len(sa) >= len(sb) else sa[:-2]
        wide = (1,) * (len(lead) - len(other)) + tuple(other)
        batch = [x if y in (1, x) else y if x == 1 else None for x, y in zip(lead, wide, strict=True)]
        t.shapes[out] = (*batch, sa[-2], sb[-1])
    return out


def _flat_product(op: Op, a: str, g: str) -> str:
    """aᵀ·g with the leading axes of both run together."""
    t = op.tape
    shapes = [t.shapes.get(v) for v in (a, g)]
    if len(shapes[0] or ()) > 2 or len(shapes[1] or ()) > 2:
        a, g = (t.reshape(v, (-1, _last(op, v))) for v in (a, g))
    return t.op("Gemm", a, g, transA=1, like=op.inputs[1])


def _last(op: Op, v: str) -> int | str:
    d = op.tape.shapes[v][-1]
    return d if isinstance(d, int) else op.tape.dim(v, len(op.tape.shapes[v]) - 1)


def _with_vector(op: Op, g: str, ra: int, rb: int) -> Gradients:
    """A vector operand is a row (on the left) or a column (on the right) whose axis is gone from y."""
    t = op.tape
    a, b = op.inputs
    wide_a = t.unsqueeze(a, [0]) if ra == 1 else a
    wide_b = t.unsqueeze(b, [1]) if rb == 1 else b
    rank = max(ra, rb, 2)
    gone = ([rank - 2] if ra == 1 else []) + ([rank - 1] if rb == 1 else [])
    wide_g = t.unsqueeze(g, gone)
    da = _product(op, wide_g, _turned(op, wide_b, max(rb, 2))) if op.needs[0] else None
    db = _product(op, _turned(op, wide_a, max(ra, 2)), wide_g) if op.needs[1] else None
    return (
        None if da is None else t.reshape_like(t.sum_to(da, wide_a), a),
        None if db is None else t.reshape_like(t.sum_to(db, wide_b), b),
    )


@gradient("Einsum")
def einsum(op: Op, g: str) -> Gradients:
    """The same product with the output's gradient in an operand's place; axes that only it has are repeated."""
    t = op.tape
    terms, out = _terms(op)
    grads: list[str | None] = []
    for i, (x, need) in enumerate(zip(op.inputs, op.needs, strict=True)):
        if not need:
            grads.append(None)
            continue
        others = [j for j in range(len(terms)) if j != i]
        known = set(out).union(*(terms[j] for j in others))
        kept = "".join(a for a in terms[i] if a in known)
        equation = ",".join([out, *(terms[j] for j in others)]) + "->" + kept
        e = t.op("Einsum", g, *(op.inputs[j] for j in others), equation=equation)
        t.types[e] = t.types[x]
        own = [n for n, a in enumerate(terms[i]) if a not in known]
        if own:
            # Their size counts; a product over the axis sums equal terms.
            e = t.expand_like(t.op("Unsqueeze", e, t.ints(*own)), x)
        elif "." in op.attribute("equation"):
            e = t.sum_to(e, x)
        elif x in t.shapes:
            t.shapes[e] = t.shapes[x]
        grads.append(e)
    return grads


def _terms(op: Op) -> tuple[list[str], str]:
    """Letters of the axes of every operand and of the output, with ``...`` written out."""
    equation = op.attribute("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    free = [chr(c) for c in (*range(65, 91), *range(97, 123)) if chr(c) not in equation]
    most = 0
    for i, term in enumerate(terms):
        if "..." in term:
            rank = op.tape.rank(op.inputs[i])
            if rank is None:
                raise op.error(f"operand {i} has an unknown rank; export with fixed ranks")
            n = rank - len(term.replace("...", ""))
            most = max(most, n)
            terms[i] = term.replace("...", "".join(free[:n][::-1]))
    dots = "".join(free[:most][::-1])
    if arrow:
        out = right.replace("...", dots)
    else:
        letters = "".join(terms)
        out = dots + "".join(sorted(a for a in set(letters) - set(dots) if letters.count(a) == 1))
    for term in (*terms, out):
        if len(set(term)) < len(term):
            raise op.error(f"equation {equation!r} takes a diagonal, which has no gradient here")
    return terms, out
