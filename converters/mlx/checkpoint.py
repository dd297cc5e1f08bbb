"""MLX's optimizer state in safetensors and ``.npz`` files, without MLX.

A file is `mlx.utils.tree_flatten` of ``optimizer.state``: ``step``, ``learning_rate``, and a slot of a
parameter under PARAMETER.SLOT. It names no class and no other hyperparameter: name the optimizer and
give its arguments.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from optexport.dialects import find
from optexport.errors import CheckpointError
from optexport.state.files import tell_write, whole_or_nothing
from optexport.state.formats import Format
from optexport.state.native import NativeGroup, NativeState, Weights
from optexport.state.safetensors import is_safetensors, metadata, read_tensors, write_tensors

from ._npz import looks_like_npz, names, read_npz

__all__ = ["FORMATS", "read", "read_npz_state", "read_npz_weights", "sniff", "sniff_npz", "write"]

PathLike = str | os.PathLike[str]

_STEP, _RATE = "step", "learning_rate"
_SLOTS = frozenset({"m", "v", "u", "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"})
# The state of several optimizers: "states.0.step", …
_SEVERAL = "states"


def sniff(path: PathLike) -> bool:
    """Whether ``path`` is a safetensors file with MLX's step beside slots that MLX has."""
    file = os.fspath(path)
    try:
        if not is_safetensors(file) or not _is_state(keys := metadata(file)[0]):
            return False
        # Without a rate (Adafactor) other frameworks' slots are called so too; their step is no uint64.
        rate = any(k.rpartition(".")[2] == _RATE for k in keys)
        return rate or read_tensors(file)[0].get(_STEP, np.zeros(())).dtype == np.uint64
    except CheckpointError:
        return False


def sniff_npz(path: PathLike) -> bool:
    """Whether ``path`` is a zip of NumPy arrays, with state or with weights."""
    return looks_like_npz(os.fspath(path))


def _is_state(keys: list[str]) -> bool:
    """A step and a learning rate at the top, or a step beside slots of MLX alone (Adafactor has no rate)."""
    top = {k.split(".")[2] if _of_several(k) else k for k in keys if "." not in k or _of_several(k)}
    slots = {k.rpartition(".")[2] for k in keys if "." in k and not _of_several(k)}
    return _STEP in top and top <= {_STEP, _RATE} and (_RATE in top or bool(slots)) and slots <= _SLOTS


def _of_several(key: str) -> bool:
    parts = key.split(".")
    return len(parts) == 3 and parts[0] == _SEVERAL and parts[1].isdigit() and parts[2] in (_STEP, _RATE)


def read(path: PathLike) -> NativeState:
    """The state of a safetensors file: arrays by parameter and slot, mapped.

    Raises:
        CheckpointError: the file is damaged, or its keys are not those of MLX's state.
    """
    file = os.fspath(path)
    tensors, _ = read_tensors(file)
    return _state(tensors, file, "mlx-safetensors")


def read_npz_state(path: PathLike) -> NativeState:
    """The state of an ``.npz`` file, as `read`."""
    file = os.fspath(path)
    return _state(read_npz(file), file, "mlx-npz")


def read_npz_weights(path: PathLike) -> Weights:
    """The parameters of an ``.npz`` file.

    Raises:
        CheckpointError: the file is damaged, or holds an optimizer's state.
    """
    file = os.fspath(path)
    if _is_state(names(file)):
        raise CheckpointError(
            f"{file}: expected parameters, found an optimizer's state (step, PARAMETER.SLOT)"
        )
    return Weights(read_npz(file), ordered=False)


def _state(tensors: Mapping[str, np.ndarray], file: str, kind: str) -> NativeState:
    out = NativeState("mlx", kind, named=True)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key in sorted(tensors):
        several = key.split(".", 2)
        if len(several) == 3 and several[0] == _SEVERAL and several[1].isdigit():
            parts.setdefault(several[1], {})[several[2]] = tensors[key]
        else:
            parts.setdefault("", {})[key] = tensors[key]
    for number, part in sorted(parts.items(), key=lambda p: (len(p[0]), p[0])):
        _add(out, part, f"{file}{f': optimizer {number}' if number else ''}")
    if len(parts) > 1:
        out.warnings.append(
            f"the state of {len(parts)} optimizers (MultiOptimizer); they may be of several classes"
        )
    return out


def _add(out: NativeState, part: Mapping[str, np.ndarray], where: str) -> None:
    """One optimizer's parameters, as a group."""
    held = {k: a for k, a in part.items() if "." not in k}
    if _STEP not in held:
        raise CheckpointError(f"{where}: expected MLX's state with its step, found no {_STEP!r}")
    step = _scalar(held.pop(_STEP), f"{where}: {_STEP!r}")
    if not float(step).is_integer() or not 0 <= step < 2**62:
        raise CheckpointError(f"{where}: {_STEP!r} expected a number of updates, found {step}")
    arguments = {}
    if _RATE in held:
        arguments[_RATE] = float(_scalar(held.pop(_RATE), f"{where}: {_RATE!r}"))
    if held:
        # A hyperparameter that a schedule drives.
        arguments |= {k: float(_scalar(a, f"{where}: {k!r}")) for k, a in held.items()}
    group = NativeGroup(arguments)
    for key, array in part.items():
        param, dot, slot = key.rpartition(".")
        if not dot:
            continue
        if not param or not slot:
            raise CheckpointError(
                f"{where}: tensor {key!r}: expected PARAMETER.SLOT; it is no state of MLX's"
            )
        if param in out.slots and param not in group.params:
            raise CheckpointError(f"{where}: parameter {param!r} is another optimizer's already")
        if param not in out.slots:
            group.params.append(param)
            out.slots[param] = {}
            out.steps[param] = int(step)
        out.slots[param][slot] = array
    if group.params:
        out.groups.append(group)


def _scalar(array: np.ndarray, where: str) -> float | int:
    if array.size != 1 or array.dtype.kind not in "iufV":
        raise CheckpointError(f"{where}: expected one number, found {array.dtype} {list(array.shape)}")
    number: float | int = array.reshape(()).item()
    return number


def write(state: NativeState, path: PathLike) -> None:
    """Write a safetensors file; ``optimizer.state = tree_unflatten(list(mx.load(path).items()))`` takes it.

    Raises:
        CheckpointError: parameters were updated a different number of times; MLX keeps one step. Then
            ``path`` stays as it was.
    """
    file = os.fspath(path)
    (group, *others) = state.groups
    steps = {state.steps.get(n) or 0 for g in state.groups for n in g.params}
    if len(steps) > 1 or others:
        raise CheckpointError(
            f"{file}: expected one step count for all parameters of one group, found {sorted(steps)} in "
            f"{len(state.groups)} groups; MLX keeps one"
        )
    entry = find(f"mlx:{state.optimizer}")
    tensors: dict[str, np.ndarray] = {_STEP: np.array(steps.pop() if steps else 0, np.uint64)}
    rate = group.arguments.get(_RATE)
    if rate is not None:
        tensors[_RATE] = np.array(rate, np.float32)
    order = [n for n, _ in entry.slots]
    for name in group.params:
        own = state.slots.get(name, {})
        tensors |= {f"{name}.{s}": own[s] for s in sorted(own, key=order.index)}
    with whole_or_nothing(path) as out:
        write_tensors(out, file, tensors, {"format": "mlx"}, tell_write)


FORMATS = (
    Format("mlx", "mlx", "MLX's safetensors", sniff, read, None, write, (".mlx.safetensors",)),
    Format("mlx-npz", "mlx", "MLX's .npz, read only", sniff_npz, read_npz_state, read_npz_weights),
)
