"""safetensors files with a PyTorch optimizer's state: there is no convention, so the usual keys are known.

``[optimizer.][state.]PARAM.SLOT``, ``SLOT.PARAM``, and the parameter's number instead of its name; the
separator is ``.`` or ``/``. The slot names decide: a file without any that only an optimizer has is a
model's. Weights are what remains, perhaps under ``model.``. Hyperparameters are JSON texts in
``__metadata__``: ``param_groups`` as ``state_dict()`` has it, ``optimizer`` the class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from optexport.converters.torch._classes import SIGNATURES, optimizer_of
from optexport.converters.torch._interpret import step_of
from optexport.converters.torch._write import state_dict
from optexport.errors import CheckpointError
from optexport.state import bundle
from optexport.state.limits import parse_json
from optexport.state.native import NativeGroup, NativeState, Weights
from optexport.state.pickles.objects import brief
from optexport.state.safetensors import is_safetensors, metadata, read_tensors, write_tensors

__all__ = ["is_state", "read_state", "read_weights", "write_state"]

# Names that only an optimizer's state has, in torch.optim or the libraries beside it.
_SURE = frozenset(
    (
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "exp_avg_diff", "exp_avg_var"),
        *("momentum_buffer", "square_avg", "grad_avg", "acc_delta", "mu_product"),
        *("exp_avg_sq_row", "exp_avg_sq_col", "row_var", "col_var"),
    )
)
# Names that a weight may have as well: a slot beside another of the same parameter.
_PERHAPS = frozenset(("step", "sum", "prev", "step_size", "eta", "mu", "ax", "variance", "master"))
_SLOTS = _SURE | _PERHAPS
_PREFIXES = (
    *(
        f"{name}{at}{state}"
        for at in "./"
        for name in ("optimizer_state_dict", "optimizer_state", "optimizer", "optim", "opt_state", "opt")
        for state in (f"state{at}", "")
    ),
    *("state.", "state/", ""),
)
_MODEL = tuple(
    f"{name}{at}" for at in "./" for name in ("model", "module", "state_dict", "params", "weights")
)
_STEPS = ("step", "global_step")
# What MLX calls them, whose files have no other mark.
_TOP = frozenset(("step", "learning_rate"))
_ARRAYS = frozenset(("m", "v", "u", "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"))


@dataclass(frozen=True)
class _Layout:
    """prefix of every state key. at: the separator. last: whether the slot is the last part, not the first."""

    prefix: str
    at: str
    last: bool

    def parts(self, key: str) -> tuple[str, str] | None:
        """(parameter, slot) of a key, None if it is no slot's."""
        if not key.startswith(self.prefix):
            return None
        rest = key[len(self.prefix) :]
        head, sep, tail = rest.rpartition(self.at) if self.last else rest.partition(self.at)
        param, slot = (head, tail) if self.last else (tail, head)
        return (param, slot) if sep and param and slot in _SLOTS else None


def is_state(path: str) -> bool:
    """Whether ``path`` is a safetensors file of PyTorch's or a model's: no bundle, and not of a framework
    whose state has its step and learning rate among the tensors."""
    try:
        if not is_safetensors(path):
            return False
        names, meta = metadata(path)
        if bundle.KEY in meta or not _of_arrays(names):
            return bundle.KEY not in meta
        # Without a rate the slots may be PyTorch's as well, whose step is no uint64.
        alone = all(n.rpartition(".")[2] != "learning_rate" for n in names)
        return alone and "step" in names and read_tensors(path)[0]["step"].dtype != np.uint64
    except CheckpointError:
        return False


def _of_arrays(names: Sequence[str]) -> bool:
    """A step at the top, alone or with a learning rate, and slots of MLX beside it: its tree of arrays."""
    parts = [tuple(name.split(".")) for name in names]
    # Of several optimizers: states.0.step, …
    top = {p[-1] for p in parts if len(p) == 1 or (len(p) == 3 and p[0] == "states" and p[2] in _TOP)}
    slots = {p[-1] for p in parts if len(p) > 1} - _TOP
    return "step" in top and top <= _TOP and slots <= _ARRAYS and ("learning_rate" in top or bool(slots))


def read_weights(path: str) -> Weights:
    """The weights in a safetensors file: what is no optimizer's state, without a prefix that all have."""
    tensors, _ = read_tensors(path)
    layout = _layout(list(tensors))
    held = _split(tensors, layout)[0] if layout is not None else {}
    rest = {name: tensors[name] for name in sorted(tensors) if name not in _keys(held)}
    rest = {
        n: a for n, a in rest.items() if not layout or not layout.prefix or not n.startswith(layout.prefix)
    }
    if not rest:
        raise CheckpointError(f"{path}: holds no weights beside the optimizer's state")
    return Weights(_unprefixed(rest) if held else rest, ordered=False)


def read_state(path: str) -> NativeState:
    """The optimizer's state in ``path``, tensors mapped.

    Raises CheckpointError if no key is a slot's, a key could be read in two ways, or the metadata is not
    what it should be.
    """
    tensors, meta = read_tensors(path)
    layout = _layout(list(tensors))
    if layout is None:
        raise CheckpointError(
            f"{path}: a safetensors file without optimizer state: no name ends or begins with one of "
            f"{', '.join(sorted(_SURE)[:4])}, …; it may be a model (--model), it is no optimizer state"
        )
    held, rest = _split(tensors, layout)
    state = NativeState("torch", "safetensors", ordered=False)
    for param, keys in held.items():
        state.slots[param] = {slot: tensors[key] for slot, key in keys.items()}
        state.steps[param] = (
            step_of(tensors[keys["step"]], param, path)
            if "step" in keys
            else _common_step(tensors, layout, path)
        )
    numbers = [_is_number(param) for param in held]
    if any(numbers) and not all(numbers):
        raise CheckpointError(
            f"{path}: some parameters have numbers and some names ({', '.join([*held][:4])}…)"
        )
    state.named = not all(numbers)
    weights = {}
    for key in sorted(rest):
        if layout.prefix and key.startswith(layout.prefix):
            if key[len(layout.prefix) :] not in _STEPS:
                state.extras[key] = tensors[key]
                state.warnings.append(f"{brief(key)} is no slot that is known; it is kept aside")
        elif key not in _STEPS:
            weights[key] = tensors[key]
    state.weights = _unprefixed(weights, None if not state.named else set(held))
    _groups(state, meta, path)
    if "lr_scheduler" in meta:
        state.extras["lr_scheduler"] = _json(meta["lr_scheduler"], "lr_scheduler", path)
    return state


def write_state(file: BinaryIO, path: str, state: NativeState) -> None:
    """Write ``state``: ``optimizer.PARAM.SLOT``, ``model.PARAM``, groups and class in the metadata.

    Raises CheckpointError if the state is inconsistent, or names or dtypes have no place.
    """
    if state.optimizer == "LBFGS":
        raise CheckpointError(
            f"{path}: LBFGS keeps lists of vectors, which safetensors has no names for; write torch"
        )
    held = state_dict(state, lambda array, what: array, by_name=True)
    tensors: dict[str, np.ndarray] = {f"model.{name}": array for name, array in state.weights.items()}
    for param, slots in held["state"].items():
        for slot, value in slots.items():
            tensors[f"optimizer.{param}.{slot}"] = value if hasattr(value, "dtype") else np.asarray(value)
    groups = [{k: v for k, v in group.items() if k != "param_names"} for group in held["param_groups"]]
    meta = {"format": "pt", "param_groups": json.dumps(groups)}
    if state.optimizer is not None:
        meta["optimizer"] = state.optimizer
    if "lr_scheduler" in state.extras:
        meta["lr_scheduler"] = json.dumps(state.extras["lr_scheduler"])
    write_tensors(file, path, tensors, meta)


# -- keys -------------------------------------------------------------------------------------------


def _layout(names: Sequence[str]) -> _Layout | None:
    """How the file's state keys are made, None where none is one.

    The prefix, separator and order under which most keys are a slot's; a longer prefix before a shorter.
    """
    sure = [name for name in names if _mentions(name)]
    best: tuple[int, _Layout] | None = None
    for prefix in _PREFIXES:
        mine = [name for name in sure if name.startswith(prefix)]
        if not mine:
            continue
        for at in "./":
            for last in (True, False):
                layout = _Layout(prefix, at, last)
                found = sum(1 for name in mine if (p := layout.parts(name)) is not None and p[1] in _SURE)
                if not found:
                    found = _paired(mine, layout)
                if found and (best is None or found > best[0]):
                    best = found, layout
    return best[1] if best is not None else None


def _mentions(name: str) -> bool:
    parts = name.replace("/", ".").split(".")
    return bool(_SLOTS.intersection(parts))


def _paired(names: Sequence[str], layout: _Layout) -> int:
    """Keys of parameters that have a step and another slot: Adagrad's sum, Rprop's prev."""
    slots: dict[str, set[str]] = {}
    for name in names:
        parts = layout.parts(name)
        if parts is not None:
            slots.setdefault(parts[0], set()).add(parts[1])
    return sum(len(found) for found in slots.values() if "step" in found and len(found) > 1)


def _split(tensors: Mapping[str, Any], layout: _Layout) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(parameter -> slot -> key, the other keys)."""
    held: dict[str, dict[str, str]] = {}
    for key in sorted(tensors):
        parts = layout.parts(key)
        if parts is not None:
            held.setdefault(parts[0], {})[parts[1]] = key
    if not layout.prefix:
        # Nothing but the names tells state from weights here: a parameter needs a slot that is sure, or two.
        held = {p: s for p, s in held.items() if _SURE.intersection(s) or ("step" in s and len(s) > 1)}
    order = sorted(held, key=lambda p: (int(p), p) if _is_number(p) else (0, p))
    taken = _keys(held)
    return {param: held[param] for param in order}, [key for key in tensors if key not in taken]


def _is_number(param: str) -> bool:
    return param.isascii() and param.isdecimal() and len(param) < 10


def _keys(held: Mapping[str, Mapping[str, str]]) -> set[str]:
    return {key for slots in held.values() for key in slots.values()}


def _unprefixed(weights: dict[str, np.ndarray], wanted: set[str] | None = None) -> dict[str, np.ndarray]:
    """Without a prefix that every name has; where the optimizer's names are known, only if it makes them."""
    for prefix in _MODEL:
        if weights and all(name.startswith(prefix) and name != prefix for name in weights):
            short = {name[len(prefix) :]: array for name, array in weights.items()}
            if wanted is None or not wanted <= set(weights):
                return short
    return weights


def _common_step(tensors: Mapping[str, np.ndarray], layout: _Layout, path: str) -> int | None:
    """The one count of a file that does not keep it by parameter."""
    for name in _STEPS:
        for key in (layout.prefix + name, name):
            if key in tensors:
                return step_of(tensors[key], key, path)
    return None


# -- metadata ---------------------------------------------------------------------------------------


def _groups(state: NativeState, meta: Mapping[str, str], path: str) -> None:
    """Groups and class, as far as the metadata tells them."""
    params = list(state.slots)
    given = _json(meta["param_groups"], "param_groups", path) if "param_groups" in meta else None
    if given is None:
        state.groups = [NativeGroup({}, params)]
        state.warnings.append(
            f"{path}: has no param_groups in its metadata; one group of all parameters is assumed"
        )
    elif not isinstance(given, list) or not given or not all(isinstance(group, dict) for group in given):
        raise CheckpointError(
            f"{path}: param_groups of the metadata is {brief(given)}; expected a list of groups"
        )
    else:
        state.groups = _listed(state, given, path)
    slots = {slot for held in state.slots.values() for slot in held}
    said = meta.get("optimizer")
    classes = {signature.name for signature in SIGNATURES} | {"AdamW", "SparseAdam"}
    if said in classes:
        state.optimizer = said
        return
    arguments = [group.arguments for group in state.groups]
    state.optimizer, warnings = optimizer_of(arguments, slots) if any(arguments) else (None, [])
    state.warnings += warnings


def _listed(state: NativeState, given: list[dict[str, Any]], path: str) -> list[NativeGroup]:
    params = list(state.slots)
    groups: list[NativeGroup] = []
    for index, group in enumerate(given):
        listed = group.get("param_names") or group.get("params")
        if listed is None and len(given) == 1:
            listed = params
        if not isinstance(listed, list) or not all(type(name) in (int, str) for name in listed):
            raise CheckpointError(
                f"{path}: group {index} of {len(given)} does not list its params; expected names or numbers"
            )
        arguments: dict[str, Any] = {}
        for name, value in group.items():
            value = tuple(value) if isinstance(value, list) else value
            items = value if isinstance(value, tuple) else (value,)
            if name in ("params", "param_names"):
                continue
            if all(item is None or type(item) in (bool, int, float, str) for item in items):
                arguments[name] = value
            else:
                state.extras[f"param_groups.{index}.{name}"] = value
                state.warnings.append(
                    f"argument {brief(name)} of group {index} is {brief(value)}; it is kept aside"
                )
        groups.append(NativeGroup(arguments, [str(name) for name in listed]))
    keys = [key for group in groups for key in group.params]
    if len(set(keys)) != len(keys):
        raise CheckpointError(f"{path}: a parameter is in two groups of the metadata")
    if state.named and all(_is_number(key) for key in keys):
        # Numbers, as state_dict() has them, in the groups of a file that keeps names: one group alone says it.
        if len(groups) > 1 or len(keys) != len(params):
            raise CheckpointError(
                f"{path}: the groups list numbers and the keys are names; expected names in params"
            )
        groups[0].params = params
        return groups
    if not state.named and not all(_is_number(key) for key in keys) and len(keys) >= len(params):
        names = {str(position): key for position, key in enumerate(keys)}
        if not set(params) <= set(names):
            raise CheckpointError(
                f"{path}: state of parameter {brief(params[-1])} of {len(keys)} that the groups list"
            )
        state.slots = {names[key]: slots for key, slots in state.slots.items()}
        state.steps = {names[key]: step for key, step in state.steps.items()}
        state.named = True
        return groups
    missing = [key for key in params if key not in keys]
    if missing:
        raise CheckpointError(
            f"{path}: parameter {brief(missing[0])} has state and is in no group of the metadata"
        )
    return groups


def _json(text: str, what: str, path: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: {what} of the metadata is {brief(text)}; expected JSON") from None
