"""Computing in half precision: parameters, slots, statistics and the loss stay float32.

What is stored is cast where it is read. Products, convolutions and what only moves or rectifies numbers
run in half; everything else (normalisations, softmax, sums, exponentials) stays in float32 between casts,
the division that Micikevicius et al. 2018 (arXiv:1710.03740) give and frameworks' autocasts follow.

float16 values are tensors of that type, for runtimes that have kernels. For bfloat16 the CPU provider has none: there
what would be in bfloat16 is rounded to it, forward and backward, and computed with in float32. That is what kernels that
accumulate in float32 give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from optexport.errors import HyperparameterError, ModelError

from .tape import Tape

if TYPE_CHECKING:
    from .forward import Forward

__all__ = ["compute_in_half", "half_type"]

# Only move numbers: exact in any type.
_MOVES = frozenset(
    (
        *("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile"),
        *("Concat", "Split", "Slice", "DepthToSpace", "SpaceToDepth"),
    )
)
# Those, and what is as good in half as its inputs are. Not what picks elements (Gather, MaxPool): its gradient is a
# sum of arbitrarily many, and no provider scatters sums of float16.
_IN_HALF = _MOVES | frozenset(
    (
        *("MatMul", "Gemm", "Conv", "ConvTranspose", "Add", "Sub", "Mul", "Div", "Neg", "Abs"),
        *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Erf"),
        *("Tanh", "Sigmoid", "HardSigmoid", "HardSwish"),
        *("Clip", "Where", "Max", "Min", "AveragePool", "Pad", "Dropout"),
    )
)
_TYPES = {"float16": T.FLOAT16, "bfloat16": T.BFLOAT16}


def half_type(name: str) -> int:
    """The element type that ``compute`` names.

    Raises:
        HyperparameterError: another name.
    """
    if name not in _TYPES:
        raise HyperparameterError(f"compute: expected float16, bfloat16 or float32, found {name!r}")
    return int(_TYPES[name])


def compute_in_half(forward: Forward, half: int, where: str) -> None:
    """Rewrite a forward model in float32 as one that computes in ``half`` between casts.

    Raises:
        ModelError: the model is not in float32.
    """
    tape = forward.tape
    other = [n for n, a in forward.params.items() if a.dtype != np.float32]
    if other:
        raise ModelError(
            f"{where}: compute: parameter {other[0]!r} expected float32, found {forward.params[other[0]].dtype}"
        )
    nodes, tape.nodes = tape.nodes, []
    walk: _Walk | _Rounded
    if half == T.BFLOAT16:
        walk = _Rounded(tape, half)
        forward.notes.append("bfloat16: numbers are rounded to it, and computed with in float32 kernels")
    else:
        walk = _Walk(tape, half, {o.name for o in forward.outputs})
    for node in nodes:
        walk.node(node)


class _Rounded:
    """One pass over the nodes; every result that is to be in half is rounded to it, and stays float32."""

    def __init__(self, tape: Tape, half: int) -> None:
        self.tape, self.half = tape, half
        self.held: dict[str, str] = {}  # value -> itself, rounded

    def rounded(self, name: str) -> str:
        tape = self.tape
        if not name or tape.types.get(name) != T.FLOAT:
            return name
        if name not in self.held:
            if name in tape.constants:
                narrow = tape.constants[name].astype(ml_dtypes.bfloat16)
                made = tape.constant(narrow.astype(np.float32), name)
            else:
                made = tape.cast(tape.cast(name, self.half), T.FLOAT)
            self.held[name] = self.held[made] = made
        return self.held[name]

    def node(self, node: onnx.NodeProto) -> None:
        tape = self.tape
        if node.op_type not in _IN_HALF:
            tape.nodes.append(node)
            return
        for i, name in enumerate(node.input):
            node.input[i] = self.rounded(name)
        if node.op_type in _MOVES:
            tape.nodes.append(node)
            self.held |= {o: o for o in node.output}
            return
        wide = {}
        for i, name in enumerate(node.output):
            if tape.types.get(name) == T.FLOAT:
                node.output[i] = wide[name] = tape.fresh(f"{name}/wide")
                tape.types[wide[name]] = T.FLOAT
                if name in tape.shapes:
                    tape.shapes[wide[name]] = tape.shapes[name]
        tape.nodes.append(node)
        for name, inner in wide.items():
            narrow = tape.cast(inner, self.half)
            tape.op("Cast", narrow, name=name, like=narrow, to=T.FLOAT)
            tape.types[name] = T.FLOAT
            self.held[name] = tape.stored[inner] = name


class _Walk:
    """One pass over the nodes; ``cast`` holds each value's other form, so that it is made once."""

    def __init__(self, tape: Tape, half: int, outputs: set[str]) -> None:
        self.tape, self.half, self.outputs = tape, half, outputs
        self.real = (T.FLOAT, half)
        self.cast: dict[tuple[str, int], str] = {}

    def as_type(self, name: str, to: int) -> str:
        tape = self.tape
        if not name or tape.types.get(name) not in self.real or tape.types[name] == to:
            return name
        if (name, to) not in self.cast:
            if name in tape.constants:
                made = tape.constant(self.rounded(tape.constants[name], to), name)
            else:
                made = tape.cast(name, to)
            self.cast[name, to] = made
        return self.cast[name, to]

    def rounded(self, a: np.ndarray, to: int) -> np.ndarray:
        """In half, or back; a mask of −3.4e38 becomes the lowest number that half has, not −∞."""
        dtype = helper.tensor_dtype_to_np_dtype(to)
        if to == T.FLOAT16:
            top = float(np.finfo(np.float16).max)
            a = np.where(np.isfinite(a), np.clip(a, -top, top), a)
        return a.astype(dtype)

    def node(self, node: onnx.NodeProto) -> None:
        tape = self.tape
        kind = node.op_type
        attributes: dict[str, Any] = {a.name: a for a in node.attribute}
        if kind == "Cast" and attributes["to"].i == T.FLOAT:
            to = self.half
            attributes["to"].i = to
        else:
            to = self.half if kind in _IN_HALF else T.FLOAT
            for i, name in enumerate(node.input):
                node.input[i] = self.as_type(name, to)
        for i, name in enumerate(node.output):
            if to != self.half or tape.types.get(name) != T.FLOAT:
                continue
            if name in self.outputs:  # the model's outputs keep their type
                inner = tape.fresh(f"{name}/half")
                if name in tape.shapes:
                    tape.shapes[inner] = tape.shapes[name]
                node.output[i], tape.types[inner] = inner, self.half
                self.cast[name, self.half] = inner
            else:
                tape.types[name] = self.half
        tape.nodes.append(node)
        for told in self.outputs:
            held = self.cast.get((told, self.half))
            if held is not None and held in node.output:
                tape.op("Cast", held, name=told, like=held, to=T.FLOAT)
                tape.types[told] = T.FLOAT
