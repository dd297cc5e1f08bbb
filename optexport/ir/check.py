"""Checking: what a well-formed program is, in one place.

Every error names the line of the rule that made the offending node.
"""

from __future__ import annotations

import math

from ..errors import RuleError
from .ops import OPS, Op
from .program import Input, Node, Program
from .types import ARRAY, BOOL, FLOAT32, FLOAT64, MASK, TENSOR, Type

__all__ = ["check", "check_nodes"]

# The types that an input of a role may have.
_ROLES: dict[str, tuple[Type, ...]] = {
    "param": (TENSOR,),
    "grad": (TENSOR,),
    "step": (FLOAT64,),
    "hyper": (FLOAT64,),
    "slot": (TENSOR, ARRAY, FLOAT64, FLOAT32),
    "noise": (TENSOR,),
    "hessian": (TENSOR,),
}
_DTYPES = ("bfloat16", "float16", "float32")


def check(program: Program) -> Program:
    """Return ``program`` unchanged, or raise.

    Raises:
        RuleError: an unknown operator or input, a wrong number or type of operands or result, a use
            before definition, a constant that is no number, or an output of another type than what it
            replaces.
    """
    check_nodes(program)
    held: dict[str, tuple[Type, ...]] = {}
    for node in program.nodes:
        if isinstance(node.attr, Input) and node.attr.role == "slot":
            # A constant or a float64 becomes what the slot holds when it is stored.
            # A tensor is an array of the parameter's shape.
            kinds = {FLOAT64: (FLOAT64, FLOAT32), FLOAT32: (FLOAT64, FLOAT32), ARRAY: (ARRAY, TENSOR)}
            held[node.attr.name] = kinds.get(node.type, (node.type,))
    if "param" not in program.outputs:
        raise RuleError("rule: expected an output 'param', found " + (", ".join(program.outputs) or "none"))
    for name, index in program.outputs.items():
        if not 0 <= index < len(program.nodes):
            raise RuleError(f"rule: output {name!r} refers to node {index} of {len(program.nodes)}")
        node, expected = program.nodes[index], held.get(name, (TENSOR,))
        if node.type not in expected:
            raise RuleError(
                f"{_at(node)}: output {name!r} is a {node.type.value}; expected a {expected[0].value}"
            )
    written = set(program.outputs) - {"param"}
    for slot in program.inputs("slot"):
        if slot.name not in written:
            raise RuleError(
                f"rule: slot {slot.name!r} is read but has no new value; pass {slot.name}= to finish()"
            )
    return program


def check_nodes(program: Program) -> Program:
    """The part of `check` that looks at nodes alone, for programs with other outputs than a rule's."""
    for index, node in enumerate(program.nodes):
        _check_node(program, index, node)
    return program


def _at(node: Node) -> str:
    return node.line or node.op


def _check_node(program: Program, index: int, node: Node) -> None:
    if any(not 0 <= a < index for a in node.args):
        raise RuleError(
            f"{_at(node)}: {node.op} uses {list(node.args)} at node {index}; expected earlier nodes"
        )
    if node.op in ("input", "const"):
        if node.args:
            raise RuleError(f"{_at(node)}: {node.op} takes no operands, found {len(node.args)}")
        (_check_input if node.op == "input" else _check_const)(node)
        return
    op = OPS.get(node.op)
    if op is None:
        raise RuleError(f"{_at(node)}: unknown operator {node.op!r}; expected one of {', '.join(OPS)}")
    if len(node.args) != op.arity:
        raise RuleError(f"{_at(node)}: {op.name} takes {op.arity} operands, found {len(node.args)}")
    types = [program.nodes[a].type for a in node.args]
    if op.result == "select":
        if not types[0].is_truth:
            raise RuleError(f"{_at(node)}: where needs a condition first, found a {types[0].value}")
        types = types[1:]
    if any(t.is_truth for t in types):
        raise RuleError(f"{_at(node)}: {op.name} of a truth value; expected numbers, use where()")
    if op.result in ("scalar", "array", "matrix", "tensor", "same") and not types[0].is_tensor:
        raise RuleError(f"{_at(node)}: {op.name} takes a tensor, found {_a(types[0])}")
    if op.result == "total" and types[0].is_tensor:
        raise RuleError(f"{_at(node)}: {op.name} is of a scalar, found a {types[0].value}")
    _check_attr(node, op)
    if op.result == "cast" and (types[0].is_tensor or node.type not in (FLOAT32, FLOAT64)):
        raise RuleError(f"{_at(node)}: cast is for scalars, float32 or float64; found {types[0].value}")
    if op.result == "cast" and node.attr != node.type.value:
        raise RuleError(f"{_at(node)}: cast to {node.attr!r} gives a {node.attr}, found {node.type.value}")
    tensor = any(program.nodes[a].type.is_tensor for a in node.args)
    if op.result == "truth" and node.type is not (MASK if tensor else BOOL):
        raise RuleError(
            f"{_at(node)}: {op.name} gives a {'mask' if tensor else 'bool'}, found {node.type.value}"
        )
    gives = {"scalar": FLOAT64, "total": FLOAT64, "array": ARRAY, "matrix": ARRAY, "tensor": TENSOR}
    expected = types[0] if op.result == "same" else gives.get(op.result)
    if expected is not None and node.type is not expected:
        raise RuleError(f"{_at(node)}: {op.name} gives {_a(expected)}, found {node.type.value}")
    if op.result in ("real", "select") and (node.type.is_truth or node.type.is_tensor != tensor):
        raise RuleError(
            f"{_at(node)}: {op.name} gives a {'tensor' if tensor else 'scalar'}, found {node.type.value}"
        )


def _a(kind: Type) -> str:
    return f"{'an' if kind is ARRAY else 'a'} {kind.value}"


def _check_attr(node: Node, op: Op) -> None:
    """The attribute is what the operator's table says."""
    attr = node.attr
    if not op.attr:
        if attr is not None:
            raise RuleError(f"{_at(node)}: {op.name} has no attribute, found {attr!r}")
        return
    whole = isinstance(attr, str) and attr.lstrip("-").isdigit() and attr.count("-") <= 1
    good = {
        "axis": whole or (attr == "all" and op.name == "size"),
        "index": whole,
        "dtype": op.name == "cast" or attr in _DTYPES,
    }
    if not good[op.attr]:
        raise RuleError(f"{_at(node)}: {op.name} expected an attribute {op.attr}, found {attr!r}")


def _check_input(node: Node) -> None:
    if not isinstance(node.attr, Input):
        raise RuleError(f"{_at(node)}: input without a role")
    role = node.attr.role
    if role not in _ROLES:
        raise RuleError(f"{_at(node)}: unknown input {role!r}; expected one of {', '.join(_ROLES)}")
    if node.attr.name and role not in ("hyper", "slot"):
        raise RuleError(f"{_at(node)}: input {role!r} has no name, found {node.attr.name!r}")
    if node.type not in _ROLES[role]:
        raise RuleError(
            f"{_at(node)}: input {node.attr.key!r} is a {_ROLES[role][0].value}, found {node.type.value}"
        )


def _check_const(node: Node) -> None:
    if not isinstance(node.attr, float) or math.isnan(node.attr):
        raise RuleError(f"{_at(node)}: constant {node.attr!r}; expected a number")
    if node.type.is_truth:
        raise RuleError(f"{_at(node)}: constant {node.attr!r} is a number, found {node.type.value}")
