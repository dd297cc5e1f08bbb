"""Runs MLX's optimizers step by step. Imports MLX.

On the processor, whose device has float64; Apple's GPU does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import ml_dtypes
import mlx.core as mx
import mlx.optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from optexport.errors import CheckpointError, UnknownNameError
from optexport.parity.runs import Arrays, Snapshot

__all__ = ["native_resume", "native_snapshots"]


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    done: int = 0,
) -> Iterator[Snapshot]:
    """Run ``mlx:AdamW`` and the like; slots are under MLX's own names.

    arguments: of the class. params: name -> array. grads: one mapping a step; a parameter that it
        lacks is left alone, but the step count, which all share, goes on.
    lrs: learning rate of each step, the optimizer's own where None. dtype: of parameters, gradients,
        slots and the learning rate. done: updates that count as made.

    Raises:
        UnknownNameError: MLX has no such optimizer.
    """
    with mx.stream(mx.cpu):
        made = _class(optimizer)(**arguments)
        made.state["step"] = mx.array(done, mx.uint64)
    return _steps(made, params, grads, lrs, dtype)


def native_resume(
    path: str | PathLike[str],
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Load a state with `mlx.core.load` into a new optimizer of the given class, and go on.

    arguments: of the class; the file holds the learning rate and the step count only. The rest is as
        for `native_snapshots`.

    Raises:
        CheckpointError: the file holds no state.
    """
    with mx.stream(mx.cpu):
        made = _class(optimizer)(**arguments)
        held = mx.load(str(path))
        if not isinstance(held, dict) or "step" not in held:
            raise CheckpointError(f"{path}: expected an optimizer's state with its step, found none")
        made.state = tree_unflatten(list(held.items()))
    return _steps(made, params, grads, lrs, dtype)


def _steps(
    made: Any,
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None,
    dtype: str,
) -> Iterator[Snapshot]:
    kind = getattr(mx, dtype)
    with mx.stream(mx.cpu):
        tensors = {n: mx.array(np.asarray(v, np.float64), dtype=kind) for n, v in params.items()}
    for gradients, lr in zip(grads, lrs or [None] * len(grads), strict=True):
        with mx.stream(mx.cpu):
            if lr is not None and "learning_rate" in made.state:
                made.learning_rate = mx.array(lr, dtype=mx.float64 if dtype == "float64" else mx.float32)
            given = [(n, mx.array(np.asarray(g, np.float64), dtype=kind)) for n, g in gradients.items()]
            changed = made.apply_gradients(
                tree_unflatten(given), tree_unflatten([(n, tensors[n]) for n in gradients])
            )
            tensors.update(tree_flatten(changed))
            mx.eval(tensors, made.state)
            held = dict(tree_flatten(made.state))
            slots = {
                n: {k[len(n) + 1 :]: _numpy(v) for k, v in held.items() if k.rpartition(".")[0] == n}
                for n in tensors
            }
            yield {n: _numpy(t) for n, t in tensors.items()}, slots


def _numpy(array: Any) -> np.ndarray[Any, Any]:
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.array(array)


def _class(optimizer: str) -> Any:
    name = optimizer.rpartition(":")[2].lower()
    for found, kind in vars(mlx.optimizers).items():
        if found.lower() == name and inspect.isclass(kind) and issubclass(kind, mlx.optimizers.Optimizer):
            return kind
    raise UnknownNameError(f"{optimizer!r}: expected an optimizer of mlx.optimizers, as in mlx:AdamW")
