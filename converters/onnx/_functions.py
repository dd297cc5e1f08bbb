"""One program as two ONNX functions: its scalars, once a group, and the update of one tensor.

The scalar function works in double (float where the rule says float32) and casts every result to
what the update needs. The update function then touches tensors only, so that the runtime may give
it a whole parameter, a bucket of several, or a block of one.

`_lower.py` says which ONNX operators an IR operator is.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport.ir import TENSOR, Program, Reach, equations, reach
from optexport.ir.analysis import scalars
from optexport.ir.program import Input

from ._lower import NUMPY, Body, compute_type, lower, rounded, type_of, value, wanted

__all__ = ["DOMAIN", "OPSET", "Functions", "functions", "in_place", "lower_update"]

DOMAIN = "optexport"
OPSET = 18


@dataclass(frozen=True)
class Functions:
    """What one program became.

    program: what it is. types: ONNX type of the scalar outputs, by name; the rest are tensors.
    update: tensors in the order of ``tensors`` and then ``crossing`` -> the new values, in the order
        of ``outputs``; None where the program sums over a group, which no function can.
    scalars: None where the update needs no scalar.
    tensors: keys of the tensor inputs that are read (``param``, ``grad``, slot names).
    crossing: names of the scalars that the update takes. direct: those of them that are a graph input
        as it stands, by that input's key; the others are the scalar function's results, in order.
    hosted: keys of the scalar function's inputs: ``step`` and hyperparameter names, all in double.
    crossing_values: the node and ONNX type of each.
    copied: outputs that must not be written over the input of the same name.
    """

    program: Program
    types: Mapping[str, int]
    update: onnx.FunctionProto | None
    scalars: onnx.FunctionProto | None
    tensors: tuple[str, ...]
    crossing: tuple[str, ...]
    crossing_values: tuple[tuple[int, int], ...]
    direct: Mapping[str, str]
    hosted: tuple[str, ...]
    outputs: tuple[str, ...]
    copied: frozenset[str]


def functions(
    program: Program,
    name: str,
    dtype: int,
    known: Mapping[str, float],
    bare: frozenset[str] = frozenset(),
    title: str = "",
    types: Mapping[str, int] | None = None,
) -> Functions:
    """The two functions of a folded program.

    name: stem of the functions' names. dtype: ONNX element type of the tensors. known: hyperparameters
    that were folded in, to call constants by their names. bare: runtime hyperparameters that no
    multiplier changes, so that the update may take the graph's input itself. types: ONNX type of each
    scalar slot.
    """
    types = dict(types or {})
    host = set(scalars(program))
    compute = compute_type(dtype)
    crossing = _crossing(program, host, compute, types)
    names = _crossing_names(program, crossing, compute, known)
    outputs = tuple(program.outputs)
    named = dict(zip(crossing, names, strict=True))
    update = None
    tensors = _tensors(program)
    if reach(program) is not Reach.GROUP:
        body = Body({*names, *(f"{o}.new" for o in outputs), *tensors, "param", "grad"})
        body.values.update(named)
        for _ in lower_update(body, program, host, dtype, {t: t for t in tensors}, types):
            raise AssertionError("a function cannot sum over a group")
        update = _function(
            name, tensors + names, [f"{o}.new" for o in outputs], body, [title, *equations(program)]
        )
    direct = {n: key for (i, kind), n in named.items() if (key := _bare(program, i, kind, compute, bare))}
    made: onnx.FunctionProto | None = None
    hosted: tuple[str, ...] = ()
    computed = {c: n for c, n in named.items() if n not in direct}
    if computed:
        body, hosted, inputs = _scalars(program, host, computed)
        about = [f"Scalars of one step, for {name}."]
        made = _function(f"{name}_scalars", inputs, list(computed.values()), body, about)
    copied = frozenset(o for o in outputs if not in_place(program, o))
    return Functions(
        program, types, update, made, tensors, names, tuple(crossing), direct, hosted, outputs, copied
    )


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
    name: str, inputs: Sequence[str], outputs: Sequence[str], body: Body, doc: Sequence[str]
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


def _tensors(program: Program) -> tuple[str, ...]:
    """Keys of what an update reads of one parameter: its tensors, and its scalar slots."""
    found = dict.fromkeys(["param"])
    for i in sorted(program.used()):
        attr = program.nodes[i].attr
        if isinstance(attr, Input) and attr.role not in ("step", "hyper"):
            found[attr.name or attr.role] = None
    return tuple(found)


def _crossing(
    program: Program, host: set[int], compute: int, types: Mapping[str, int]
) -> list[tuple[int, int]]:
    """(host scalar, type) pairs that the rest of the program reads, in order of use."""
    found: dict[tuple[int, int], None] = {}
    for i in sorted(program.used() - host):
        node = program.nodes[i]
        if node.args:
            for a, kind in zip(node.args, wanted(program, node, compute), strict=True):
                if a in host:
                    found[a, kind] = None
    for name, i in program.outputs.items():
        if i in host:
            found[i, types[name]] = None
    return list(found)


def _crossing_names(
    program: Program, crossing: Sequence[tuple[int, int]], compute: int, known: Mapping[str, float]
) -> tuple[str, ...]:
    body = Body({"param", "grad", *program.outputs})
    names = []
    for i, kind in crossing:
        node = program.nodes[i]
        if isinstance(node.attr, Input):
            hint = node.attr.name or node.attr.role
        elif node.op == "const":
            hint = _constant_hint(float(node.attr), known)  # type: ignore[arg-type]
        else:
            hint = node.label or f"{node.op}_{i}"
        names.append(body.name(hint if kind in (compute, T.BOOL) else f"{hint}.{NUMPY[kind].__name__}"))
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
) -> tuple[Body, tuple[str, ...], tuple[str, ...]]:
    """Body of the scalar function, and its inputs: their keys and the names they have inside."""
    body = Body(set(outputs.values()))
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
            lower(body, program, i, T.DOUBLE, node.label or f"{node.op}_{i}")
    for (i, kind), name in outputs.items():
        node = program.nodes[i]
        if node.op == "const":
            body.add(
                "Constant", (), name, value=numpy_helper.from_array(np.array(rounded(node), NUMPY[kind]))
            )
            continue
        own = type_of(node, T.DOUBLE)
        made = value(body, program, i, own)
        if own == kind:
            body.add("Identity", (made,), name)
        else:
            body.add("Cast", (made,), name, to=kind)
    return body, tuple(inputs), tuple(inputs.values())


def lower_update(
    body: Body,
    program: Program,
    host: set[int],
    dtype: int,
    inputs: Mapping[str, str],
    types: Mapping[str, int],
    outputs: Mapping[str, str] | None = None,
) -> Generator[str, str, None]:
    """Add one parameter's update to ``body``; yields each scalar that is summed over the group, and is sent
    the name of the sum.

    inputs, outputs: names by key; outputs are ``<key>.new`` when None. Host scalars are in
    ``body.values`` already.
    """
    compute = compute_type(dtype)
    full: set[int] = set()
    for i in sorted(program.used() - host):
        node = program.nodes[i]
        if isinstance(node.attr, Input):
            name, own = inputs[node.attr.name or node.attr.role], type_of(node, compute)
            if node.type.is_tensor and own != dtype:
                name = body.add("Cast", (name,), body.name(f"{name}.wide"), to=own)
            body.values[i, own] = name
        elif node.op == "const":
            body.values[i, compute] = body.constant(rounded(node), compute, f"{float(node.attr):g}")  # type: ignore[arg-type]
            continue
        elif node.op == "group_sum":
            body.values[i, T.DOUBLE] = yield value(body, program, node.args[0], T.DOUBLE)
        else:
            lower(body, program, i, compute, node.label or f"{node.op}_{i}", inputs["param"])
        if node.type is TENSOR and _is_full(program, i, full):
            full.add(i)
    for key, i in program.outputs.items():
        name, node = (outputs or {}).get(key, f"{key}.new"), program.nodes[i]
        if key in types:
            body.add("Identity", (value(body, program, i, types[key]),), name)
            continue
        made = value(body, program, i, compute)
        if node.type is TENSOR and i not in full:  # a constant: it takes the parameter's shape
            shape = body.add("Shape", (inputs["param"],), body.name("shape"))
            made = body.add("Expand", (made, shape), body.name("full"))
        _finish(body, made, name, compute, dtype)


def _is_full(program: Program, i: int, full: set[int]) -> bool:
    """Whether a tensor has the parameter's shape as it is, not that of a scalar."""
    node = program.nodes[i]
    return isinstance(node.attr, Input) or node.op in ("expand", "item") or bool(full & set(node.args))


def _finish(body: Body, value: str, name: str, compute: int, dtype: int) -> None:
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
