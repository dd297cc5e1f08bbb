"""IR nodes as ONNX nodes: one operator at a time.

`OPERATORS` and `SHAPED` are the only places where an IR operator meets an ONNX operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport.ir import ARRAY, FLOAT32, TENSOR, Program
from optexport.ir.ops import OPS
from optexport.ir.program import Node

__all__ = [
    "NUMPY",
    "OPERATORS",
    "SHAPED",
    "Body",
    "compute_type",
    "lower",
    "rounded",
    "type_of",
    "value",
    "wanted",
]

# IR operator -> ONNX operators, applied one after the other. Reductions see their tensor in double and
# keep no axis. (ReduceL2 of doubles is wrong from the eighth digit on in ONNX Runtime 1.19.)
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "add": ("Add",),
    "sub": ("Sub",),
    "mul": ("Mul",),
    "div": ("Div",),
    "neg": ("Neg",),
    "pow": ("Pow",),
    "sqrt": ("Sqrt",),
    "exp": ("Exp",),
    "log": ("Log",),
    "abs": ("Abs",),
    "sign": ("Sign",),
    "min": ("Min",),
    "max": ("Max",),
    "eq": ("Equal",),
    "lt": ("Less",),
    "le": ("LessOrEqual",),
    "where": ("Where",),
    "sum": ("ReduceSum",),
    "mean": ("ReduceMean",),
    "norm": ("ReduceSumSquare", "Sqrt"),
    "cast": ("Cast",),
    "floor": ("Floor",),
    "matmul": ("MatMul",),
}


NUMPY: Mapping[int, type[np.floating[Any]]] = {T.FLOAT: np.float32, T.DOUBLE: np.float64}


# body, operands, node, ONNX type of the result, a name for it, the parameter -> the result's name
Lowering = Callable[["Body", list[str], Node, int, str, str], str]


def compute_type(dtype: int) -> int:
    """The ONNX type of the arithmetic on tensors of ``dtype``: float32 for the half types.

    ONNX Runtime's CPU kernels have neither float16 nor bfloat16 arithmetic, so such tensors are
    widened at the border of the update and rounded once, on their way out.
    """
    return T.DOUBLE if dtype == T.DOUBLE else T.FLOAT


@dataclass
class Body:
    """Nodes of a function under construction; values by (IR node, ONNX type)."""

    taken: set[str]
    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: dict[tuple[int, int], str] = field(default_factory=dict)

    def name(self, hint: str) -> str:
        hint = self.prefix + hint.removeprefix(self.prefix)
        name, n = hint, 1
        while name in self.taken:
            n += 1
            name = f"{hint}_{n}"
        self.taken.add(name)
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, value: float, kind: int, hint: str) -> str:
        tensor = numpy_helper.from_array(np.array(value, NUMPY[kind]))
        return self.add("Constant", (), self.name(hint), value=tensor)


def wanted(program: Program, node: Node, compute: int) -> list[int]:
    """The ONNX type in which ``node`` needs each operand, as the referee rounds them."""
    if node.op == "cast":
        return [type_of(program.nodes[node.args[0]], compute)]
    if node.op in ("sum", "mean", "norm", "group_sum"):
        return [T.DOUBLE]
    args = [program.nodes[a] for a in node.args]
    real = compute if any(a.type.is_tensor for a in args) else T.FLOAT if node.type is FLOAT32 else T.DOUBLE
    return [T.BOOL if a.type.is_truth else real for a in args]


def type_of(node: Node, compute: int) -> int:
    """The ONNX type of a node's own value."""
    if node.type.is_truth:
        return T.BOOL
    return compute if node.type in (TENSOR, ARRAY) else T.FLOAT if node.type is FLOAT32 else T.DOUBLE


def rounded(node: Node) -> float:
    return float(np.float32(node.attr)) if node.type is FLOAT32 else float(node.attr)  # type: ignore[arg-type]


def value(body: Body, program: Program, i: int, kind: int) -> str:
    """Name of node ``i``'s value in an ONNX type, cast or made where it is not there yet."""
    if (i, kind) not in body.values:
        node = program.nodes[i]
        if node.op == "const":
            body.values[i, kind] = body.constant(rounded(node), kind, f"{float(node.attr):g}")  # type: ignore[arg-type]
        else:
            name = next(v for (j, _), v in body.values.items() if j == i)
            suffix = NUMPY[kind].__name__
            body.values[i, kind] = body.add("Cast", (name,), body.name(f"{name}.{suffix}"), to=kind)
    return body.values[i, kind]


def lower(body: Body, program: Program, i: int, compute: int, hint: str, param: str = "param") -> None:
    """Add the ONNX nodes of IR node ``i``; ``param`` names the parameter, whose shape some need."""
    node = program.nodes[i]
    operands = [
        value(body, program, a, kind)
        for a, kind in zip(node.args, wanted(program, node, compute), strict=True)
    ]
    own = type_of(node, compute)
    attributes: dict[str, Any] = {}
    if node.op in SHAPED:
        body.values[i, own] = SHAPED[node.op](body, operands, node, own, hint, param)
        return
    if OPS[node.op].result == "scalar":
        attributes["keepdims"] = 0
    elif node.op == "cast":
        attributes["to"] = own
    *before, last = OPERATORS[node.op]
    for op in before:
        operands = [body.add(op, operands, body.name(f"{hint}.{op}"), **attributes)]
        attributes = {}
    body.values[i, own] = body.add(last, operands, body.name(hint), **attributes)


def _whole(body: Body, numbers: Sequence[int]) -> str:
    tensor = numpy_helper.from_array(np.array(numbers, np.int64))
    return body.add("Constant", (), body.name("at"), value=tensor)


def _along(op: str) -> Lowering:
    def make(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
        axes = _whole(body, [int(str(node.attr))])
        return body.add(op, (*x, axes), body.name(hint), keepdims=1)

    return make


def _transpose(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    # Matrix rules are for parameters of rank 2.
    return body.add("Transpose", x, body.name(hint), perm=[1, 0])


def _expand(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    shape = body.add("Shape", (param,), body.name("shape"))
    return body.add("Expand", (*x, shape), body.name(hint))


def _item(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    index = body.add(
        "Constant",
        (),
        body.name("at"),
        value=numpy_helper.from_array(np.array(int(str(node.attr)), np.int64)),
    )
    return body.add("Gather", (*x, index), body.name(hint), axis=0)


def _push(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    zero, one = _whole(body, [0]), _whole(body, [1])
    kept = body.add("Slice", (x[0], one, _whole(body, [1 << 31]), zero), body.name(f"{hint}.kept"))
    added = body.add("Unsqueeze", (x[1], zero), body.name(f"{hint}.added"))
    return body.add("Concat", (kept, added), body.name(hint), axis=0)


def _size(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    if node.attr == "all":
        count = body.add("Size", x, body.name(f"{hint}.count"))
    else:
        shape = body.add("Shape", x, body.name(f"{hint}.shape"))
        index = np.array(int(str(node.attr)), np.int64)
        at = body.add("Constant", (), body.name("at"), value=numpy_helper.from_array(index))
        count = body.add("Gather", (shape, at), body.name(f"{hint}.count"), axis=0)
    return body.add("Cast", (count,), body.name(hint), to=kind)


def _rounded(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    narrow = {"bfloat16": T.BFLOAT16, "float16": T.FLOAT16, "float32": T.FLOAT}[str(node.attr)]
    if narrow == kind:
        return x[0]
    small = body.add("Cast", x, body.name(f"{hint}.{node.attr}"), to=narrow)
    return body.add("Cast", (small,), body.name(hint), to=kind)


def _mean_rest(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    # The rank is known where the graph runs. Without axes the reduction is the operand itself, and 0 is wanted.
    rank = body.add("Size", (body.add("Shape", x, body.name("shape")),), body.name("rank"))
    one = body.add("Constant", (), body.name("at"), value=numpy_helper.from_array(np.array(1, np.int64)))
    axes = body.add("Range", (one, rank, one), body.name("axes"))
    mean = body.add("ReduceMean", (*x, axes), body.name(f"{hint}.mean"), keepdims=1, noop_with_empty_axes=1)
    has = body.add("Greater", (rank, one), body.name("has_rest"))
    return body.add("Where", (has, mean, body.constant(0.0, kind, "zero")), body.name(hint))


def _cos(body: Body, x: list[str], node: Node, kind: int, hint: str, param: str) -> str:
    if kind == T.FLOAT:
        return body.add("Cos", x, body.name(hint))
    # ONNX Runtime has no Cos of doubles: cos x = sin(x + π/2).
    shifted = body.add(
        "Add", (*x, body.constant(np.pi / 2, kind, "quarter_turn")), body.name(f"{hint}.angle")
    )
    return body.add("Sin", (shifted,), body.name(hint))


# IR operators that are more than one ONNX operator after another: they need an axis, an index, a shape.
SHAPED: Mapping[str, Lowering] = {
    "sum_axis": _along("ReduceSum"),
    "mean_axis": _along("ReduceMean"),
    "max_axis": _along("ReduceMax"),
    "transpose": _transpose,
    "expand": _expand,
    "item": _item,
    "push": _push,
    "size": _size,
    "rounded": _rounded,
    "mean_rest": _mean_rest,
    "cos": _cos,
}
