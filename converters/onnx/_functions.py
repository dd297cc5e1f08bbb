"""One program as two ONNX functions: its scalars, once a group, and the update of one tensor.

The scalar function works in double (float where the rule says float32) and casts every result to
what the update needs. The update function then touches tensors only, so that the runtime may give
it a whole parameter, a bucket of several, or a block of one.

`OPERATORS` is the only place where an IR operator meets an ONNX operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport.ir import FLOAT32, TENSOR, Program, equations
from optexport.ir.analysis import scalars
from optexport.ir.ops import OPS
from optexport.ir.program import Input, Node

__all__ = ["DOMAIN", "OPERATORS", "OPSET", "Functions", "compute_type", "functions", "in_place"]

DOMAIN = "optexport"
OPSET = 18

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
}

_NUMPY: Mapping[int, type[np.floating[Any]]] = {T.FLOAT: np.float32, T.DOUBLE: np.float64}


def compute_type(dtype: int) -> int:
    """The ONNX type of the arithmetic on tensors of ``dtype``: float32 for the half types.

    ONNX Runtime's CPU kernels have neither float16 nor bfloat16 arithmetic, so such tensors are
    widened at the border of the update and rounded once, on their way out.
    """
    return T.DOUBLE if dtype == T.DOUBLE else T.FLOAT


@dataclass(frozen=True)
class Functions:
    """What one program became.

    update: tensors in the order of ``tensors`` and then ``crossing`` -> the new values, in the order
        of ``outputs``. scalars: None where the update needs no scalar.
    tensors: keys of the tensor inputs that are read (``param``, ``grad``, slot names).
    crossing: names of the scalars that the update takes. direct: those of them that are a graph input
        as it stands, by that input's key; the others are the scalar function's results, in order.
    hosted: keys of the scalar function's inputs: ``step`` and hyperparameter names, all in double.
    copied: outputs that must not be written over the input of the same name.
    """

    update: onnx.FunctionProto
    scalars: onnx.FunctionProto | None
    tensors: tuple[str, ...]
    crossing: tuple[str, ...]
    direct: Mapping[str, str]
    hosted: tuple[str, ...]
    outputs: tuple[str, ...]
    copied: frozenset[str]


@dataclass
class _Body:
    """Nodes of a function under construction; values by (IR node, ONNX type)."""

    taken: set[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: dict[tuple[int, int], str] = field(default_factory=dict)

    def name(self, hint: str) -> str:
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
        tensor = numpy_helper.from_array(np.array(value, _NUMPY[kind]))
        return self.add("Constant", (), self.name(hint), value=tensor)


def functions(
    program: Program,
    name: str,
    dtype: int,
    known: Mapping[str, float],
    bare: frozenset[str] = frozenset(),
    title: str = "",
) -> Functions:
    """The two functions of a folded program.

    name: stem of the functions' names. dtype: ONNX element type of the tensors. known: hyperparameters
    that were folded in, to call constants by their names. bare: runtime hyperparameters that no
    multiplier changes, so that the update may take the graph's input itself.
    """
    host = set(scalars(program))
    compute = compute_type(dtype)
    crossing = _crossing(program, host, compute)
    names = _crossing_names(program, crossing, compute, known)
    update, tensors = _update(program, host, dtype, dict(zip(crossing, names, strict=True)))
    outputs = tuple(program.outputs)
    proto = _function(
        name, tensors + names, [f"{o}.new" for o in outputs], update, [title, *equations(program)]
    )
    named = dict(zip(crossing, names, strict=True))
    direct = {n: key for (i, kind), n in named.items() if (key := _bare(program, i, kind, compute, bare))}
    made: onnx.FunctionProto | None = None
    hosted: tuple[str, ...] = ()
    computed = {c: n for c, n in named.items() if n not in direct}
    if computed:
        body, hosted, inputs = _scalars(program, host, computed)
        about = [f"Scalars of one step, for {name}."]
        made = _function(f"{name}_scalars", inputs, list(computed.values()), body, about)
    copied = frozenset(o for o in outputs if not in_place(program, o))
    return Functions(proto, made, tensors, names, direct, hosted, outputs, copied)


def _bare(program: Program, i: int, kind: int, compute: int, bare: frozenset[str]) -> str | None:
    """The hyperparameter whose graph input (of type ``compute``) is this scalar, if one is.

    A float that goes through double and back is itself. Written out, that pair of casts is removed by
    ONNX Runtime (1.19 to 1.31), which then no longer finds the value inside a Scan.
    """
    node = program.nodes[i]
    while kind == compute == T.FLOAT and node.op == "cast":
        node = program.nodes[node.args[0]]
    if (
        isinstance(node.attr, Input)
        and node.attr.role == "hyper"
        and node.attr.name in bare
        and kind == compute
    ):
        return node.attr.name
    return None


def in_place(program: Program, output: str) -> bool:
    """Whether the new value may be written over the old one while the program runs.

    It may when everything that reads the old value is needed for the new one (so has run before), or
    is the operator that makes it, which reads each element before it writes it.
    """
    first = program.used(output)
    live = program.used()
    key = "param" if output == "param" else f"slot:{output}"
    old = [i for i, n in enumerate(program.nodes) if isinstance(n.attr, Input) and n.attr.key == key]
    readers = {i for i in live if set(program.nodes[i].args) & set(old)}
    others = {o for o, i in program.outputs.items() if i in old and o != output}
    return readers <= first and not others


def _function(
    name: str, inputs: Sequence[str], outputs: Sequence[str], body: _Body, doc: Sequence[str]
) -> onnx.FunctionProto:
    return helper.make_function(
        DOMAIN,
        name,
        list(inputs),
        list(outputs),
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        doc_string="\n".join(filter(None, doc)),
    )


def _wanted(program: Program, node: Node, compute: int) -> list[int]:
    """The ONNX type in which ``node`` needs each operand, as the referee rounds them."""
    if node.op == "cast":
        return [_type(program.nodes[node.args[0]], compute)]
    if OPS[node.op].result == "scalar":
        return [T.DOUBLE]
    args = [program.nodes[a] for a in node.args]
    real = compute if any(a.type.is_tensor for a in args) else T.FLOAT if node.type is FLOAT32 else T.DOUBLE
    return [T.BOOL if a.type.is_truth else real for a in args]


def _type(node: Node, compute: int) -> int:
    """The ONNX type of a node's own value."""
    if node.type.is_truth:
        return T.BOOL
    return compute if node.type is TENSOR else T.FLOAT if node.type is FLOAT32 else T.DOUBLE


def _crossing(program: Program, host: set[int], compute: int) -> list[tuple[int, int]]:
    """(host scalar, type) pairs that the rest of the program reads, in order of use."""
    found: dict[tuple[int, int], None] = {}
    for i in sorted(program.used() - host):
        node = program.nodes[i]
        if node.args:
            for a, kind in zip(node.args, _wanted(program, node, compute), strict=True):
                if a in host:
                    found[a, kind] = None
    return list(found)


def _crossing_names(
    program: Program, crossing: Sequence[tuple[int, int]], compute: int, known: Mapping[str, float]
) -> tuple[str, ...]:
    body = _Body({"param", "grad", *program.outputs})
    names = []
    for i, kind in crossing:
        node = program.nodes[i]
        if isinstance(node.attr, Input):
            hint = node.attr.name or node.attr.role
        elif node.op == "const":
            hint = _constant_hint(float(node.attr), known)  # type: ignore[arg-type]
        else:
            hint = node.label or f"{node.op}_{i}"
        names.append(body.name(hint if kind in (compute, T.BOOL) else f"{hint}.{_NUMPY[kind].__name__}"))
    return tuple(names)


def _constant_hint(value: float, known: Mapping[str, float]) -> str:
    """A constant's name: the hyperparameter's, ``1 - beta1``'s, or the number itself."""
    for form, numbers in (("{}", known), ("one_minus_{}", {k: 1 - v for k, v in known.items()})):
        named = [k for k, v in numbers.items() if value in (v, float(np.float32(v)))]
        if len(named) == 1 and value not in (0.0, 1.0):
            return form.format(named[0])
    return f"{value:g}"


def _scalars(
    program: Program, host: set[int], outputs: Mapping[tuple[int, int], str]
) -> tuple[_Body, tuple[str, ...], tuple[str, ...]]:
    """Body of the scalar function, and its inputs: their keys and the names they have inside."""
    body = _Body(set(outputs.values()))
    needed: set[int] = set()
    todo = [i for i, _ in outputs]
    while todo:
        i = todo.pop()
        if i not in needed:
            needed.add(i)
            todo.extend(program.nodes[i].args)
    inputs: dict[str, str] = {}
    for i in sorted(needed & host):
        node = program.nodes[i]
        if isinstance(node.attr, Input):
            key = node.attr.name or node.attr.role
            inputs[key] = body.values[i, T.DOUBLE] = body.name(f"{key}.double" if key in body.taken else key)
        elif node.op != "const":
            _lower(body, program, i, T.DOUBLE, node.label or f"{node.op}_{i}")
    for (i, kind), name in outputs.items():
        node = program.nodes[i]
        if node.op == "const":
            body.add(
                "Constant", (), name, value=numpy_helper.from_array(np.array(_rounded(node), _NUMPY[kind]))
            )
            continue
        own = _type(node, T.DOUBLE)
        value = _value(body, program, i, own)
        if own == kind:
            body.add("Identity", (value,), name)
        else:
            body.add("Cast", (value,), name, to=kind)
    return body, tuple(inputs), tuple(inputs.values())


def _update(
    program: Program, host: set[int], dtype: int, crossing: Mapping[tuple[int, int], str]
) -> tuple[_Body, tuple[str, ...]]:
    """Body and tensor inputs of the update function."""
    compute = compute_type(dtype)
    outputs = [f"{o}.new" for o in program.outputs]
    body = _Body({*crossing.values(), *outputs, "param", "grad"})
    body.values.update(crossing)
    tensors, full = ["param"], set()
    for i in sorted(program.used() - host):
        node = program.nodes[i]
        if isinstance(node.attr, Input):
            key = node.attr.name or node.attr.role
            if key not in tensors:
                tensors.append(key)
            body.taken.add(key)
            body.values[i, compute] = (
                key if compute == dtype else body.add("Cast", (key,), body.name(f"{key}.wide"), to=compute)
            )
            full.add(i)
        elif node.op == "const":
            body.values[i, compute] = body.constant(_rounded(node), compute, f"{float(node.attr):g}")  # type: ignore[arg-type]
        else:
            _lower(body, program, i, compute, node.label or f"{node.op}_{i}")
            if node.type.is_tensor and full & set(node.args):
                full.add(i)
    for (_, i), name in zip(program.outputs.items(), outputs, strict=True):
        value = _value(body, program, i, compute)
        if i not in full:  # a constant: it takes the parameter's shape
            shape = body.add("Shape", ("param",), body.name("shape"))
            value = body.add("Expand", (value, shape), body.name("full"))
        _finish(body, value, name, compute, dtype)
    return body, tuple(tensors)


def _finish(body: _Body, value: str, name: str, compute: int, dtype: int) -> None:
    """Make ``value`` the output ``name``: rename it where it is a fresh result, else copy it."""
    if compute != dtype:
        body.add("Cast", (value,), name, to=dtype)
        return
    for node in body.nodes:
        if list(node.output) == [value] and not value.endswith(".new"):
            for other in body.nodes:
                other.input[:] = [name if x == value else x for x in other.input]
            node.output[0] = name
            for key, old in body.values.items():
                body.values[key] = name if old == value else old
            return
    body.add("Identity", (value,), name)


def _rounded(node: Node) -> float:
    return float(np.float32(node.attr)) if node.type is FLOAT32 else float(node.attr)  # type: ignore[arg-type]


def _value(body: _Body, program: Program, i: int, kind: int) -> str:
    """Name of node ``i``'s value in an ONNX type, cast or made where it is not there yet."""
    if (i, kind) not in body.values:
        node = program.nodes[i]
        if node.op == "const":
            body.values[i, kind] = body.constant(_rounded(node), kind, f"{float(node.attr):g}")  # type: ignore[arg-type]
        else:
            name = next(v for (j, _), v in body.values.items() if j == i)
            suffix = _NUMPY[kind].__name__
            body.values[i, kind] = body.add("Cast", (name,), body.name(f"{name}.{suffix}"), to=kind)
    return body.values[i, kind]


def _lower(body: _Body, program: Program, i: int, compute: int, hint: str) -> None:
    """Add the ONNX node of IR node ``i``."""
    node = program.nodes[i]
    operands = [
        _value(body, program, a, kind)
        for a, kind in zip(node.args, _wanted(program, node, compute), strict=True)
    ]
    own = _type(node, compute)
    attributes: dict[str, Any] = {}
    if OPS[node.op].result == "scalar":
        attributes["keepdims"] = 0
    elif node.op == "cast":
        attributes["to"] = own
    *before, last = OPERATORS[node.op]
    for op in before:
        operands = [body.add(op, operands, body.name(f"{hint}.{op}"), **attributes)]
        attributes = {}
    body.values[i, own] = body.add(last, operands, body.name(hint), **attributes)
