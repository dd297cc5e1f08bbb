"""Runs Optax transformations, emitted and native, step by step. Imports jax and optax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from optexport.dialects import find
from optexport.errors import HyperparameterError, UnknownNameError

from .optimizers.common import COUNT, OptaxNative

__all__ = ["native_snapshots"]

Arrays = Mapping[str, Any]
Slots = dict[str, dict[str, np.ndarray[Any, Any]]]
Snapshot = tuple[dict[str, np.ndarray[Any, Any]], Slots]


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    groups: Sequence[Mapping[str, Any]] | None = None,
) -> Iterator[Snapshot]:
    """Run ``optax:adamw`` and the like; slots are under Optax' own names, without ``count``.

    float64 runs with 64-bit JAX switched on around each update, float32 without, as users have it.

    params: name -> array. grads: one mapping a step, each with every parameter: Optax counts steps
        for all of them together. lrs: learning rate of each step, the arguments' own where None.
    groups: parameter groups, each ``{"params": [names], **overrides}``; parameters in none of them
        form the last group. Each group is a transformation of its own.

    Raises:
        UnknownNameError: Optax has no such optimizer. HyperparameterError: a parameter lacks a gradient.
    """
    _check_complete(params, grads)
    named = [n for g in groups or () for n in g["params"]]
    parts = [
        ({**arguments, **{k: v for k, v in g.items() if k != "params"}}, g["params"]) for g in groups or ()
    ]
    parts.append((dict(arguments), [n for n in params if n not in named]))
    runs = [
        _Native(optimizer, given, {n: params[n] for n in names}, dtype) for given, names in parts if names
    ]
    for gradients, lr in zip(grads, lrs or [None] * len(grads), strict=True):
        after: dict[str, Any] = {}
        slots: Slots = {}
        for run in runs:
            run.update(gradients, lr)
            after |= run.parameters()
            slots |= run.slots()
        yield {n: after[n] for n in params}, slots


def _check_complete(params: Arrays, grads: Sequence[Arrays]) -> None:
    for number, gradients in enumerate(grads, 1):
        for name in params:
            if name not in gradients:
                raise HyperparameterError(
                    f"update {number}: expected a gradient for every parameter, found none for {name!r}; "
                    "Optax has one step count for all"
                )


class _Native:
    """One real transformation, its parameters and its state."""

    def __init__(self, optimizer: str, arguments: Mapping[str, Any], params: Arrays, dtype: str) -> None:
        entry = find(optimizer)
        assert isinstance(entry, OptaxNative)
        self.entry, self.arguments, self.dtype = entry, entry.complete(arguments), dtype
        with jax.experimental.enable_x64(dtype == "float64"):
            self.params = {n: jnp.asarray(np.asarray(v), dtype) for n, v in params.items()}
            self.state = build(entry, self.arguments).init(self.params)

    def update(self, grads: Arrays, lr: float | None) -> None:
        arguments = dict(self.arguments)
        if lr is not None:
            self.entry.links["lr"].write(arguments, lr)
        with jax.experimental.enable_x64(self.dtype == "float64"):
            made = {n: jnp.asarray(np.asarray(grads[n]), self.dtype) for n in self.params}
            updates, self.state = build(self.entry, arguments).update(made, self.state, self.params)
            self.params = optax.apply_updates(self.params, updates)

    def parameters(self) -> dict[str, np.ndarray[Any, Any]]:
        return {n: np.asarray(v) for n, v in self.params.items()}

    def slots(self) -> Slots:
        found: Slots = {n: {} for n in self.params}
        for slot, tree in leaves(self.entry.state(self.arguments), self.state):
            for name in self.params:
                found[name][slot] = np.asarray(tree[name])
        return found


def build(entry: OptaxNative, arguments: Mapping[str, Any]) -> optax.GradientTransformation:
    """The real transformation of an alias at complete arguments.

    Raises:
        UnknownNameError: neither optax nor optax.contrib has it.
    """
    make = getattr(optax, entry.name, None) or getattr(optax.contrib, entry.name, None)
    if make is None:
        raise UnknownNameError(f"{entry.qualified}: expected a name of optax or optax.contrib")
    return make(**arguments)


def leaves(layout: Any, state: Any) -> Iterator[tuple[str, Any]]:
    """(slot, its tree) of a state that has the layout of `OptaxNative.state`.

    Raises:
        HyperparameterError: the state is nested otherwise.
    """
    if isinstance(layout, str):
        if layout != COUNT:
            yield layout, state
        return
    if isinstance(layout, tuple):
        if not isinstance(state, tuple) or len(state) != len(layout):
            raise HyperparameterError(f"expected a chain of {len(layout)} states, found {state!r:.200}")
        for inner, held in zip(layout, state, strict=True):
            yield from leaves(inner, held)
    elif isinstance(layout, Mapping):
        names = tuple(getattr(state, "_fields", ()))
        if names != tuple(layout):
            raise HyperparameterError(f"expected a state with the fields {', '.join(layout)}, found {names}")
        for name, inner in layout.items():
            yield from leaves(inner, getattr(state, name))
