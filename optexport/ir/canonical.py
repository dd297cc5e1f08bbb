"""When two programs are the same rule.

`fold` substitutes hyperparameters that are known constants and removes what becomes trivial or
dead; it keeps the order of the arithmetic, so emitters use its result. `digest` goes further: it
brings every output to an algebraic normal form over the reals (sums and products flattened, sorted,
like terms collected, roundings dropped) and hashes it. Equal digests: the same rule.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from .analysis import dead_slots
from .ops import OPS
from .program import Input, Node, Program
from .types import ARRAY, FLOAT32, Type

__all__ = ["digest", "fold", "sweep"]

_FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": lambda a, b: a**b,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "abs": np.abs,
    "sign": np.sign,
    "min": np.minimum,
    "max": np.maximum,
    "floor": np.floor,
    "cos": np.cos,
    "cast": lambda a: a,
}
_TRUTH: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda a, b: a == b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}


def fold(program: Program, known: Mapping[str, float] | None = None) -> Program:
    """``program`` with the hyperparameters in ``known`` replaced by constants, then simplified.

    Constants are combined (one of tensor type fills the parameter's shape), ``x·1``, ``x·0``,
    ``x+0``, ``where`` of a constant condition and nodes that no output needs are removed. Slots
    that can no longer reach the parameter stay as outputs: dropping state is a translation's
    decision, not the folder's.
    """
    known = known or {}
    nodes: list[Node] = []
    index: dict[Node, int] = {}

    def put(node: Node) -> int:
        if node not in index:
            index[node] = len(nodes)
            nodes.append(node)
        return index[node]

    new: dict[int, int] = {}
    for i, node in enumerate(program.nodes):
        if isinstance(node.attr, Input):
            if node.attr.role == "hyper" and node.attr.name in known:
                node = Node("const", (), node.type, float(known[node.attr.name]), node.label, node.line)
            new[i] = put(node)
            continue
        node = replace(node, args=tuple(new[a] for a in node.args))
        new[i] = _simplify(node, nodes, put)
    return sweep(Program(tuple(nodes), {o: new[i] for o, i in program.outputs.items()}))


def _simplify(node: Node, nodes: list[Node], put: Callable[[Node], int]) -> int:
    """Index of a node equal to ``node``, whose operands are already folded."""
    args = [nodes[a] for a in node.args]
    consts = [a.attr if a.op == "const" else None for a in args]

    def const(value: float) -> int:
        if node.type is FLOAT32:
            value = float(np.float32(value))
        return put(Node("const", (), node.type, float(value), "", node.line))

    if node.op == "where" and consts[0] is not None:
        return node.args[1] if consts[0] else node.args[2]
    if node.args and all(c is not None for c in consts) and not node.type.is_tensor:
        with np.errstate(all="ignore"):
            if node.op in _TRUTH:
                return const(float(_TRUTH[node.op](*consts)))  # type: ignore[arg-type]
            if node.op in _FOLD:
                value = _FOLD[node.op](*[np.float64(c) for c in consts])  # type: ignore[arg-type]
                if math.isfinite(value):
                    return const(value)
    if node.op in ("add", "mul", "sub", "div") and any(c is not None for c in consts):
        kept = _identity(node, args, consts)
        if kept is not None:
            return kept if kept >= 0 else const(0.0)
    return put(node)


def _identity(node: Node, args: list[Node], consts: list[float | str | Input | None]) -> int | None:
    """Index of the operand that ``node`` equals, −1 for zero, None where there is no identity."""
    a, b = consts
    same = [args[0].type is node.type, args[1].type is node.type]
    if node.op == "add" and ((a == 0 and same[1]) or (b == 0 and same[0])):
        return node.args[1] if a == 0 and same[1] else node.args[0]
    if node.op == "sub" and b == 0 and same[0]:
        return node.args[0]
    if node.op == "mul":
        if (a == 0 or b == 0) and node.type is not ARRAY:
            return -1
        if a == 1 and same[1]:
            return node.args[1]
        if b == 1 and same[0]:
            return node.args[0]
    if node.op == "div" and b == 1 and same[0]:
        return node.args[0]
    return None


def sweep(program: Program) -> Program:
    """Without the nodes that no output needs."""
    live = sorted(program.used())
    new = {old: i for i, old in enumerate(live)}
    nodes = tuple(replace(program.nodes[i], args=tuple(new[a] for a in program.nodes[i].args)) for i in live)
    return Program(nodes, {o: new[i] for o, i in program.outputs.items()})


def digest(program: Program, known: Mapping[str, float] | None = None) -> str:
    """Canonical hash, 64 hex digits: equal hashes, the same rule over the reals.

    Products of sums are not multiplied out, so rules that only ``a·(b + c) = a·b + a·c`` makes equal
    have different hashes. Dead slots do not count: Adam that also maintains a maximum which it never reads is Adam.
    """
    program = fold(program, known)
    dead = dead_slots(program)
    forms: list[_Form] = []
    for node in program.nodes:
        forms.append(_normal(node, [forms[a] for a in node.args]))
    text = ";".join(f"{o}={forms[i].key}" for o, i in sorted(program.outputs.items()) if o not in dead)
    return hashlib.sha256(text.encode()).hexdigest()


class _Form:
    """A normal form: ``constant + Σ coefficient · Π base^exponent``, terms keyed by their text.

    Bases are opaque keys; an expression that is no sum or product is one base with exponent 1.
    """

    __slots__ = ("constant", "key", "terms")

    def __init__(self, constant: float, terms: dict[tuple[tuple[str, float], ...], float]) -> None:
        self.constant = constant + 0.0
        self.terms = {m: c for m, c in terms.items() if c != 0}
        text = "+".join(f"{c!r}*{m!r}" for m, c in sorted(self.terms.items()))
        single = len(self.terms) == 1 and constant == 0
        ((mono, coef),) = self.terms.items() if single else (((), 0.0),)
        if single and coef == 1 and len(mono) == 1 and mono[0][1] == 1:
            self.key = mono[0][0]
        else:
            self.key = hashlib.sha256(f"{self.constant!r}+{text}".encode()).hexdigest()[:32]

    @staticmethod
    def of(key: str) -> _Form:
        return _Form(0.0, {((key, 1.0),): 1.0})

    @property
    def number(self) -> float | None:
        return None if self.terms else self.constant

    def plus(self, other: _Form, factor: float = 1.0) -> _Form:
        terms = dict(self.terms)
        for m, c in other.terms.items():
            terms[m] = terms.get(m, 0.0) + factor * c
        return _Form(self.constant + factor * other.constant, terms)

    def scaled(self, factor: float) -> _Form:
        return _Form(self.constant * factor, {m: c * factor for m, c in self.terms.items()})

    def factors(self) -> tuple[float, dict[str, float]]:
        """As a product: (coefficient, base -> exponent)."""
        if len(self.terms) == 1 and self.constant == 0:
            ((mono, coef),) = self.terms.items()
            return coef, dict(mono)
        return 1.0, {self.key: 1.0}

    def times(self, other: _Form, power: float = 1.0) -> _Form:
        if other.number is not None and (power > 0 or other.number != 0):
            return self.scaled(other.number**power)
        if self.number is not None and power == 1:
            return other.scaled(self.number)
        if self.number is not None:
            coef = self.number
            mono: dict[str, float] = {}
        else:
            coef, mono = self.factors()
        coef2, mono2 = other.factors()
        for base, e in mono2.items():
            mono[base] = mono.get(base, 0.0) + e * power
        kept = tuple(sorted((b, e) for b, e in mono.items() if e != 0))
        coef *= coef2**power
        return _Form(0.0, {kept: coef}) if kept else _Form(coef, {})


def _normal(node: Node, args: list[_Form]) -> _Form:
    if isinstance(node.attr, Input):
        return _Form.of(node.attr.key)
    if node.op == "const":
        return _Form(float(node.attr), {})  # type: ignore[arg-type]
    if node.op == "cast" or (node.op == "rounded" and node.attr == "float32"):
        return args[0]  # rounding is precision, not meaning; to bfloat16 it is no detail any more
    if node.op in ("add", "sub"):
        return args[0].plus(args[1], 1.0 if node.op == "add" else -1.0)
    if node.op == "neg":
        return args[0].scaled(-1.0)
    if node.op == "mul":
        return args[0].times(args[1])
    if node.op == "div":
        return args[0].times(args[1], -1.0)
    if node.op == "where" and args[1].key == args[2].key:
        return args[1]
    if node.op in ("min", "max") and args[0].key == args[1].key:
        return args[0]
    keys = [a.key for a in args]
    if OPS[node.op].commutes:
        keys.sort()
    # A reduction's result is a scalar whatever its operand; the operator's name says so.
    tensor = "a" if node.type is ARRAY else "t" if node.type in (Type.TENSOR, Type.MASK) else "s"
    name = node.op if node.attr is None else f"{node.op}[{node.attr}]"
    return _Form.of(hashlib.sha256(f"{name}:{tensor}({','.join(keys)})".encode()).hexdigest()[:32])
