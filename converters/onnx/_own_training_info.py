"""State in a training graph of ours in ONNX' standard form: the rule is in the file's metadata.

``<param>`` and running statistics are initializers of the model, ``<param>.<slot>`` and ``step`` of the
algorithm, and ``update_binding`` replaces each by ``<name>.new``. What `training_info` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.specs import Group, Spec
from optexport.state.limits import parse_json
from optexport.state.manifest import spec_from_text
from optexport.state.native import NativeGroup, NativeState

from ._model import Model

__all__ = ["SPEC", "emitted_groups", "emitted_paths", "read_own"]

SPEC = "optexport.spec"
TRAINING = "optexport.training"
_MOST = 1 << 62


def read_own(model: Model) -> NativeState:
    """The native state of such a file; ``extras["groups"]`` are the spec's.

    Raises:
        CheckpointError: a tensor is missing, or what the metadata says does not fit.
    """
    path = model.path
    spec = spec_from_text(model.metadata[SPEC], path)
    told = _told(model)
    if len(model.training) != 1 or len(model.training[0].get(2, [])) != 1:
        raise CheckpointError(
            f"{path}: expected one training_info with one algorithm, found {len(model.training)}"
        )
    info = model.training[0]
    algorithm = model.graph(model.fields.bytes_of(info[2][0], "algorithm"), nodes=False)
    main = model.main().tensors
    tensors = {**main, **algorithm.tensors}
    if len(tensors) < len(main) + len(algorithm.tensors):
        twice = min(set(main) & set(algorithm.tensors))
        raise CheckpointError(
            f"{path}: tensor {twice!r} stands in the model and in its algorithm; expected it once"
        )
    bound = model.bindings(info.get(4, []))

    def tensor(name: str, what: str) -> np.ndarray:
        if name not in tensors or not tensors[name].is_number:
            raise CheckpointError(f"{path}: {what}: expected the initializer {name!r}, found none")
        if bound.get(name) is None:
            raise CheckpointError(f"{path}: {what}: expected an update_binding of {name!r}, found none")
        return tensors[name].array

    out = NativeState("onnx", "onnx-training-info", named=True, ordered=True)
    step = tensor("step", "completed updates")
    if step.shape != () or step.dtype.kind != "i" or not 0 <= int(step) < _MOST:
        raise CheckpointError(
            f"{path}: step expected one whole number ≥ 0, found {step.reshape(-1)[:3].tolist()}"
        )
    for group in spec.groups:
        out.groups.append(NativeGroup({}, list(group.params or ())))
        for param in group.params or ():
            out.weights[param] = tensor(param, f"parameter {param!r}")
            names = group.rule.slot_names
            out.slots[param] = {s: tensor(f"{param}.{s}", f"parameter {param!r}, slot {s}") for s in names}
            count = int(step) - told["behind"].get(param, 0)
            if count < 0:
                raise CheckpointError(f"{path}: parameter {param!r}: {count} completed updates; expected ≥ 0")
            out.steps[param] = count
    order = [n for n in told["params"] if n in out.weights]
    out.weights = {n: out.weights[n] for n in dict.fromkeys([*order, *out.weights])}
    out.extras["groups"] = list(spec.groups)
    out.extras["buffers"] = {n: tensor(n, f"running statistic {n!r}") for n in told["buffers"]}
    return out


def _told(model: Model) -> dict[str, Any]:
    """What the metadata say beside the spec, as far as state needs it."""
    try:
        held = parse_json(model.metadata.get(TRAINING, "{}"))
    except (ValueError, json.JSONDecodeError):
        held = None
    named = held if isinstance(held, dict) else {}
    params, buffers, behind = named.get("params", []), named.get("buffers", []), named.get("behind", {})
    lists = all(isinstance(v, list) and all(isinstance(n, str) for n in v) for v in (params, buffers))
    counts = isinstance(behind, dict) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < _MOST for n in behind.values()
    )
    if not (isinstance(held, dict) and lists and counts):
        raise CheckpointError(
            f"{model.path}: metadata {TRAINING}: expected the names of parameters and statistics, found something else"
        )
    return {"params": params, "buffers": list(dict.fromkeys(buffers)), "behind": behind}


def emitted_groups(native: NativeState) -> list[Group] | None:
    """The groups of a state that `read_own` read, else None."""
    groups: list[Group] | None = native.extras.get("groups") if native.framework == "onnx" else None
    return None if groups is None else list(Spec(tuple(groups)).groups)


def emitted_paths(rule: Any, master: bool) -> Mapping[str, str]:
    """Slot's name in the file -> the rule's."""
    return {s: s for s in rule.slot_names}
