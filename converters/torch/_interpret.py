"""From the plain object of a PyTorch file to `NativeState` and `Weights`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from optexport.converters.torch._classes import optimizer_of
from optexport.converters.torch._tensors import Tensor
from optexport.errors import CheckpointError
from optexport.state.lazy import LazyArray
from optexport.state.native import NativeGroup, NativeState, Weights
from optexport.state.pickles import GlobalRef, PickledArray, Record
from optexport.state.pickles.objects import brief

__all__ = ["as_array", "is_optimizer", "is_tensor", "native_state", "native_weights", "plain", "step_of"]

WEIGHT_KEYS = (
    "model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights", "params",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")


def is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, LazyArray))


def as_array(value: Any, where: str) -> np.ndarray:
    array: np.ndarray = value.array(where) if isinstance(value, Tensor) else value
    return array


def is_optimizer(value: Any) -> bool:
    """Whether ``value`` looks like what ``Optimizer.state_dict()`` returns."""
    if not isinstance(value, dict):
        return False
    groups = value.get("param_groups")
    return (
        isinstance(value.get("state"), dict)
        and isinstance(groups, list)
        and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups)
    )


def native_state(root: Any, file: str, format: str, optimizer_key: str | None = None) -> NativeState:
    """The one optimizer in ``root``, with weights and whatever else a combined file holds.

    Raises CheckpointError if there is none, if there are several and ``optimizer_key`` does not
    choose, or if groups, names, steps or tensors are inconsistent.
    """
    path, found = _choose(root, file, optimizer_key)
    state = NativeState("torch", format if not path or format == "torch-dcp" else f"{format}-combined")
    _fill(state, found, file)
    if path:
        _rest(state, root, path, file)
    else:
        for key, value in found.items():
            if key not in ("state", "param_groups"):
                state.extras[str(key)] = plain(value, str(key))
    return state


def native_weights(root: Any, file: str) -> Weights:
    """The weights in ``root``: a state_dict itself, or the one in a combined file.

    Raises CheckpointError if there are none.
    """
    if _is_weights(root) and not is_optimizer(root):
        tensors, _ = _weights(root, file)
        return Weights(tensors, ordered=True)
    found = _weight_entry(root)
    if found is None and isinstance(root, dict):
        # One level down, where a training program keeps everything under one name.
        nested = [
            item for item in root.values() if not is_optimizer(item) and _weight_entry(item) is not None
        ]
        if len(nested) == 1:
            root, found = nested[0], _weight_entry(nested[0])
    if found is None:
        raise CheckpointError(
            f"{file}: holds no weights; expected a state_dict (names to tensors), alone or under one of "
            f"{', '.join(WEIGHT_KEYS)}; found {_keys(root)}"
        )
    tensors, _ = _weights(root[found[0]], file)
    return Weights(tensors, ordered=True)


# -- finding the optimizer ------------------------------------------------------------------------


def _optimizers(root: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    todo: deque[tuple[tuple[Any, ...], Any]] = deque([((), root)])
    seen: set[int] = set()
    while todo:
        path, value = todo.popleft()
        if is_optimizer(value):
            yield path, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [((*path, key), item) for key, item in pairs if isinstance(item, (dict, list, tuple))]


def _choose(root: Any, file: str, wanted: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    found = {".".join(map(str, path)): (path, value) for path, value in _optimizers(root)}
    if wanted is not None:
        if wanted not in found:
            listed = ", ".join(map(brief, found)) or "none"
            raise CheckpointError(f"{file}: has no optimizer under {brief(wanted)}; found {listed}")
        return found[wanted]
    if not found:
        raise CheckpointError(
            f"{file}: holds no optimizer state; expected a dict with state and param_groups, "
            f"found {_keys(root)}"
        )
    if len(found) > 1:
        listed = ", ".join(map(brief, found))
        raise CheckpointError(
            f"{file}: holds {len(found)} optimizers, under {listed}; choose one by its key (--optimizer-key)"
        )
    return next(iter(found.values()))


def _keys(root: Any) -> str:
    if isinstance(root, dict) and root:
        shown = ", ".join(brief(key, 30) for key in list(root)[:6])
        return f"a dict of {shown}" + (", …" if len(root) > 6 else "")
    return brief(root)


# -- groups and slots -------------------------------------------------------------------------------


def _fill(state: NativeState, found: dict[str, Any], file: str) -> None:
    entries = found["state"]
    groups = found["param_groups"]
    keys = _parameter_keys(state, groups, file)
    # DCP turns integer ids into text where they are dict keys, and keeps them in `params`.
    by_text = {str(identity): entry for identity, entry in entries.items()}
    if len(by_text) != len(entries):
        raise CheckpointError(f"{file}: two entries of state have the same id")
    for key, identity in keys:
        entry = by_text.pop(str(identity), None)
        if entry is not None:
            _entry(state, key, entry, file)
    for identity, entry in by_text.items():
        state.extras[f"state.{identity}"] = plain(entry, f"state of {identity}")
        state.warnings.append(
            f"state entry {brief(identity)} belongs to no parameter of any group; it is kept aside"
        )
    slots = {slot for entry in state.slots.values() for slot in entry}
    state.optimizer, warnings = optimizer_of(groups, slots)
    state.warnings += warnings
    if state.optimizer == "LBFGS" and state.slots:
        # One flat state for all parameters together, kept under the first of them.
        state.extras["state"] = plain(found["state"], "state")
        state.slots, state.steps = {}, dict.fromkeys(state.steps)
        state.warnings.append("LBFGS keeps one flat state for all parameters; it is kept aside as it is")


def _parameter_keys(state: NativeState, groups: list[dict[str, Any]], file: str) -> list[tuple[str, Any]]:
    """(key, id) of every parameter through the groups; adds the groups to ``state``."""
    ids = [identity for group in groups for identity in group["params"]]
    if not all(type(identity) in (int, str) for identity in ids) or len({str(i) for i in ids}) != len(ids):
        raise CheckpointError(f"{file}: the ids in params are not all different numbers or names")
    by_name = bool(ids) and all(isinstance(identity, str) for identity in ids)
    names = ids if by_name else _param_names(state, groups, file)
    state.named = names is not None
    if names is None and ids != list(range(len(ids))):
        state.warnings.append(
            "parameter ids do not count up from 0; parameters are numbered by their position"
        )
    keys = names if names is not None else [str(position) for position in range(len(ids))]
    if by_name or names is not None:
        keys, warning = _strip(keys)
        state.warnings += [f"parameter names: {warning}"] if warning else []
    at = 0
    for index, group in enumerate(groups):
        count = len(group["params"])
        arguments = _arguments(state, group, index)
        state.groups.append(NativeGroup(arguments, keys[at : at + count]))
        at += count
    return list(zip(keys, ids, strict=True))


def _param_names(state: NativeState, groups: list[dict[str, Any]], file: str) -> list[str] | None:
    named = [group for group in groups if group.get("param_names") is not None]
    if not named:
        return None
    if len(named) < len(groups):
        state.warnings.append(
            f"only {len(named)} of {len(groups)} groups carry param_names; names are not used"
        )
        return None
    names: list[str] = []
    for index, group in enumerate(groups):
        given = group["param_names"]
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise CheckpointError(f"{file}: param_names of group {index} is not a list of names")
        if len(given) != len(group["params"]):
            raise CheckpointError(
                f"{file}: group {index} has {len(group['params'])} params and {len(given)} param_names"
            )
        names += given
    if len(set(names)) != len(names):
        raise CheckpointError(f"{file}: a name occurs twice in param_names")
    return names


def _arguments(state: NativeState, group: dict[str, Any], index: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, value in group.items():
        if name in ("params", "param_names"):
            continue
        if is_tensor(value):
            array = as_array(value, f"group {index}, argument {brief(name)}")
            value = array.item() if array.size == 1 else array
        elif isinstance(value, list):
            value = tuple(value)
        if isinstance(value, tuple):
            value = tuple(
                item if not is_tensor(item) else _scalar(item, f"group {index}, argument {brief(name)}")
                for item in value
            )
        simple = value if isinstance(value, tuple) else (value,)
        if isinstance(name, str) and all(
            item is None or type(item) in (bool, int, float, str) for item in simple
        ):
            arguments[name] = value
        else:
            state.extras[f"param_groups.{index}.{name}"] = plain(
                value, f"group {index}, argument {brief(name)}"
            )
            state.warnings.append(
                f"argument {brief(name)} of group {index} is {brief(value)}; it is kept aside"
            )
    return arguments


def _scalar(value: Any, where: str) -> Any:
    array = as_array(value, where)
    return array.item() if array.size == 1 else None


def _entry(state: NativeState, key: str, entry: Any, file: str) -> None:
    """One parameter's slots. Numbers of old files become 0-d arrays; None means "not there yet"."""
    if not isinstance(entry, dict):
        raise CheckpointError(
            f"{file}: the state of parameter {brief(key)} is {brief(entry)}; expected a dict"
        )
    slots: dict[str, np.ndarray] = {}
    for slot, value in entry.items():
        where = f"state of parameter {brief(key)}, slot {brief(slot)}"
        if value is None:
            continue
        if not isinstance(slot, str):
            raise CheckpointError(f"{file}: {where}: the slot is {brief(slot)}; expected a name")
        if is_tensor(value):
            slots[slot] = as_array(value, where)
        elif type(value) in (int, float) and abs(value) < 2**62:
            # torch keeps a step as float32 today; larger counts would lose their last digits.
            exact = slot == "step" and float(np.float32(value)) == value
            slots[slot] = np.asarray(value, np.float32 if exact else None)
        else:
            state.extras[f"state.{key}.{slot}"] = plain(value, where)
            state.warnings.append(f"{where} is {brief(value)}, not a tensor; it is kept aside")
    if slots:
        state.slots[key] = slots
        state.steps[key] = step_of(slots["step"], key, file) if "step" in slots else None


def step_of(value: np.ndarray, key: str, file: str) -> int:
    """The count in a ``step`` slot; raises CheckpointError if it is no whole number from 0 up."""
    number = float(value.item()) if value.size == 1 else math.nan
    if not (math.isfinite(number) and number >= 0 and number.is_integer()):
        shown = number if value.size == 1 else f"an array of shape {value.shape}"
        raise CheckpointError(
            f"{file}: state of parameter {brief(key)}, slot step: expected one whole number from 0 up, "
            f"found {shown}"
        )
    return int(number)


# -- the rest of a combined file --------------------------------------------------------------------


def _rest(state: NativeState, root: Any, path: tuple[Any, ...], file: str) -> None:
    levels = [root]
    for part in path[:-1]:
        levels.append(levels[-1][part])
    # Beside the optimizer, else around it.
    places = ((at, chosen) for at in reversed(range(len(levels))) if (chosen := _weight_entry(levels[at])))
    place, chosen = next(places, (-1, None))
    if chosen is not None:
        key, others = chosen
        state.weights, warnings = _weights(levels[place][key], file)
        state.warnings += [f"weights under {brief(key)}: {text}" for text in warnings]
        if others:
            listed = ", ".join(map(brief, others))
            state.warnings.append(f"weights are taken from {brief(key)}; {listed} also hold tensors by name")
    for at, level in enumerate(levels):
        pairs: Iterable[tuple[Any, Any]] = level.items() if isinstance(level, dict) else enumerate(level)
        for key, value in pairs:
            if key == path[at] or (at == place and chosen is not None and key == chosen[0]):
                continue
            name = ".".join(map(str, (*path[:at], key)))
            state.extras[name] = plain(value, name)


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and any(is_tensor(item) for item in value.values())
        and not any(
            isinstance(item, (dict, list)) for name, item in value.items() if "_extra_state" not in name
        )
    )


def _weight_entry(root: Any) -> tuple[str, list[str]] | None:
    """(key of the weights, other keys that could be), None if there are none."""
    if not isinstance(root, dict):
        return None
    likely = [key for key in WEIGHT_KEYS if _is_weights(root.get(key))]
    if not likely:
        likely = [key for key, value in root.items() if isinstance(key, str) and _is_weights(value)]
        if len(likely) != 1:
            return None
    return likely[0], likely[1:]


def _weights(value: dict[str, Any], file: str) -> tuple[dict[str, np.ndarray], list[str]]:
    kept = {name: item for name, item in value.items() if is_tensor(item)}
    warnings = [f"{brief(name)} is not a tensor and is left out" for name in value if name not in kept]
    names, warning = _strip(list(kept))
    if warning:
        warnings.append(warning)
    arrays = [as_array(item, f"weight {brief(name)}") for name, item in kept.items()]
    return dict(zip(names, arrays, strict=True)), warnings


def _strip(names: list[str]) -> tuple[list[str], str | None]:
    """Names without the prefixes that wrappers put before every one of them."""
    removed = ""
    while names:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) and name != p for name in names)), None)
        if prefix is None:
            break
        names, removed = [name[len(prefix) :] for name in names], removed + prefix
    return names, f"the prefix {removed} was removed from every name" if removed else None


def plain(value: Any, where: str) -> Any:
    """``value`` with tensors as arrays and placeholders as short text; nesting is bounded by the reader."""
    if isinstance(value, dict):
        return {str(k): plain(item, f"{where}.{brief(k)}") for k, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(item, where) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if is_tensor(value):
        return as_array(value, where)
    if isinstance(value, PickledArray):
        return value.array
    if isinstance(value, Record):
        return f"<{value.module}.{value.name}>"
    if isinstance(value, GlobalRef):
        return f"<{value}>"
    return value
