"""What each operator computes. This file defines the meaning of the IR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..ir.program import Input, Node, Program
from ..ir.types import FLOAT32

__all__ = ["run"]

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "pow": np.power,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "abs": np.abs,
    "sign": np.sign,
    "min": np.minimum,
    "max": np.maximum,
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "where": np.where,
}
_REDUCE: dict[str, Callable[..., Any]] = {
    "sum": lambda x: x.sum(dtype=np.float64),
    "mean": lambda x: x.mean(dtype=np.float64),
    "norm": lambda x: np.sqrt(np.square(x, dtype=np.float64).sum()),
}


def run(program: Program, inputs: Mapping[str, Any], dtype: Any = np.float64) -> dict[str, Any]:
    """Execute ``program`` once.

    inputs: by key (``param``, ``grad``, ``step``, ``hyper:lr``, ``slot:exp_avg``); tensors of one
        shape, scalars as numbers.
    dtype: of every tensor operation. Scalars are float64 (float32 where the rule says so) and are
        rounded to ``dtype`` where they meet a tensor.
    Returns the new values by output name: arrays of ``dtype``, or floats where a program (a
    translation's) has scalar outputs.
    """
    dtype = np.dtype(dtype)
    values: list[Any] = []
    with np.errstate(all="ignore"):
        for node in program.nodes:
            values.append(_value(program, node, values, inputs, dtype))
            if node.op == "const" and node.type.is_tensor:
                values[-1] = np.full(_shape(program, inputs), values[-1])
    return {
        name: np.asarray(values[i], dtype) if program.nodes[i].type.is_tensor else float(values[i])
        for name, i in program.outputs.items()
    }


def _shape(program: Program, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Of every tensor: that of the first one among the inputs."""
    tensors = (i.key for i in program.inputs() if i.role in ("param", "grad", "slot"))
    return np.shape(inputs[next(tensors, "param")])


def _value(
    program: Program, node: Node, values: list[Any], inputs: Mapping[str, Any], dtype: np.dtype
) -> Any:
    kind = dtype.type if node.type.is_tensor else np.float32 if node.type is FLOAT32 else np.float64
    if isinstance(node.attr, Input):
        value = inputs[node.attr.key]
        return np.asarray(value, dtype) if node.type.is_tensor else kind(value)
    if node.op == "const":
        return kind(node.attr)
    if node.op == "cast":
        return kind(values[node.args[0]])
    if node.op in _REDUCE:
        return np.float64(_REDUCE[node.op](values[node.args[0]]))
    operands = [
        # A scalar that meets a tensor is rounded to the tensor's dtype first.
        v
        if program.nodes[a].type.is_truth
        else np.asarray(v, dtype)
        if _meets_tensor(program, node)
        else kind(v)
        for a, v in zip(node.args, (values[a] for a in node.args), strict=True)
    ]
    result = _ELEMENTWISE[node.op](*operands)
    return result if node.type.is_truth or node.type.is_tensor else kind(result)


def _meets_tensor(program: Program, node: Node) -> bool:
    return any(program.nodes[a].type.is_tensor for a in node.args)
