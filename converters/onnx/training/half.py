"""Computing in half precision: parameters, slots, statistics and the loss stay float32.

What is stored is cast where it is read. Products, convolutions and what only moves or rectifies numbers
run in half; everything else (normalisations, softmax, sums, exponentials) stays in float32 between casts,
the division that Micikevicius et al. 2018 (arXiv:1710.03740) give and frameworks' autocasts follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from optexport.errors import HyperparameterError, ModelError

from .tape import Tape

if TYPE_CHECKING:
    from .forward import Forward

__all__ = ["compute_in_half", "half_type"]

# Exact on what they move, or as good in half as their inputs are. Not what picks elements (Gather, MaxPool): its
# gradient is a sum of arbitrarily many, and no provider scatters sums of float16.
_IN_HALF = frozenset(
    (
        *("MatMul", "Gemm", "Conv", "ConvTranspose", "Add", "Sub", "Mul", "Div", "Neg", "Abs"),
        *(
            "Relu",
            "LeakyRelu",
            "PRelu",
            "Tanh",
            "Sigmoid",
            "HardSigmoid",
            "HardSwish",
            "Gelu",
            "Erf",
            "Elu",
            "Selu",
        ),
        *("Clip", "Where", "Max", "Min", "AveragePool", "Pad", "Dropout"),
        *("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile"),
        *("Concat", "Split", "Slice", "DepthToSpace", "SpaceToDepth"),
    )
)


def half_type(name: str) -> int:
    """The element type that ``compute`` names.

    Raises:
        HyperparameterError: another name, or a type that onnxruntime has no kernels for.
    """
    if name == "bfloat16":
        raise HyperparameterError(
            "compute: expected float16 or float32, found 'bfloat16', for which onnxruntime's CPU provider has no "
            "kernels of MatMul, Gemm, Add, Mul or ReduceSum; use float16 with loss scaling"
        )
    if name != "float16":
        raise HyperparameterError(f"compute: expected float16 or float32, found {name!r}")
    return int(T.FLOAT16)


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
    walk = _Walk(tape, half, {o.name for o in forward.outputs})
    for node in nodes:
        walk.node(node)


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
