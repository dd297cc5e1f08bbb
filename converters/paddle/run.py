"""Runs Paddle's optimizers step by step. Imports Paddle. On the processor."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import paddle

from optexport.errors import UnknownNameError
from optexport.parity.runs import Arrays, Snapshot

from ._keys import split

__all__ = ["native_resume", "native_snapshots"]

# Paddle's parameters have names that are unique in a process.
_RUNS = itertools.count()


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Run ``paddle:AdamW`` and the like; slots are under Paddle's own names.

    arguments: of the class. params: name -> array. grads: one mapping a step; a parameter that it
        lacks is left alone. lrs: learning rate of each step, the optimizer's own where None.
    dtype: of parameters, gradients, slots and the learning rate.

    Raises:
        UnknownNameError: Paddle has no such optimizer.
    """
    paddle.set_device("cpu")
    run = next(_RUNS)
    tensors = _parameters({n: (f"run{run}_{n}", v) for n, v in params.items()}, dtype)
    made = _class(optimizer)(parameters=list(tensors.values()), **arguments)
    return _steps(made, tensors, grads, lrs, dtype)


def native_resume(
    path: str | PathLike[str],
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Load a ``.pdopt`` file with `paddle.load` into a new optimizer of the given class, and go on.

    params: by the names that Paddle itself has for them, which the file's keys begin with.
    arguments: of the class; the file holds none but the learning rate. The rest is as for
        `native_snapshots`.
    """
    paddle.set_device("cpu")
    tensors = _parameters({n: (n, v) for n, v in params.items()}, dtype)
    with paddle.utils.unique_name.guard():  # the file's keys end in _0
        made = _class(optimizer)(parameters=list(tensors.values()), **arguments)
        made.set_state_dict(paddle.load(str(path)))
        made._create_accumulators(
            paddle.base.framework.default_main_program().global_block(), made._parameter_list
        )
    return _steps(made, tensors, grads, lrs, dtype)


def _parameters(named: Mapping[str, tuple[str, Any]], dtype: str) -> dict[str, Any]:
    out = {}
    for name, (own, value) in named.items():
        array = np.asarray(value, dtype)
        tensor = paddle.create_parameter(list(array.shape), dtype, name=own)
        tensor.set_value(array)
        out[name] = tensor
    return out


def _steps(
    made: Any,
    tensors: Mapping[str, Any],
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None,
    dtype: str,
) -> Iterator[Snapshot]:
    for gradients, lr in zip(grads, lrs or [None] * len(grads), strict=True):
        if lr is not None:
            made.set_lr(float(lr))
        made.clear_grad(set_to_zero=False)
        for name, gradient in gradients.items():
            tensors[name].grad = paddle.to_tensor(np.asarray(gradient, dtype))
        made.step()
        slots: dict[str, dict[str, np.ndarray[Any, Any]]] = {n: {} for n in tensors}
        owner = {t.name: n for n, t in tensors.items()}
        for key, value in made.state_dict().items():
            found = split(key)
            if found is not None and found.param in owner:
                array = value.numpy().copy()
                # One number, which Paddle keeps in every element.
                once = found.slot == "mu_product"
                slots[owner[found.param]][found.slot] = array.reshape(-1)[0] if once else array
        yield {n: t.numpy().copy() for n, t in tensors.items()}, slots


def _class(optimizer: str) -> Any:
    name = optimizer.rpartition(":")[2].lower()
    for found, kind in vars(paddle.optimizer).items():
        if found.lower() == name and inspect.isclass(kind) and issubclass(kind, paddle.optimizer.Optimizer):
            return kind
    raise UnknownNameError(f"{optimizer!r}: expected an optimizer of paddle.optimizer, as in paddle:AdamW")
