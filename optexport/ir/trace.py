"""Tracing: a rule is a Python function on symbolic values, run once.

    r = Tracer()
    w, g, lr = r.param, r.grad, r.hyper("lr")
    program = r.finish(param=w - lr * g)

Python numbers become constants. Python's ``if`` on a `Value` is an error (use `where`): a static
choice is made on the rule's options, never on a traced value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Union

from ..errors import RuleError
from .check import check, check_nodes
from .ops import OPS
from .program import Input, Node, Program, Role
from .types import ARRAY, BOOL, FLOAT64, MASK, TENSOR, Type, join

__all__ = [
    "Tracer",
    "Value",
    "absolute",
    "cast",
    "cos",
    "exp",
    "expand",
    "floor",
    "group_sum",
    "item",
    "log",
    "matmul",
    "max_axis",
    "maximum",
    "mean",
    "mean_axis",
    "mean_rest",
    "minimum",
    "norm",
    "push",
    "rounded",
    "sign",
    "size",
    "sqrt",
    "total",
    "total_axis",
    "transpose",
    "where",
]

Operand = Union["Value", float, int]
_HERE = __file__


def _caller() -> str:
    """``file:line`` of the innermost frame outside this module: the line of the rule."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == _HERE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"


class Value:
    """A symbolic value; arithmetic and comparisons record nodes."""

    __slots__ = ("index", "tracer")

    def __init__(self, tracer: Tracer, index: int) -> None:
        self.tracer, self.index = tracer, index

    @property
    def type(self) -> Type:
        return self.tracer.nodes[self.index].type

    def __bool__(self) -> bool:
        raise RuleError(
            f"{_caller()}: a traced value has no truth value; expected a static option, found a "
            f"{self.type.value}; use where(condition, a, b)"
        )

    def __add__(self, other: Operand) -> Value:
        return _apply("add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return _apply("add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return _apply("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _apply("sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return _apply("mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return _apply("mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return _apply("div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return _apply("div", other, self)

    def __pow__(self, other: Operand) -> Value:
        return _apply("pow", self, other)

    def __neg__(self) -> Value:
        return _apply("neg", self)

    def __lt__(self, other: Operand) -> Value:
        return _apply("lt", self, other)

    def __le__(self, other: Operand) -> Value:
        return _apply("le", self, other)

    def __gt__(self, other: Operand) -> Value:
        return _apply("lt", other, self)

    def __ge__(self, other: Operand) -> Value:
        return _apply("le", other, self)

    def equals(self, other: Operand) -> Value:
        """``self = other`` as a traced condition (``==`` stays Python identity)."""
        return _apply("eq", self, other)


class Tracer:
    """Records nodes. One tracer makes one program."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Node, int] = {}

    def _add(self, node: Node) -> Value:
        index = self._known.get(node)
        if index is None:
            index = self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return Value(self, index)

    def _input(self, role: Role, name: str, type_: Type) -> Value:
        return self._add(Node("input", (), type_, Input(role, name), line=_caller()))

    @property
    def param(self) -> Value:
        """The parameter before the step (tensor)."""
        return self._input("param", "", TENSOR)

    @property
    def grad(self) -> Value:
        """The raw gradient (tensor)."""
        return self._input("grad", "", TENSOR)

    @property
    def step(self) -> Value:
        """Completed updates (scalar); the update in progress is number ``step + 1``."""
        return self._input("step", "", FLOAT64)

    def hyper(self, name: str) -> Value:
        """A hyperparameter (float64 scalar)."""
        return self._input("hyper", name, FLOAT64)

    def slot(self, name: str, type_: Type = TENSOR) -> Value:
        """A state tensor before the step; of type ARRAY or a scalar where the slot is one."""
        return self._input("slot", name, type_)

    @property
    def noise(self) -> Value:
        """Independent standard normal numbers (tensor)."""
        return self._input("noise", "", TENSOR)

    @property
    def hessian(self) -> Value:
        """The diagonal of the Hessian, or its product with a vector (tensor)."""
        return self._input("hessian", "", TENSOR)

    def const(self, value: float) -> Value:
        return self._add(Node("const", (), FLOAT64, float(value), line=_caller()))

    def value(self, x: Operand) -> Value:
        """``x`` as a `Value` of this tracer."""
        if isinstance(x, Value):
            if x.tracer is not self:
                raise RuleError(f"{_caller()}: a value of another rule; expected values of one tracer")
            return x
        return self.const(x)

    def let(self, label: str, x: Value) -> Value:
        """``x``, called ``label`` wherever the program is printed or emitted."""
        self.nodes[x.index] = replace(self.nodes[x.index], label=label)
        return x

    def finish(self, **outputs: Operand) -> Program:
        """The checked program that computes ``param`` and every slot named in ``outputs``."""
        return check(self._made(outputs))

    def program(self, outputs: Mapping[str, Operand]) -> Program:
        """The program of any outputs, scalars included (translations); nodes are checked."""
        return check_nodes(self._made(outputs))

    def _made(self, outputs: Mapping[str, Operand]) -> Program:
        named = {name: self.value(v).index for name, v in outputs.items()}
        return Program(tuple(self.nodes), named)


def _apply(name: str, *operands: Operand, attr: str | None = None) -> Value:
    op, line = OPS[name], _caller()
    tracer = next((x.tracer for x in operands if isinstance(x, Value)), None)
    if tracer is None:
        raise RuleError(f"{line}: {name} of plain numbers; expected at least one traced value")
    for x in operands:
        if not isinstance(x, Value | float | int) or isinstance(x, bool):
            raise RuleError(f"{line}: {name} of a {type(x).__name__}; expected a traced value or a number")
    values = [tracer.value(x) for x in operands]
    # Constants take the precision of what they meet: 1 − β is float32 where β is.
    types = [v.type for v, x in zip(values, operands, strict=True) if isinstance(x, Value)]
    if op.result == "truth":
        out = MASK if any(t.is_tensor for t in types) else BOOL
    elif op.result in ("scalar", "total"):
        out = FLOAT64
    elif op.result == "cast":
        out = Type(attr)
    elif op.result in ("array", "matrix"):
        out = ARRAY
    elif op.result == "tensor":
        out = TENSOR
    else:
        # A mask has the shape of the parameter.
        out = join([TENSOR if t is MASK else t for t in types if t is not BOOL])
    return tracer._add(Node(name, tuple(v.index for v in values), out, attr, line=line))


def _unary(name: str, doc: str) -> Callable[[Operand], Value]:
    def function(x: Operand) -> Value:
        return _apply(name, x)

    function.__doc__ = doc
    return function


sqrt = _unary("sqrt", "Square root, elementwise.")
exp = _unary("exp", "e to the power, elementwise.")
log = _unary("log", "Natural logarithm, elementwise.")
absolute = _unary("abs", "Absolute value, elementwise.")
sign = _unary("sign", "−1, 0 or 1, elementwise.")
floor = _unary("floor", "Largest whole number that is not above, elementwise.")
cos = _unary("cos", "Cosine, elementwise.")
total = _unary("sum", "Sum over a tensor: a float64 scalar.")
mean = _unary("mean", "Mean over a tensor: a float64 scalar.")
norm = _unary("norm", "L2 norm of a tensor: a float64 scalar.")


def minimum(a: Operand, b: Operand) -> Value:
    """Smaller of two, elementwise."""
    return _apply("min", a, b)


def maximum(a: Operand, b: Operand) -> Value:
    """Larger of two, elementwise."""
    return _apply("max", a, b)


def where(condition: Value, a: Operand, b: Operand) -> Value:
    """``a`` where the condition holds, else ``b``."""
    return _apply("where", condition, a, b)


def cast(x: Value, to: Type) -> Value:
    """A scalar rounded to ``to`` (float32 or float64)."""
    return _apply("cast", x, attr=to.value)


transpose = _unary("transpose", "The last two axes exchanged: an array.")
expand = _unary("expand", "An array broadcast to the parameter's shape: a tensor.")
mean_rest = _unary(
    "mean_rest",
    "Mean over all axes but the first, which stay with size 1; 0 where there is no other: an array.",
)
group_sum = _unary("group_sum", "A per-tensor scalar summed over every parameter that the step updates.")


def _along(name: str, doc: str) -> Callable[[Value, int], Value]:
    def function(x: Value, axis: int) -> Value:
        return _apply(name, x, attr=str(axis))

    function.__doc__ = doc
    return function


total_axis = _along("sum_axis", "Sum over one axis, which stays with size 1: an array.")
mean_axis = _along("mean_axis", "Mean over one axis, which stays with size 1: an array.")
max_axis = _along("max_axis", "Maximum over one axis, which stays with size 1: an array.")
item = _along("item", "Item ``axis`` of a history: a tensor.")


def push(history: Value, x: Value) -> Value:
    """The history without its first item, ``x`` at its end."""
    return _apply("push", history, x)


def matmul(a: Value, b: Value) -> Value:
    """Matrix product of the last two axes: an array."""
    return _apply("matmul", a, b)


def size(x: Value, axis: int | None = None) -> Value:
    """Number of elements, of the whole tensor or along one axis: a scalar."""
    return _apply("size", x, attr="all" if axis is None else str(axis))


def rounded(x: Value, dtype: str) -> Value:
    """A tensor rounded to bfloat16, float16 or float32; what follows goes on in the tensor's dtype."""
    return _apply("rounded", x, attr=dtype)
