"""Checkpoint folders of Hugging Face' Trainer: ``optimizer.pt`` beside the weights and ``trainer_state.json``.

The optimizer's state has no names, and the Trainer gives it two groups: parameters that decay, then
those that do not, each in the model's order. So the names are those of the weights, parted likewise.
Which do not decay follows from names and layer types (``get_decay_parameter_names`` in
transformers/trainer.py); types are in no file, so several ways to part them are tried, and only one
that counts and shapes allow is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optexport.converters.torch._folder import (
    FolderWeights,
    folder_weights,
    has_weights,
    inside,
    load_pt,
    read_json,
)
from optexport.converters.torch._interpret import native_state, plain
from optexport.errors import CheckpointError
from optexport.state.names import parameters
from optexport.state.native import NativeState, Weights

__all__ = ["OPTIMIZER", "STATE", "decays", "is_trainer", "read_trainer", "read_trainer_weights"]

OPTIMIZER = "optimizer.pt"
STATE = "trainer_state.json"
_BESIDE = {"scheduler.pt": "lr_scheduler", "scaler.pt": "scaler"}
_FORBIDDEN = tuple(
    map(re.compile, (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"))
)

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def is_trainer(path: str) -> bool:
    """Whether ``path`` is a folder with ``optimizer.pt`` and ``trainer_state.json`` or weights beside it."""
    folder = Path(path)
    try:
        return (folder / OPTIMIZER).is_file() and ((folder / STATE).is_file() or has_weights(folder))
    except OSError:
        return False


def read_trainer(path: str, optimizer_key: str | None = None) -> NativeState:
    """The optimizer of a Trainer's checkpoint folder, named where the weights decide the names.

    Raises CheckpointError if a file is missing or damaged, or is a symbolic link.
    """
    folder = Path(path)
    if not (folder / OPTIMIZER).is_file():
        raise CheckpointError(
            f"{path}: has no {OPTIMIZER}; expected a checkpoint folder of Trainer. Sharded runs keep their optimizer "
            "elsewhere: open the folder of DeepSpeed or of distributed checkpoints inside"
        )
    where = inside(folder, OPTIMIZER)
    state = native_state(load_pt(where), str(where), "hf-trainer", optimizer_key)
    state.format = "hf-trainer"
    found = folder_weights(folder)
    if found is not None:
        state.weights, state.ordered = found.weights.tensors, found.weights.ordered
        if not state.named:
            _name(state, found)
    for name, key in _BESIDE.items():
        if (folder / name).is_file():
            beside = inside(folder, name)
            state.extras[key] = plain(load_pt(beside), name)
    if (folder / STATE).is_file():
        _progress(state, read_json(inside(folder, STATE)))
    return state


def read_trainer_weights(path: str) -> Weights:
    """The weights of a checkpoint or model folder; raises CheckpointError if there are none."""
    found = folder_weights(Path(path))
    if found is None:
        raise CheckpointError(f"{path}: holds no weights; expected model.safetensors or pytorch_model.bin")
    return found.weights


def _progress(state: NativeState, said: dict[str, Any]) -> None:
    """Steps that the optimizer does not count, and a check of those that it does."""
    step = said.get("global_step")
    state.extras["trainer_state"] = {
        key: value
        for key, value in said.items()
        if value is None or isinstance(value, (bool, int, float, str))
    }
    if type(step) is not int or step < 0:
        return
    counted = {count for count in state.steps.values() if count is not None}
    if not counted:
        state.steps = {key: step for group in state.groups for key in group.params}
    elif max(counted) != step:
        state.warnings.append(
            f"{STATE} says {step} steps, the optimizer counts {max(counted)}; the optimizer's count is taken"
        )


# -- names ------------------------------------------------------------------------------------------


def decays(name: str) -> bool:
    """Whether Trainer lets weights of this name decay, as far as the name tells."""
    return not any(pattern.search(name.lower()) for pattern in _FORBIDDEN)


def _partings() -> Sequence[Callable[[str, Shapes], bool]]:
    """Ways to tell what decays: by name; by name and as layer norms look; as before names were looked at."""

    def like_norm(name: str, shapes: Shapes) -> bool:
        module, _, last = name.rpartition(".")
        shape = shapes[name]
        return last == "weight" and len(shape) == 1 and shapes.get(f"{module}.bias") == shape

    return (
        lambda name, shapes: decays(name),
        lambda name, shapes: decays(name) and not like_norm(name, shapes),
        lambda name, shapes: "bias" not in name and not like_norm(name, shapes),
        lambda name, shapes: "bias" not in name and len(shapes[name]) != 1,
    )


def _name(state: NativeState, found: FolderWeights) -> None:
    """Give the groups' parameters their names, where counts and shapes leave one way."""
    shapes = parameters(found.weights)
    order = [name for name in found.order or shapes if name in shapes]
    keys = [list(group.params) for group in state.groups]
    held = {key: _shape(state.slots.get(key, {})) for group in keys for key in group}
    ways: list[dict[str, str]] = []
    for decay in _partings() if len(keys) == 2 else (lambda name, shapes: True,):
        names = [[n for n in order if decay(n, shapes)], [n for n in order if not decay(n, shapes)]]
        way = _match(keys, names[: len(keys)], held, shapes, found.order is not None)
        if way is not None and way not in ways:
            ways.append(way)
    if len(ways) == 1:
        _rename(state, ways[0])
        return
    files = ", ".join(found.files[:2]) + ("" if len(found.files) < 3 else ", …")
    why = "in more than one way" if ways else "by groups, counts and shapes"
    state.warnings.append(
        f"parameter names: those of {files} cannot be told apart {why}"
        + ("" if found.order is not None else ": safetensors does not keep the model's order")
        + "; save the weights in that order as pytorch_model.bin in the folder (torch.save(model.state_dict(), …)), or "
        "list the names, decaying ones first, with --names"
    )


def _match(
    keys: Sequence[Sequence[str]],
    names: Sequence[Sequence[str]],
    held: Mapping[str, Shape | None],
    shapes: Shapes,
    ordered: bool,
) -> dict[str, str] | None:
    """Key -> name if each group has as many of both and shapes (with the order, if it is the model's) fit."""
    if [len(group) for group in keys] != [len(group) for group in names] or len(keys) != len(names):
        return None
    out: dict[str, str] = {}
    for mine, theirs in zip(keys, names, strict=True):
        if ordered:
            pairs = list(zip(mine, theirs, strict=True))
            if any(held[key] not in (None, shapes[name]) for key, name in pairs):
                return None
            out |= dict(pairs)
            continue
        for key in mine:
            fitting = [name for name in theirs if shapes[name] == held[key]]
            if len(fitting) != 1 or fitting[0] in out.values():
                return None
            out[key] = fitting[0]
    return out


def _shape(slots: Mapping[str, np.ndarray]) -> Shape | None:
    """The parameter's shape that its slots tell: their own, all alike; or factors of it."""
    shapes = {tuple(array.shape) for slot, array in slots.items() if slot != "step"}
    if len(shapes) > 1:
        shapes.discard(())
    if len(shapes) == 1:
        return shapes.pop()
    try:
        return np.broadcast_shapes(*shapes) if shapes else None
    except ValueError:
        return None


def _rename(state: NativeState, names: Mapping[str, str]) -> None:
    for group in state.groups:
        group.params = [names[key] for key in group.params]
    state.slots = {names[key]: slots for key, slots in state.slots.items()}
    state.steps = {names[key]: step for key, step in state.steps.items()}
    state.named = True
