"""Runs PyTorch optimizers, emitted and native, step by step. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch

from optexport import source
from optexport.errors import CheckpointError, UnknownNameError
from optexport.parity.runs import Arrays, Snapshot, starting_state
from optexport.schedules.inline import inline
from optexport.specs import Spec

from ._flat import spread
from .emit import emit

__all__ = ["native_resume", "native_snapshots", "snapshots"]


def snapshots(
    spec: Spec,
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    slots: Mapping[str, Arrays] | None = None,
    steps: Mapping[str, int] | int | None = None,
    noise: Sequence[Arrays] | None = None,
    hessian: Sequence[Arrays] | None = None,
) -> Iterator[Snapshot]:
    """Run the emitted optimizer; after each step the parameters, and the slots by the rule's names.

    params: name -> array. grads: one mapping a step; a parameter that it lacks is left alone.
    lrs: learning rate of each step for all groups (before their ``lr_mult``), the spec's own where None.
    dtype: of parameters, gradients and slots.
    slots, steps: where to start from; slots that are absent start at their initial values.
    noise, hessian: one mapping a step, for rules that take them.

    Raises:
        UnknownNameError: a group of ``spec`` lists a parameter that ``params`` lacks.
    """
    spec = inline(spec.settle(params), () if lrs is None else ("lr",))
    made = source.execute(emit(spec))
    tensors = _parameters(params, dtype)
    groups = made.param_groups(tensors.items()) if hasattr(made, "param_groups") else list(tensors.values())
    optimizer = getattr(made, source.class_name(spec, None))(groups)
    if slots is not None or steps is not None:
        start = starting_state(spec, params, slots, steps)
        for name, tensor in tensors.items():
            full = start.full_slots(name)
            optimizer.state[tensor] = {
                s.name: _tensor(full[s.name], dtype) if s.type.is_tensor else float(full[s.name])
                for s in spec.group(name).rule.slots
            }
            optimizer.state[tensor]["step"] = start.steps.get(name, 0)
    rates = [[g.values(lr).get("lr") for g in spec.groups] for lr in lrs or [None] * len(grads)]
    taken = source.given(g.rule for g in spec.groups)
    given = {k: v for k, v in {"noise": noise, "hessian": hessian}.items() if v is not None and k in taken}
    kinds = {n: {s.name: s.dtype_for(dtype) for s in spec.group(n).rule.slots} for n in params}
    for params_now, slots_now in _steps(optimizer, tensors, grads, rates, dtype, given):
        # Numbers are as wide as their slots.
        yield (
            params_now,
            {n: {s: np.asarray(v, kinds[n][s]) for s, v in own.items()} for n, own in slots_now.items()},
        )


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    groups: Sequence[Mapping[str, Any]] | None = None,
) -> Iterator[Snapshot]:
    """Run ``torch:AdamW`` and the like; slots are under PyTorch's own names, without ``step``.

    arguments: of the class. groups: parameter groups, each ``{"params": [names], **overrides}``;
        parameters in none of them form the last group. The others are as for `snapshots`.

    Raises:
        UnknownNameError: PyTorch has no such optimizer.
    """
    tensors = _parameters(params, dtype)
    named = [n for g in groups or () for n in g["params"]]
    made = [{**g, "params": [tensors[n] for n in g["params"]]} for g in groups or ()]
    rest = [t for n, t in tensors.items() if n not in named]
    instance = _class(optimizer)([*made, {"params": rest}] if rest else made, **arguments)
    return _steps(instance, tensors, grads, _rates(instance, grads, lrs), dtype)


def native_resume(
    path: str | PathLike[str],
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Load a checkpoint with PyTorch itself, into a new optimizer of the given class, and go on.

    path: a file that ``torch.load`` reads (``weights_only=True``): an optimizer's ``state_dict()``, or
        a dictionary that holds one. Its parameters are ``params`` in order, or by ``param_names``.
    arguments: of the class; the file's own values replace them. The rest is as for `native_snapshots`.

    Raises:
        CheckpointError: the file holds no optimizer's state.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True)
    found = _state_dict(saved)
    if found is None:
        raise CheckpointError(
            f"{path}: expected an optimizer's state_dict, found none; save optimizer.state_dict()"
        )
    tensors = _parameters(params, dtype)
    order, groups = iter(tensors), []
    for group in found["param_groups"]:
        names = group.get("param_names") or [next(order) for _ in group["params"]]
        groups.append({"params": [tensors[n] for n in names]})
    instance = _class(optimizer)(groups, **arguments)
    instance.load_state_dict(found)
    return _steps(instance, tensors, grads, _rates(instance, grads, lrs), dtype)


def _rates(
    optimizer: torch.optim.Optimizer, grads: Sequence[Arrays], lrs: Sequence[float | None] | None
) -> list[list[float]]:
    """Learning rate of each group at each step: the given one, else the group's own."""
    own = [float(g["lr"]) for g in optimizer.param_groups]
    return [own if lr is None else [lr] * len(own) for lr in lrs or [None] * len(grads)]


def _steps(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.nn.Parameter],
    grads: Sequence[Arrays],
    rates: Sequence[Sequence[float | None]],
    dtype: str,
    extras: Mapping[str, Sequence[Arrays]] | None = None,
) -> Iterator[Snapshot]:
    """extras: what `step` is given beside the gradients, one mapping a step."""
    for number, (gradients, lrs) in enumerate(zip(grads, rates, strict=True)):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            if lr is not None:
                group["lr"] = lr
        for name, tensor in tensors.items():
            tensor.grad = None
            if name in gradients:
                given = torch.tensor(np.asarray(gradients[name]), dtype=tensor.dtype)
                tensor.grad = _every_row(given) if isinstance(optimizer, torch.optim.SparseAdam) else given
        beside: dict[str, Any] = {
            key: {tensors[n]: _tensor(v, dtype) for n, v in values[number].items()}
            for key, values in (extras or {}).items()
        }
        if isinstance(optimizer, torch.optim.LBFGS):
            beside["closure"] = lambda: torch.zeros(())  # the gradients are there already
        optimizer.step(**beside)
        params = {n: t.detach().numpy().copy() for n, t in tensors.items()}
        slots = {
            n: {
                s: v.numpy().copy() if torch.is_tensor(v) else np.asarray(v)
                for s, v in optimizer.state[t].items()
                if s != "step" and (torch.is_tensor(v) or isinstance(v, float))
            }
            for n, t in tensors.items()
        }
        if isinstance(optimizer, torch.optim.LBFGS):
            shapes = {n: tuple(t.shape) for n, t in tensors.items()}
            (group,) = optimizer.param_groups
            slots = spread(optimizer.state[group["params"][0]], shapes, group["history_size"])
        yield params, slots


def _parameters(params: Arrays, dtype: str) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(_tensor(value, dtype)) for name, value in params.items()}


def _tensor(value: Any, dtype: str) -> torch.Tensor:
    """A tensor of its own memory."""
    return torch.tensor(np.asarray(value), dtype=getattr(torch, dtype))


def _every_row(grad: torch.Tensor) -> torch.Tensor:
    """A sparse gradient that holds every row, those of zeros too."""
    rows = torch.arange(len(grad))[None]
    return torch.sparse_coo_tensor(rows, grad, grad.shape, is_coalesced=True, check_invariants=True)


def _class(optimizer: str) -> type[torch.optim.Optimizer]:
    name = optimizer.rpartition(":")[2].lower()
    for found, kind in vars(torch.optim).items():
        if found.lower() == name and inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer):
            return kind
    raise UnknownNameError(f"{optimizer!r}: expected an optimizer of torch.optim, as in torch:AdamW")


def _state_dict(saved: Any) -> dict[str, Any] | None:
    """The first optimizer's state_dict at the top of a checkpoint or one level below."""
    if not isinstance(saved, dict):
        return None
    if "state" in saved and "param_groups" in saved:
        return saved
    inner = [v[0] if isinstance(v, list) and v else v for v in saved.values()]
    return next((v for v in inner if isinstance(v, dict) and "state" in v and "param_groups" in v), None)
