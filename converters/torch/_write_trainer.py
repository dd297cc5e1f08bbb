"""A checkpoint that Hugging Face' Trainer resumes: ``optimizer.pt`` in its two groups, and what stands beside.

Trainer's optimizer always has two groups, decaying parameters and the others, and ``load_state_dict``
goes by position; so a state of other groups is written in these, each parameter with its own arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optexport.converters.torch._pack import Pack
from optexport.converters.torch._trainer import OPTIMIZER, STATE, decays
from optexport.converters.torch._write import write_zip
from optexport.errors import CheckpointError
from optexport.state.files import whole_or_nothing, whole_or_nothing_directory
from optexport.state.native import NativeGroup, NativeState
from optexport.state.safetensors import write_tensors

__all__ = ["write_trainer"]


def write_trainer(state: NativeState, path: str) -> None:
    """Write the folder ``path``; or, where its name ends in ``.pt``, ``optimizer.pt`` alone.

    The folder has what of these is known: ``optimizer.pt``, ``scheduler.pt``, ``model.safetensors`` and
    ``trainer_state.json`` with the step.

    Raises CheckpointError if parameters of one of Trainer's groups differ in their arguments, or have no
    names, or the path cannot be written.
    """
    grouped = _regrouped(state, path)
    scheduler = grouped.extras.pop("lr_scheduler", None)
    if path.endswith(".pt"):
        with whole_or_nothing(path) as file:
            write_zip(file, grouped, combined=False)
        return
    with whole_or_nothing_directory(path) as folder:
        with whole_or_nothing(folder / OPTIMIZER) as file:
            write_zip(file, grouped, combined=False)
        if scheduler is not None:
            with whole_or_nothing(folder / "scheduler.pt") as file:
                Pack().write(file, scheduler)
        if state.weights:
            with whole_or_nothing(folder / "model.safetensors") as file:
                write_tensors(file, str(Path(path) / "model.safetensors"), state.weights, {"format": "pt"})
        _write_step(folder, state)


def _write_step(folder: Path, state: NativeState) -> None:
    steps = [step for step in state.steps.values() if step is not None]
    if steps:
        with whole_or_nothing(folder / STATE) as file:
            file.write(json.dumps({"global_step": max(steps)}, indent=2).encode() + b"\n")


def _regrouped(state: NativeState, path: str) -> NativeState:
    """``state`` in Trainer's groups: those of the file where they are so, else parted by name."""
    if not state.named:
        raise CheckpointError(
            f"{path}: parameters have no names; Trainer's groups follow from them: pass --names"
        )
    order = [key for group in state.groups for key in group.params]
    if set(order) <= set(state.weights):
        order = [name for name in state.weights if name in set(order)]
    arguments: dict[str, Mapping[str, Any]] = {key: g.arguments for g in state.groups for key in g.params}
    parted = _as_given(state) or [[k for k in order if decays(k)], [k for k in order if not decays(k)]]
    groups = []
    for params, what in zip(parted, ("decay", "do not decay"), strict=True):
        # A group without parameters still has arguments: the optimizer makes its groups from a template.
        first = arguments[params[0]] if params else state.groups[-1].arguments
        differing = [key for key in params if arguments[key] != first]
        if differing:
            raise CheckpointError(
                f"{path}: parameters {params[0]!r} and {differing[0]!r} both {what} in Trainer, which keeps them in one "
                "group; their arguments differ: write the format torch, and give Trainer an optimizer of your own"
            )
        groups.append(NativeGroup(dict(first), params))
    return replace(state, groups=groups, extras=dict(state.extras))


def _as_given(state: NativeState) -> list[list[str]] | None:
    """Two groups of which the second alone does not decay are Trainer's own, whatever the names say: it
    goes by layer types too."""
    if len(state.groups) != 2:
        return None
    first, second = state.groups
    if not first.arguments.get("weight_decay") or second.arguments.get("weight_decay") != 0:
        return None
    if any(not decays(key) for key in first.params):
        return None
    return [list(first.params), list(second.params)]
