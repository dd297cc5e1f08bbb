"""Runs Optax transformations, emitted and native, step by step. Imports jax and optax."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from optexport import source
from optexport.dialects import find
from optexport.errors import CheckpointError, HyperparameterError, UnknownNameError
from optexport.parity.runs import Arrays, Snapshot, counts_of, starting_state
from optexport.schedules.inline import inline
from optexport.specs import Spec
from optexport.state.files import map_file

from ._msgpack import load_msgpack
from .chain import AROUND, ChainNative, normal, with_lr
from .emit import emit, factory_name
from .optimizers.common import COUNT, Each, Gathered, Guarded, OptaxNative, Ring, Shared

__all__ = ["native_resume", "native_snapshots", "snapshots"]

Slots = dict[str, dict[str, np.ndarray[Any, Any]]]


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    groups: Sequence[Mapping[str, Any]] | None = None,
    noise: Sequence[Arrays] | None = None,
) -> Iterator[Snapshot]:
    """Run ``optax:adamw`` and the like; slots are under Optax' own names, without ``count``.

    float64 runs with 64-bit JAX switched on around each update, float32 without, as users have it.

    params: name -> array. grads: one mapping a step, each with every parameter: Optax counts steps
        for all of them together. lrs: learning rate of each step, the arguments' own where None.
    groups: parameter groups, each ``{"params": [names], **overrides}``; parameters in none of them
        form the last group. Each group is a transformation of its own. noise: standard normal numbers
        of each step, which the optimizer's own draws are made of.

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
    draws: Sequence[Arrays | None] = noise or [None] * len(grads)
    for gradients, lr, drawn in zip(grads, lrs or [None] * len(grads), draws, strict=True):
        after: dict[str, Any] = {}
        slots: Slots = {}
        for run in runs:
            with _drawing(drawn, dtype):
                run.update(gradients, lr, compiled=drawn is None)
            after |= run.parameters()
            slots |= run.slots()
        yield {n: after[n] for n in params}, slots


@contextlib.contextmanager
def _drawing(noise: Arrays | None, dtype: str) -> Iterator[None]:
    """Let a transformation's draws of a whole tree be ``noise``, where it is not None."""

    def given(key: Any, target_tree: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        return {n: jnp.asarray(np.asarray(noise[n]), dtype) for n in target_tree}  # type: ignore[index]

    own = optax.tree.random_like
    if noise is not None:
        optax.tree.random_like = given
    try:
        yield
    finally:
        optax.tree.random_like = own


def _check_complete(params: Arrays, grads: Sequence[Arrays]) -> None:
    for number, gradients in enumerate(grads, 1):
        for name in params:
            if name not in gradients:
                raise HyperparameterError(
                    f"update {number}: expected a gradient for every parameter, found none for {name!r}; "
                    "Optax has one step count for all"
                )


class _Update:
    """A transformation's update of parameters and state, as it is and compiled."""

    def __init__(self, transformation: optax.GradientTransformation) -> None:
        def once(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
            updates, state = transformation.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.once, self.compiled = once, jax.jit(once)


class _Native:
    """One real transformation, its parameters and its state."""

    def __init__(self, optimizer: str, arguments: Mapping[str, Any], params: Arrays, dtype: str) -> None:
        entry = find(optimizer)
        assert isinstance(entry, OptaxNative)
        self.entry, self.arguments, self.dtype = entry, entry.complete(arguments), dtype
        self.count = 0
        self.updates: dict[float | None, _Update] = {}
        with _width(dtype):
            self.params = {n: jnp.asarray(np.asarray(v), dtype) for n, v in params.items()}
            self.state = build(entry, self.arguments).init(self.params)

    def update(self, grads: Arrays, lr: float | None, compiled: bool = True) -> None:
        """One update; compiled: as most users run it, once for each learning rate."""
        made = self._made(lr)
        with _width(self.dtype):
            taken = {n: jnp.asarray(np.asarray(grads[n]), self.dtype) for n in self.params}
            once = made.compiled if compiled else made.once
            self.params, self.state = once(self.params, self.state, taken)
        self.count += 1

    def _made(self, lr: float | None) -> _Update:
        if lr not in self.updates:
            arguments = dict(self.arguments)
            if lr is not None and isinstance(self.entry, ChainNative):
                arguments["links"] = with_lr(arguments["links"], lr, self.entry.rows)
            elif lr is not None:
                self.entry.links["lr"].write(arguments, lr)
            self.updates[lr] = _Update(build(self.entry, arguments))
        return self.updates[lr]

    def parameters(self) -> dict[str, np.ndarray[Any, Any]]:
        return {n: np.asarray(v) for n, v in self.params.items()}

    def slots(self) -> Slots:
        found: Slots = {n: {} for n in self.params}
        whole = self.entry.state(self.arguments)
        if isinstance(whole, Guarded) and whole.counted:
            calls = np.asarray(_calls(whole["inner_state"], self.state.inner_state))
            found = {n: {"updates": calls} for n in self.params}
        for layout, tree in leaves(whole, self.state):
            for name in self.params:
                if isinstance(layout, Shared):
                    found[name][layout.slot] = np.asarray(tree)
                elif isinstance(layout, Each):
                    found[name] |= {f"{layout.slot}[{i}]": np.asarray(a) for i, a in enumerate(tree[name])}
                elif isinstance(layout, Ring):
                    found[name][layout.slot] = np.roll(np.asarray(tree[name]), 1 - self.count, axis=0)
                elif not isinstance(tree[name], optax.MaskedNode):
                    found[name][layout] = np.asarray(tree[name])
        return found


def _calls(layout: Any, state: Any) -> int | None:
    """How many calls a state has seen, where it counts them."""
    if isinstance(layout, Gathered):
        return int(state.gradient_step) * layout.every + int(state.mini_step)
    if isinstance(layout, tuple):
        inner = [_calls(part, held) for part, held in zip(layout, state, strict=True)]
    elif isinstance(layout, Mapping):
        inner = [
            int(getattr(state, k)) if v == COUNT else _calls(v, getattr(state, k)) for k, v in layout.items()
        ]
    else:
        inner = []
    return next((n for n in inner if n is not None), None)


def build(entry: OptaxNative, arguments: Mapping[str, Any]) -> optax.GradientTransformation:
    """The real transformation of an alias at complete arguments.

    Raises:
        UnknownNameError: neither optax nor optax.contrib has it.
    """
    if isinstance(entry, ChainNative):
        return _chained(normal(arguments["links"]))
    make = getattr(optax, entry.name, None) or getattr(optax.contrib, entry.name, None)
    if make is None:
        raise UnknownNameError(f"{entry.qualified}: expected a name of optax or optax.contrib")
    return make(**arguments)


def _chained(links: Sequence[tuple[str, dict[str, Any]]], alone: bool = False) -> Any:
    name, arguments = links[0]
    if name in AROUND:
        made = getattr(optax, name)(_chained(links[1:], alone=True), **arguments)
        return made.gradient_transformation() if isinstance(made, optax.MultiSteps) else made
    return (
        _link(name, arguments) if alone and len(links) == 1 else optax.chain(*(_link(n, a) for n, a in links))
    )


def _link(name: str, arguments: Mapping[str, Any]) -> optax.GradientTransformation:
    make = getattr(optax, name, None) or getattr(optax.contrib, name)
    return make(**{"learning_rate" if k == "lr" else k: v for k, v in arguments.items()})


def leaves(layout: Any, state: Any) -> Iterator[tuple[Any, Any]]:
    """(slot, `Each` or `Shared`; its tree) of a state that has the layout of `OptaxNative.state`.

    Raises:
        HyperparameterError: the state is nested otherwise.
    """
    if isinstance(layout, str | Each | Ring | Shared):
        if not (isinstance(layout, str) and layout.startswith("#")):
            yield layout, state
        return
    if isinstance(layout, tuple):
        if not isinstance(state, tuple) or len(state) != len(layout):
            raise HyperparameterError(f"expected a chain of {len(layout)} states, found {state!r:.200}")
        for inner, held in zip(layout, state, strict=True):
            yield from leaves(inner, held)
    elif isinstance(layout, Mapping):
        held = state if isinstance(state, dict) else getattr(state, "_asdict", dict)()
        if set(held) != set(layout):  # compiled code gives a dictionary back in the order of its keys
            raise HyperparameterError(
                f"expected a state with the fields {', '.join(layout)}, found {', '.join(held)}"
            )
        for name, inner in layout.items():
            yield from leaves(inner, held[name])


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
    jit: bool = False,
) -> Iterator[Snapshot]:
    """Run the emitted transformation; after each step the parameters, and the slots by the
    rule's names.

    float64 runs with 64-bit JAX, float32 without: there a state's float64 numbers are float32 too.

    params: name -> array. grads: one mapping a step, each with every parameter.
    lrs: learning rate of each step for all groups (before their ``lr_mult``), the spec's own where None.
    dtype: of parameters, gradients and slots.
    slots, steps: where to start from; slots that are absent start at their initial values.
    noise, hessian: one mapping a step, for rules that take them. jit: compile the update.

    Raises:
        UnknownNameError: a group of ``spec`` lists a parameter that ``params`` lacks.
        HyperparameterError: a parameter lacks a gradient, or ``steps`` differ: the count is shared.
    """
    _check_complete(params, grads)
    spec = inline(spec.settle(params), () if lrs is None else ("lr",))
    made = source.execute(emit(spec))
    factory = getattr(made, factory_name(source.class_name(spec, None)))
    taken = source.given(g.rule for g in spec.groups)
    given = {k: v for k, v in {"noise": noise, "hessian": hessian}.items() if k in taken and v is not None}
    with _width(dtype):
        weights = _arrays(params, dtype)
        state = factory(**_values(spec, None)).init(weights)
        if slots is not None or steps is not None:
            state = _start(spec, state, params, slots or {}, steps)

    @functools.cache
    def update(lr: float | None) -> Any:
        def once(weights: Any, state: Any, gradients: Any, beside: Any) -> tuple[Any, Any]:
            changes, state = factory(**_values(spec, lr)).update(gradients, state, weights, **beside)
            return optax.apply_updates(weights, changes), state

        return jax.jit(once) if jit else once

    for number, (gradients, lr) in enumerate(zip(grads, lrs or [None] * len(grads), strict=True)):
        with _width(dtype):
            beside = {k: _arrays(v[number], dtype) for k, v in given.items()}
            weights, state = update(lr)(weights, state, _arrays(gradients, dtype), beside)
            now = {n: np.asarray(v) for n, v in weights.items()}
            held = {
                n: {
                    s.name: np.asarray(getattr(state, s.name)[n], s.dtype_for(dtype))
                    for s in spec.group(n).rule.slots
                }
                for n in params
            }
        yield now, held


def _width(dtype: str) -> Any:
    """The context in which JAX has float64, or has not."""
    switch = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    return switch(dtype == "float64")


def _arrays(values: Arrays, dtype: str) -> dict[str, Any]:
    return {n: jnp.asarray(np.asarray(v), dtype) for n, v in values.items()}


def _values(spec: Spec, lr: float | None) -> dict[str, Any]:
    """Arguments of the emitted function at this learning rate."""
    if len(spec.groups) == 1:
        return spec.groups[0].values(lr)
    return {
        "groups": [
            {"params": list(g.params or ()), "rule": source.rule_name(g.rule), **g.values(lr)}
            for g in spec.groups
        ]
    }


def _start(
    spec: Spec, state: Any, params: Arrays, slots: Mapping[str, Arrays], steps: Mapping[str, int] | int | None
) -> Any:
    """``state`` with these slots and this count."""
    counts = counts_of(params, steps)
    if len(set(counts.values())) > 1:
        raise HyperparameterError(
            f"steps: expected one count for all parameters, found {counts}; Optax has one"
        )
    full = starting_state(spec, params, slots, counts)
    new = {}
    for slot in state._fields[1:]:
        trees = {n: full.full_slots(n) for n in params}
        new[slot] = {
            n: jnp.asarray(trees[n][slot], old.dtype) if slot in trees[n] else old
            for n, old in getattr(state, slot).items()
        }
    return state._replace(count=jnp.asarray(next(iter(counts.values()), 0), jnp.int32), **new)


def native_resume(
    path: str | PathLike[str],
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Load a msgpack file into the real transformation's state, as ``flax.serialization.from_bytes`` does,
    and go on.

    Uses Flax where it is installed; else the file's tree is put into the fresh state's structure here.
    arguments: of the alias. The rest is as for `native_snapshots`.

    Raises:
        CheckpointError: the file's tree is not that of the transformation's state.
    """
    _check_complete(params, grads)
    made = _Native(optimizer, arguments, params, dtype)
    with _width(dtype):
        try:
            from flax import serialization
        except ImportError:
            tree = load_msgpack(map_file(path), str(path))
            made.state = _restored(made.state, tree.get("opt_state", tree), str(path))
        else:
            with open(path, "rb") as file:
                made.state = serialization.from_bytes(made.state, file.read())
    for gradients, lr in zip(grads, lrs or [None] * len(grads), strict=True):
        made.update(gradients, lr)
        yield made.parameters(), made.slots()


def _restored(target: Any, tree: Any, where: str) -> Any:
    """``tree`` in the structure of ``target``: maps become the named tuples, tuples and lists there."""
    fields = getattr(target, "_fields", None)
    if isinstance(target, dict | tuple | list):
        keys = fields if fields is not None else target if isinstance(target, dict) else range(len(target))
        wanted = [str(k) for k in keys]
        if not isinstance(tree, Mapping) or sorted(tree) != sorted(wanted):
            raise CheckpointError(f"{where}: expected {', '.join(wanted) or 'nothing'}, found {tree!r:.200}")
        held = target.values() if isinstance(target, dict) else target
        values = [_restored(t, tree[k], where) for k, t in zip(wanted, held, strict=True)]
        if isinstance(target, dict):
            return dict(zip(target, values, strict=True))
        return type(target)(values) if fields is None else type(target)(*values)
    if np.shape(tree) != np.shape(target):
        raise CheckpointError(f"{where}: expected shape {np.shape(target)}, found {np.shape(tree)}")
    return jnp.asarray(tree)
