"""Opening and writing files of any format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..dialects import find
from ..errors import CheckpointError, HyperparameterError, NamingError
from . import bundle
from .files import told_of_writes
from .formats import BUNDLE, find_format, formats
from .lift import arranged, lift, native_state
from .name_map import NameMap, read_map
from .names import check_shapes, match_by_shape, names_from_list, parameters, read_names
from .native import NativeState, Weights
from .safetensors import metadata
from .sharded import is_index, read_shards
from .training import TrainingState

__all__ = ["detect", "formats", "load", "read_model", "read_native", "save"]


def detect(path: str | os.PathLike[str]) -> str:
    """The format of a file or folder, by its first bytes.

    Raises:
        CheckpointError: it does not exist, or no reader knows it.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        # A prefix of several files, as TensorFlow calls a checkpoint, is known by its index.
        if not os.path.exists(f"{path}.index"):
            raise CheckpointError(f"{path}: no such file or folder")
        path = f"{path}.index"
    if bundle.sniff(path):
        return BUNDLE
    for name in formats():
        if name != BUNDLE and find_format(name).sniff(path):
            return name
    if path.lower().endswith(".safetensors") and os.path.isfile(path):
        metadata(path)  # says what is wrong with its header
    raise CheckpointError(
        f"{path}: expected optimizer state in one of the formats {', '.join(formats())}; found none of them"
    )


def read_native(
    path: str | os.PathLike[str], fmt: str | None = None, optimizer_key: str | None = None
) -> NativeState:
    """The native state of a framework's file, nothing interpreted.

    optimizer_key: which optimizer of a file with several, as the error about them lists it.
    """
    path = os.fspath(path)
    fmt = fmt or detect(path)
    if fmt == BUNDLE:
        raise CheckpointError(f"{path}: a bundle is no framework's own file; open it with load()")
    reader = find_format(fmt).read
    if reader is None:
        raise CheckpointError(f"{path}: the format {fmt} is only written, not read")
    if optimizer_key is None:
        return reader(path)
    if not find_format(fmt).keyed:
        raise CheckpointError(
            f"{path}: files of the format {fmt} hold one optimizer; leave the key {optimizer_key!r} out"
        )
    return reader(path, optimizer_key=optimizer_key)


def read_model(path: str | os.PathLike[str]) -> Weights:
    """Parameter values of a weights file of any format.

    Raises:
        CheckpointError: it is none.
    """
    path = os.fspath(path)
    if is_index(path) and not bundle.sniff(path):
        return read_shards(path)
    fmt = detect(path)
    reader = bundle.read_weights if fmt == BUNDLE else find_format(fmt).read_weights
    if reader is None:
        raise CheckpointError(f"{path}: expected a weights file; the format {fmt} holds no weights")
    return reader(path)


def load(
    path: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    names: Sequence[str] | str | os.PathLike[str] | None = None,
    format: str | None = None,
    optimizer: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    step: int | None = None,
    mapping: NameMap | str | os.PathLike[str] | None = None,
    optimizer_key: str | None = None,
) -> TrainingState:
    """The training state of a file, its tensors mapped, not read.

    model: a weights file; gives parameters their names (by shape) and values.
    names: parameter names in the order the optimizer was given them, or a file with them.
    format: where it is not to be detected.
    optimizer, arguments, step: what the file does not hold.
    mapping: which tensor of another model each one is, or a file that says so; as `rearrange` without consent.
    optimizer_key: which optimizer of a file with several (``"optimizer_states.0"``).

    Raises:
        CheckpointError, NamingError, UnknownNameError, HyperparameterError, VerdictError: one sentence on the cause.
    """
    path = os.fspath(path)
    if mapping is not None:
        from .rearrange import rearrange

        given = mapping if isinstance(mapping, NameMap) else read_map(os.fspath(mapping))
        state = load(
            path,
            model=model,
            names=names,
            format=format,
            optimizer=optimizer,
            arguments=arguments,
            step=step,
            optimizer_key=optimizer_key,
        )
        return rearrange(
            state, given, source_model=read_model(os.fspath(model)) if model is not None else None
        )[0]
    fmt = format or detect(path)
    if isinstance(names, str | os.PathLike):
        listed: list[str] | None = read_names(os.fspath(names))
    else:
        listed = list(names) if names is not None else None
    if step is not None and step < 0:
        raise HyperparameterError(f"{path}: step expected a number of completed updates ≥ 0, found {step}")
    weights = read_model(os.fspath(model)) if model is not None else None
    if fmt == BUNDLE:
        state = bundle.read(path)
        if listed is not None:
            state = state.renamed(names_from_list(state.ordered_names, listed, path))
        return _with_weights(state, weights, path) if weights is not None else state
    native = read_native(path, fmt, optimizer_key)
    if weights is not None:
        native.shapes = dict(parameters(weights))
    if optimizer is not None:
        native = arranged(native, find(optimizer), arguments or {}, path)
    state = lift(native, path, optimizer=optimizer, arguments=arguments, step=step)
    own = Weights(native.weights, native.ordered) if native.weights else None
    return _named(state, native, listed, weights or own, path)


def _named(
    state: TrainingState, native: NativeState, listed: list[str] | None, weights: Weights | None, path: str
) -> TrainingState:
    shapes = {k: state.shape(k) for k in state.ordered_names}
    if listed is not None:
        keys = [k for g in native.groups for k in g.params]
        called = names_from_list(keys, listed, path)
        state = state.renamed(called)
        if weights is not None and set(keys) <= set(weights.tensors):
            tensors = {called.get(n, n): a for n, a in weights.tensors.items()}
            weights = Weights(tensors, weights.ordered)
        elif (
            weights is not None
            and weights.tensors is native.weights
            and not (native.named or set(state.names) <= set(weights.tensors))
        ):
            # Places in a file, and positions in an optimizer: nothing says which weight is whose.
            said = "the file's own weights are known by their places alone; left out"
            return replace(state, warnings=(*state.warnings, said))
    elif not native.named:
        if weights is None:
            return replace(
                state, warnings=(*state.warnings, "parameter names are not in the file; called by index")
            )
        state = state.renamed(match_by_shape(shapes, parameters(weights), path, len(state.spec.groups)))
    elif weights is not None and weights.called:
        state = state.renamed({k: weights.called.get(k, k) for k in shapes})
    return _with_weights(state, weights, path) if weights is not None else state


def _with_weights(state: TrainingState, weights: Weights, path: str) -> TrainingState:
    model = parameters(weights)
    check_shapes({n: state.shape(n) for n in state.names}, model, path)
    # In the model's own order where the file tells it, else in the optimizer's.
    order = [n for n in model if n in set(state.names)] if weights.ordered else state.ordered_names
    return replace(state, params={n: weights.tensors[n] for n in order}, shapes={})


def is_named(state: TrainingState) -> bool:
    """Whether parameters have names rather than indexes."""
    return not all(n.isdigit() for n in state.names) or not state.names


def save(
    state: TrainingState,
    path: str | os.PathLike[str],
    *,
    format: str,
    model: str | os.PathLike[str] | None = None,
    on_tensor: Any = None,
    shard_size: int | None = None,
) -> list[str]:
    """Write ``state``; the file appears whole or not at all. What was written, the file to open first.

    format: ``bundle``, or a format of the framework whose native optimizer the state is (see ``translate``).
    shard_size: bytes from which on a bundle is cut into shards.

    Raises:
        CheckpointError: the state is another framework's. NamingError: its parameters have no names.
    """
    path = os.fspath(path)
    if format == BUNDLE:
        return bundle.write(state, path, on_tensor=on_tensor, shard_size=shard_size)
    if shard_size is not None:
        raise CheckpointError(
            f"{path}: only a bundle is cut into shards; write {format} without a shard size"
        )
    kind = find_format(format)
    if kind.write is None:
        raise CheckpointError(
            f"{path}: the format {format} is only read; expected one of {', '.join(formats(written=True))}"
        )
    if not is_named(state):
        raise NamingError(
            f"{path}: parameters are known by index only ({', '.join(state.names[:4])}…); pass --model or --names"
        )
    native = native_state(state, path)
    if native.framework != kind.framework:
        raise CheckpointError(
            f"{path}: expected state of a {kind.framework} optimizer, found {native.framework}:{native.optimizer}; "
            f"translate it first (translate(state, to='{format}:NAME'))"
        )
    if model is not None:
        native.extras["model"] = os.fspath(model)
    with told_of_writes(on_tensor):
        kind.write(native, path)
    return [path]
