"""Programs as NumPy functions over many settings of the hyperparameters at once.

The referee defines what an operator computes; this is the same table with one leading axis, over
settings, so that a search may try dozens of values in one go. ``tests/identify/test_vectorized.py``
holds both beside each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..ir import Program
from ..ir.program import Input, Node
from ..ir.types import FLOAT32

__all__ = ["compiled"]

Array = np.ndarray[Any, Any]
# Inputs by key -> outputs by name; asks for the sum over the group by yielding its part.
Compiled = Callable[[Mapping[str, Array]], Generator[Array, Array, dict[str, Array]]]


def _rest(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _total(x: Array) -> Array:
    return np.asarray(x.sum(axis=_rest(x), keepdims=True))


def _mean(x: Array) -> Array:
    return np.asarray(x.mean(axis=_rest(x), keepdims=True))


def _norm(x: Array) -> Array:
    return np.asarray(np.sqrt((x * x).sum(axis=_rest(x), keepdims=True)))


def _mean_rest(x: Array) -> Array:
    return np.asarray(x.mean(axis=_rest(x)[1:], keepdims=True)) if x.ndim > 2 else np.zeros_like(x)


def _axis(x: Array, function: Callable[..., Any], axis: int) -> Array:
    return np.asarray(function(x, axis=axis if axis < 0 else axis + 1, keepdims=True))


def _size(x: Array, which: str) -> float:
    return float(np.prod(x.shape[1:])) if which == "all" else float(x.shape[1:][int(which)])


def _push(history: Array, x: Array) -> Array:
    fresh = np.broadcast_to(x, (history.shape[0], *history.shape[2:]))
    return np.concatenate([history[:, 1:], fresh[:, None]], axis=1)


def _expand(x: Array, like: Array) -> Array:
    return np.broadcast_to(x, (max(x.shape[0], like.shape[0]), *like.shape[1:]))


def _rounded(x: Array, dtype: str) -> Array:
    import ml_dtypes

    narrow = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return np.asarray(x).astype(narrow).astype(np.float64)


def _single(x: Array) -> Array:
    return np.asarray(x).astype(np.float32).astype(np.float64)


def _pow(x: Array, y: Array) -> Array:
    """Through libm, as a host computes it; the ufunc's vector code may miss the nearest by a unit, which
    1 − βᵗ magnifies."""
    x, y = np.broadcast_arrays(x, y)
    powers = [_host_pow(a, b) for a, b in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)]
    return np.array(powers).reshape(x.shape)


def _host_pow(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except (ValueError, OverflowError):
        return float(np.power(x, y))


_TEXT = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "pow": "np.power({0}, {1})",
    "sqrt": "np.sqrt({0})",
    "exp": "np.exp({0})",
    "log": "np.log({0})",
    "abs": "np.abs({0})",
    "sign": "np.sign({0})",
    "min": "np.minimum({0}, {1})",
    "max": "np.maximum({0}, {1})",
    "eq": "np.equal({0}, {1})",
    "lt": "np.less({0}, {1})",
    "le": "np.less_equal({0}, {1})",
    "where": "np.where({0}, {1}, {2})",
    "floor": "np.floor({0})",
    "cos": "np.cos({0})",
    "matmul": "np.matmul({0}, {1})",
    "transpose": "np.swapaxes({0}, -1, -2)",
    "sum": "_total({0})",
    "mean": "_mean({0})",
    "norm": "_norm({0})",
    "mean_rest": "_mean_rest({0})",
    "sum_axis": "_axis({0}, np.sum, {attr})",
    "mean_axis": "_axis({0}, np.mean, {attr})",
    "max_axis": "_axis({0}, np.max, {attr})",
    "size": "_size({0}, {attr!r})",
    "item": "{0}[:, {attr}]",
    "push": "_push({0}, {1})",
    "expand": "_expand({0}, x['param'])",
    "rounded": "_rounded({0}, {attr!r})",
    "group_sum": "(yield {0})",
}


def _line(node: Node) -> str:
    if isinstance(node.attr, Input):
        text = f"x[{node.attr.key!r}]"
    elif node.op == "const":
        number = float(str(node.attr))
        text = f"np.float64({number!r})" if np.isfinite(number) else f"float('{number}')"
    elif node.op == "cast":
        text = f"v{node.args[0]}"
    elif node.op == "pow" and not node.type.is_tensor:
        text = f"_pow(v{node.args[0]}, v{node.args[1]})"
    else:
        text = _TEXT[node.op].format(*(f"v{a}" for a in node.args), attr=node.attr)
    return f"_single({text})" if node.type is FLOAT32 else text


@lru_cache(maxsize=4096)
def _code(nodes: tuple[Node, ...], outputs: tuple[tuple[str, int], ...]) -> Compiled:
    live = sorted(Program(nodes, dict(outputs)).used())
    lines = [f"    v{i} = {_line(nodes[i])}" for i in live]
    made = ", ".join(f"{name!r}: v{i}" for name, i in outputs)
    text = "\n".join(["def run(x):", *lines, f"    return {{{made}}}", "    yield"])
    space: dict[str, Any] = dict(globals())
    exec(text, space)  # made of the table above alone
    run: Compiled = space["run"]
    return run


def compiled(program: Program) -> Compiled:
    """The program as a generator function.

    Inputs have a leading axis, of settings (or 1); behind it tensors have their shape, scalars as many
    axes of size 1 as the parameter has. Tensors are float64.
    """
    return _code(program.nodes, tuple(sorted(program.outputs.items())))
