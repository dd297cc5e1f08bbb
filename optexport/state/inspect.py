"""What is in a file, for people and programs: groups, slots, steps, norms, and what looks wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..dialects import Native, find
from ..errors import CheckpointError, OptexportError
from ..rules import name_of
from . import bundle
from .bundle import tensor_bytes
from .files import give_back
from .formats import BUNDLE
from .health import NONNEGATIVE, counter_warnings, tensor_warnings, unequal_steps
from .lift import arranged, emitted_roles, lift, native_roles, says_optimizer
from .names import read_names
from .native import NativeState
from .store import _named, detect, read_model, read_native
from .training import TrainingState

__all__ = ["Inspection", "TensorInfo", "inspect"]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class TensorInfo:
    """One state tensor. slot: the framework's name; role: the rule's, None where it is not known.

    A parameter without any state (never updated, or its rule keeps none) has one record with no slot.
    negative: entries below 0, counted where the rule's slot has none.
    """

    param: str
    slot: str | None
    role: str | None
    shape: tuple[int, ...] | None
    dtype: str | None
    bytes: int
    sha256: str | None
    norm: float | None
    nan: int | None
    inf: int | None
    negative: int | None = None


@dataclass
class Inspection:
    format: str
    optimizer: str | None
    step: int | None
    groups: list[dict[str, Any]] = field(default_factory=list)
    tensors: list[TensorInfo] = field(default_factory=list)
    weights: list[TensorInfo] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def inspect(
    path: str,
    *,
    format: str | None = None,
    model: str | None = None,
    names: str | None = None,
    optimizer: str | None = None,
    quick: bool = False,
    optimizer_key: str | None = None,
) -> Inspection:
    """Look at a file.

    quick: leave out what needs every byte to be read (hash, norm, NaN and Inf counts).
    optimizer_key: which optimizer of a file with several, as the error about them lists it.

    Raises:
        CheckpointError, NamingError, UnknownNameError: as ``load``.
    """
    fmt = format or detect(path)
    if fmt == BUNDLE:
        return _of_bundle(path, quick)
    try:
        native = read_native(path, fmt, optimizer_key)
    except CheckpointError as error:
        weights = _weights_alone(path, quick)
        if weights is None:
            raise
        # Damage to the optimizer's part must not pass for a file that has none.
        weights.warnings.append(f"read as {fmt}: {error}")
        return weights
    out = Inspection(
        native.format, None, max((s for s in native.steps.values() if s is not None), default=None)
    )
    if optimizer is not None:
        native = arranged(native, find(optimizer), {}, path)
    state = _lifted(native, path, optimizer, out)
    called = {k: k for g in native.groups for k in g.params}
    if state is not None:
        out.optimizer = state.dialect or None
        out.warnings += state.warnings
        named = _renamed(state, native, path, model, names)
        called = dict(zip(state.names, named.names, strict=True))
        out.groups = [_group(g) for g in named.spec.groups]
    else:
        entry = _entry(native)
        out.optimizer = entry.qualified if entry is not None else None
        out.warnings += native.warnings
        out.groups = [
            {"rule": None, "hyperparameters": _numbers(g.arguments), "params": g.params}
            for g in native.groups
        ]
    counters = []
    for key in called:
        for path_, (slot, role) in _roles(native, state, key, path).items():
            array = native.slots[key][path_]
            if role == "step" or (role is None and slot == "step"):
                counters.append((called[key], slot, np.asarray(array)))
            out.tensors.append(_tensor(called[key], slot, role, array, quick))
        if not native.slots.get(key):
            out.tensors.append(_stateless(called[key]))
    out.weights = [_tensor(n, "value", None, a, quick) for n, a in native.weights.items()]
    out.warnings += counter_warnings(counters)
    _health(out, {called[k]: n for k, n in native.steps.items() if k in called})
    return out


def _weights_alone(path: str, quick: bool) -> Inspection | None:
    """A weights file, None where it is not even that."""
    try:
        tensors = read_model(path).tensors
    except OptexportError:
        return None
    out = Inspection("weights", None, None, warnings=["a weights file: it holds no optimizer state"])
    out.weights = [_tensor(n, "value", None, a, quick) for n, a in tensors.items()]
    return out


def _lifted(native: NativeState, path: str, optimizer: str | None, out: Inspection) -> TrainingState | None:
    """The training state where the file says enough for one; inspecting needs no more than it says."""
    emitted = native.optimizer is None and says_optimizer(native)
    if native.optimizer is None and optimizer is None and not emitted:
        out.warnings.append("the file does not say which optimizer wrote it (--optimizer names it)")
        return None
    if optimizer is not None:
        find(optimizer)
    if not any(g.arguments for g in native.groups) and not emitted:
        out.warnings.append("the file holds no hyperparameters")
        return None
    try:
        return lift(native, path, optimizer=optimizer)
    except OptexportError as e:
        if optimizer is not None:
            raise
        out.warnings.append(str(e))
        return None


def _entry(native: NativeState) -> Native | None:
    """The optimizer that the file names, as far as it is known."""
    try:
        return find(f"{native.framework}:{native.optimizer}") if native.optimizer else None
    except OptexportError:
        return None


def _renamed(
    state: TrainingState, native: NativeState, path: str, model: str | None, names: str | None
) -> TrainingState:
    if native.named and names is None and model is None:
        return state
    weights = read_model(model) if model is not None else None
    if weights is None and names is None:
        from .native import Weights

        if not native.weights:
            return state
        weights = Weights(native.weights, native.ordered)
        try:
            return _named(state, native, None, weights, path)
        except OptexportError:
            # Names are a convenience here; the index names every parameter.
            return state
    return _named(state, native, read_names(names) if names else None, weights, path)


def _roles(
    native: NativeState, state: TrainingState | None, key: str, path: str
) -> Mapping[str, tuple[str, str | None]]:
    found = list(native.slots.get(key, {}))
    if state is None:
        entry = _entry(native)
        return {p: (p, entry.role(p) if entry is not None else None) for p in found}
    group = state.spec.group(key)
    if not state.dialect:  # an emitted optimizer's: slots are the rule's
        own = emitted_roles(native, group.rule, found, f"{path}: parameter {key!r}")
        return {p: (p, own[p]) for p in found}
    roles = native_roles(find(group.native), group, found, f"{path}: parameter {key!r}")
    return {p: (roles[p][0], roles[p][1] or None) for p in found}


def _group(g: Any) -> dict[str, Any]:
    return {
        "rule": name_of(g.rule, g.hyperparameters),
        "hyperparameters": _numbers(
            {**g.hyperparameters, **({"lr_mult": g.lr_mult} if g.lr_mult != 1 else {})}
        ),
        "params": list(g.params or ()),
        "native": g.native or None,
        "arguments": {
            k: v
            for k, v in g.arguments.items()
            if v is None or isinstance(v, bool | int | float | str | tuple)
        },
        "digest": g.rule.digest,
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON can hold."""
    out: dict[str, Any] = {}
    for k, v in values.items():
        if isinstance(v, float) and not np.isfinite(v):
            out[k] = str(v)
        elif v is None or isinstance(v, bool | int | float | str):
            out[k] = v
        elif isinstance(v, tuple | list):
            out[k] = list(v)
    return out


def _of_bundle(path: str, quick: bool) -> Inspection:
    state = bundle.read(path)
    out = Inspection("bundle", state.dialect or None, max(state.steps.values(), default=None))
    out.groups = [_group(g) for g in state.spec.groups]
    said = {} if quick else bundle.digests(path)
    for group in state.spec.groups:
        own = {role: n for n, role in find(group.native).slots} if group.native else {}
        for name in group.params or ():
            slots = state.slots.get(name, {})
            out.tensors += [_tensor(name, own.get(s, s), s, a, quick) for s, a in slots.items()]
            if not slots:
                out.tensors.append(_stateless(name))
    out.weights = [_tensor(n, "value", None, a, quick) for n, a in state.params.items()]
    out.warnings += state.warnings
    for t in (*out.tensors, *out.weights):
        key = f"{t.param}/{t.role}" if t.role else t.param
        if t.sha256 is not None and t.sha256 != said.get(key):
            out.warnings.append(
                f"tensor {key!r}: bytes do not have the manifest's sha256; the file is damaged"
            )
    _health(out, state.steps)
    return out


def _stateless(param: str) -> TensorInfo:
    return TensorInfo(param, None, None, None, None, 0, None, None, None, None)


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of at most some megabytes, equally long for equally large arrays.

    Memory stays flat: pages of a mapped file are given back when the next piece is asked for.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    for i in range(0, flat.size, _BLOCK):
        piece = flat[i : i + _BLOCK]
        yield piece
        give_back(piece)


def _tensor(param: str, slot: str, role: str | None, array: np.ndarray, quick: bool) -> TensorInfo:
    base = (param, slot, role, tuple(array.shape), array.dtype.name, array.nbytes)
    if quick:
        return TensorInfo(*base, None, None, None, None)
    hasher, total, peak, nan, inf, negative = hashlib.sha256(), 0.0, 0.0, 0, 0, 0
    for piece in blocks(array):
        hasher.update(tensor_bytes(piece))
        with np.errstate(all="ignore"):
            values = piece.astype(np.float64)
            finite = values[np.isfinite(values)]
            total += float(np.dot(finite, finite))
        nan += int(np.isnan(values).sum())
        inf += int(np.isinf(values).sum())
        peak = max(peak, float(np.abs(finite).max(initial=0.0)))
        if role in NONNEGATIVE:
            negative += int((values < 0).sum())
    # Squares that leave float64's range: the largest entry stands for the norm.
    norm = float(np.sqrt(total)) if 0 < total < np.inf else peak
    return TensorInfo(*base, hasher.hexdigest(), norm, nan, inf, negative if role in NONNEGATIVE else None)


def _health(out: Inspection, steps: Mapping[str, int | None]) -> None:
    """Warnings that a person would want before trusting the file."""
    out.warnings += unequal_steps(steps, (g["params"] for g in out.groups))
    out.warnings += tensor_warnings(out.tensors, steps)
