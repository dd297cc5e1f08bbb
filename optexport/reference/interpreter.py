"""What each operator computes. This file defines the meaning of the IR."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.program import Input, Node, Program
from ..ir.types import FLOAT32, TENSOR

__all__ = ["run", "run_together"]

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
    "floor": np.floor,
    "cos": np.cos,
    "matmul": np.matmul,
}
_REDUCE: dict[str, Callable[..., Any]] = {
    "sum": lambda x: x.sum(dtype=np.float64),
    "mean": lambda x: x.mean(dtype=np.float64),
    "norm": lambda x: np.sqrt(np.square(x, dtype=np.float64).sum()),
}
_ALONG: dict[str, Callable[..., Any]] = {"sum_axis": np.sum, "mean_axis": np.mean, "max_axis": np.max}
Running = Generator[float, float, dict[str, Any]]


def _rounded(values: list[Any], node: Node, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    import ml_dtypes

    narrow = ml_dtypes.bfloat16 if node.attr == "bfloat16" else np.dtype(str(node.attr))
    return np.asarray(values[node.args[0]]).astype(narrow).astype(dtype)


def _along(values: list[Any], node: Node, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    return _ALONG[node.op](values[node.args[0]], axis=int(node.attr), keepdims=True)  # type: ignore[arg-type]


def _mean_rest(values: list[Any], node: Node, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    x = values[node.args[0]]
    return np.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True) if x.ndim > 1 else np.zeros_like(x)


def _size(values: list[Any], node: Node, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    x = values[node.args[0]]
    return np.float64(np.size(x) if node.attr == "all" else np.shape(x)[int(node.attr)])  # type: ignore[arg-type]


# What depends on shapes, or on an attribute: (values so far, node, the parameter's shape, dtype).
_SHAPED: dict[str, Callable[..., Any]] = {
    "sum_axis": _along,
    "mean_axis": _along,
    "max_axis": _along,
    "mean_rest": _mean_rest,
    "transpose": lambda values, node, shape, dtype: np.swapaxes(values[node.args[0]], -1, -2),
    "expand": lambda values, node, shape, dtype: np.broadcast_to(values[node.args[0]], shape),
    "item": lambda values, node, shape, dtype: values[node.args[0]][int(node.attr)],
    "push": lambda values, node, shape, dtype: np.concatenate(
        [values[node.args[0]][1:], np.asarray(values[node.args[1]], dtype)[None]]
    ),
    "size": _size,
    "rounded": _rounded,
}


def run(program: Program, inputs: Mapping[str, Any], dtype: Any = np.float64) -> dict[str, Any]:
    """Execute ``program`` once.

    inputs: by key (``param``, ``grad``, ``step``, ``hyper:lr``, ``slot:exp_avg``); tensors of one
        shape, scalars as numbers.
    dtype: of every tensor operation. Scalars are float64 (float32 where the rule says so) and are
        rounded to ``dtype`` where they meet a tensor.
    Returns the new values by output name: arrays of ``dtype``, or floats where a program (a
    translation's) has scalar outputs. Group sums have the one member.
    """
    return run_together([(program, inputs)], dtype)[0]


def run_together(
    members: Sequence[tuple[Program, Mapping[str, Any]]], dtype: Any = np.float64
) -> list[dict[str, Any]]:
    """Execute one program a parameter in lockstep, so that group sums see all of them.

    The n-th group sum of each program is added up over the members that have one, in their order.
    """
    done: dict[int, dict[str, Any]] = {}
    running = {i: _execute(p, x, np.dtype(dtype)) for i, (p, x) in enumerate(members)}
    totals: dict[int, float | None] = dict.fromkeys(running)
    with np.errstate(all="ignore"):
        while running:
            parts = {}
            for i, member in list(running.items()):
                try:
                    parts[i] = member.send(totals[i])  # type: ignore[arg-type]  # None starts it
                except StopIteration as finished:
                    done[i] = finished.value
                    del running[i]
            totals.update(dict.fromkeys(parts, float(np.sum(list(parts.values())))))
    return [done[i] for i in range(len(members))]


def _execute(program: Program, inputs: Mapping[str, Any], dtype: np.dtype) -> Running:
    values: list[Any] = []
    for node in program.nodes:
        if node.op == "group_sum":
            values.append(np.float64((yield values[node.args[0]])))
            continue
        values.append(_value(program, node, values, inputs, dtype))
        if node.op == "const" and node.type.is_tensor:
            values[-1] = np.full(_shape(program, inputs), values[-1])
    return {
        name: np.asarray(values[i], dtype) if program.nodes[i].type.is_tensor else float(values[i])
        for name, i in program.outputs.items()
    }


def _shape(program: Program, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Of every tensor: that of the first one among the inputs."""
    tensors = (n.attr.key for n in program.nodes if isinstance(n.attr, Input) and n.type is TENSOR)
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
    if node.op in _SHAPED:
        return _SHAPED[node.op](values, node, _shape(program, inputs), dtype)
    operands = [
        # A scalar that meets a tensor is rounded to the tensor's dtype first.
        v
        if program.nodes[a].type.is_truth
        else np.asarray(v, dtype)
        if _meets_tensor(program, node)
        else kind(v)
        for a, v in zip(node.args, (values[a] for a in node.args), strict=True)
    ]
    if node.op == "pow" and not node.type.is_tensor:
        # Through libm, as a host computes it; the ufunc's vector code may miss the nearest by a unit.
        return kind(operands[0] ** operands[1])
    result = _ELEMENTWISE[node.op](*operands)
    return result if node.type.is_truth or node.type.is_tensor else kind(result)


def _meets_tensor(program: Program, node: Node) -> bool:
    return any(program.nodes[a].type.is_tensor for a in node.args)
