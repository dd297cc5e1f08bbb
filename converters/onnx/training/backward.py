"""Reverse mode: walks a graph's nodes backwards, with one rule an operator.

A rule gets the node and the gradients of its outputs and returns those of its inputs. It writes
plain operators on the tape. Rules are in ``gradients/``; to add one, write

    @gradient("Name")
    def name(op: Op, g: str) -> Gradients: ...

in the file of its group: ``g`` is the gradient of the first output, the result has a value's name or
None for each input.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T

from optexport.errors import ModelError

from .tape import Dims, Tape, reads

__all__ = ["Gradients", "Op", "differentiate", "gradient", "handled", "rules"]

Gradients = Sequence[str | None]
FLOATS = {T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16}
_RULES: dict[str, Callable[[Op, str], Gradients]] = {}
_ALL_OUTPUTS: set[str] = set()
_WITHIN: dict[str, tuple[int, ...]] = {}


@dataclass
class Op:
    """One forward node, as its gradient rule sees it.

    tape: where the rule writes. needs: which inputs a trained parameter reaches. grads: gradient of
    each output, None where nothing reaches it.
    """

    tape: Tape
    proto: onnx.NodeProto
    needs: tuple[bool, ...]
    grads: tuple[str | None, ...]

    @property
    def x(self) -> str:
        """The first input."""
        return str(self.proto.input[0])

    @property
    def y(self) -> str:
        """The first output, as it is stored."""
        name = str(self.proto.output[0])
        return self.tape.stored.get(name, name)

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the inputs; an optional one that is left out is ''."""
        return list(self.proto.input)

    def input(self, i: int) -> str:
        """The i-th input, '' where it is left out."""
        return self.proto.input[i] if i < len(self.proto.input) else ""

    def shape(self, i: int = 0) -> Dims | None:
        return self.tape.shapes.get(self.input(i))

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute; the default, as the file would hold it, where it is left out."""
        for a in self.proto.attribute:
            if a.name == name:
                value = onnx.helper.get_attribute_value(a)
                return value.decode() if isinstance(value, bytes) else value
        # A file holds float32: 0.01 is 0.01f to the runtime in float64 too.
        return float(np.float32(default)) if isinstance(default, float) else default

    def output(self, i: int) -> str:
        """The i-th output; an optional one that nobody asked for is asked for now."""
        while len(self.proto.output) <= i:
            self.proto.output.append("")
        if not self.proto.output[i]:
            self.proto.output[i] = self.tape.fresh(f"{self.y}/output{i}")
        return str(self.proto.output[i])

    def constant(self, i: int) -> Any:
        """The i-th input as an array. Raises ModelError where it is not known before the run."""
        name = self.input(i)
        if name not in self.tape.constants:
            raise self.error(f"input {i} ({name!r}) expected a constant, found a computed value")
        return self.tape.constants[name]

    def rank(self) -> int:
        """Of the first input. Raises ModelError where it is not known."""
        shape = self.shape()
        if shape is None:
            raise self.error("its input has an unknown rank; run shape inference, or export with fixed ranks")
        return len(shape)

    def error(self, what: str) -> ModelError:
        return ModelError(f"node {self.proto.name or self.y!r} ({self.proto.op_type}): {what}")


def gradient(
    *kinds: str, all_outputs: bool = False, within: tuple[int, ...] = ()
) -> Callable[[Callable[[Op, str], Gradients]], Callable[[Op, str], Gradients]]:
    """Register the rule of these operators.

    all_outputs: the rule reads ``op.grads``; else only the first output may have a gradient.
    within: inputs whose part is in the gradient of another one. Every other input that a trained
    parameter reaches must get a gradient.
    """

    def register(rule: Callable[[Op, str], Gradients]) -> Callable[[Op, str], Gradients]:
        for kind in kinds:
            assert kind not in _RULES, kind
            _RULES[kind], _WITHIN[kind] = rule, within
            if all_outputs:
                _ALL_OUTPUTS.add(kind)
        return rule

    return register


@lru_cache(maxsize=1)
def rules() -> Mapping[str, Callable[[Op, str], Gradients]]:
    """Operator -> rule, from every file in ``gradients/``."""
    from . import gradients

    for module in pkgutil.iter_modules(gradients.__path__):
        importlib.import_module(f"{gradients.__name__}.{module.name}")
    return _RULES


# Nothing flows back through these: their outputs are counts, indexes or masks, or do not depend on
# the input's values.
_FLAT = frozenset(
    (
        *("Shape", "Size", "ConstantOfShape", "ArgMax", "ArgMin", "NonZero", "EyeLike", "Hardmax"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"),
        *("IsNaN", "IsInf", "Sign", "Floor", "Ceil", "Round"),
        *("RandomNormalLike", "RandomUniformLike", "Bernoulli"),
    )
)
_REFUSED = {
    **dict.fromkeys(("If", "Loop", "Scan"), "control flow has no gradient here; unroll it in the exporter"),
    **dict.fromkeys(
        ("RNN", "LSTM", "GRU"), "recurrent operators have no gradient here; export them unrolled"
    ),
}


def handled(kind: str) -> bool:
    """Whether an operator has a rule, needs none, or is refused by name."""
    return kind in rules() or kind in _FLAT or kind in _REFUSED


def differentiate(tape: Tape, y: str, wanted: Iterable[str], seed: str) -> dict[str, str]:
    """Append the backward nodes of scalar ``y``; wanted value -> its gradient.

    wanted: values (parameters); one that ``y`` does not depend on is absent from the result.
    seed: gradient of ``y``, of its type and shape.

    Raises:
        ModelError: an operator without a rule, or one that its rule cannot differentiate.
    """
    forward = list(tape.nodes)
    reached = _reached(tape, forward, wanted)
    parts: dict[str, list[str]] = {y: [seed]}
    total: dict[str, str] = {}

    def summed(name: str) -> str | None:
        if name not in total and parts.get(name):
            grads = parts[name]
            total[name] = grads[0] if len(grads) == 1 else tape.op("Sum", *grads, like=name)
        return total.get(name)

    for node in reversed(forward):
        if reached.isdisjoint(reads(node)):
            continue
        grads = tuple(summed(o) if o else None for o in node.output)
        if not any(grads) or node.op_type in _FLAT:
            continue
        needs = tuple(i in reached for i in node.input)
        op = Op(tape, node, needs, grads)
        found = _apply(op)
        for i, (name, need) in enumerate(zip(node.input, needs, strict=True)):
            g = found[i] if i < len(found) else None
            if need and g is not None:
                parts.setdefault(name, []).append(g)
            elif need and i not in _WITHIN[node.op_type]:
                raise op.error(
                    f"input {i} ({name!r}) depends on a parameter, expected a constant: it has no gradient"
                )
    return {n: g for n in dict.fromkeys(wanted) if (g := summed(n)) is not None}


def _reached(tape: Tape, nodes: Sequence[onnx.NodeProto], wanted: Iterable[str]) -> set[str]:
    """Values that depend on a wanted one, and are real numbers."""
    reached = set(wanted)
    for node in nodes:
        if node.op_type in _FLAT or reached.isdisjoint(reads(node)):
            continue
        reached |= {o for o in node.output if o and tape.types.get(o, T.FLOAT) in FLOATS}
    return reached


def _apply(op: Op) -> Gradients:
    kind = op.proto.op_type
    if kind in _REFUSED:
        raise op.error(_REFUSED[kind])
    rule = rules().get(kind)
    if rule is None or op.proto.domain not in ("", "ai.onnx"):
        name = f"{op.proto.domain}::{kind}" if op.proto.domain else kind
        raise op.error(
            f"no gradient rule for operator {name}; add one in converters/onnx/training/gradients, as its other files do"
        )
    others = [i for i, g in enumerate(op.grads) if g is not None and i > 0]
    if kind in _ALL_OUTPUTS:
        return rule(op, op.grads[0] or "")
    if others:
        raise op.error(f"output {others[0]} is used in the loss; the rule of {kind} has only output 0")
    assert op.grads[0] is not None
    return rule(op, op.grads[0])
