"""A checkpoint of ONNX Runtime's training API as optimizer state, with what stands beside it.

The API makes four files: ``training_model.onnx``, ``eval_model.onnx``, ``optimizer_model.onnx`` and
``checkpoint``, each behind one prefix. The third has the optimizer's attributes. What a checkpoint of
ours cannot say in the format's own fields stands in the property ``optexport``, as JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.dialects import Native
from optexport.errors import CheckpointError
from optexport.state.native import NativeGroup, NativeState, Weights

from ._beside import inside
from ._model import Model, Node
from ._ort_checkpoint import Checkpoint, is_checkpoint, read_checkpoint, write_checkpoint
from .dialect import OPTIMIZERS

__all__ = [
    "ADAMW",
    "ENTRIES",
    "FORMAT",
    "SGD",
    "checkpoint_of",
    "find_checkpoint",
    "read_state",
    "read_values",
    "write_checkpoint",
    "write_state",
]

FORMAT = "ort-flatbuffers"
NOTE = "optexport"
GROUP = "group0"
ENTRIES = {e.name: e for e in OPTIMIZERS if e.framework == "onnxruntime"}
ADAMW, SGD = "AdamWOptimizer", "SGDOptimizerV2"
_NAME = "checkpoint"
_MODEL = "optimizer_model.onnx"


def find_checkpoint(path: str) -> str | None:
    """The checkpoint that a path means: the file itself, or the one in a folder of the API's files.

    None where there is none, or several.
    """
    if not os.path.isdir(path):
        return path if is_checkpoint(path) else None
    try:
        names = os.listdir(path)
    except OSError:
        return None
    files = [os.path.join(path, n) for n in names if n.endswith(_NAME) and not n.endswith(f"nominal_{_NAME}")]
    found = [f for f in files if inside(path, f) and is_checkpoint(f)]
    return found[0] if len(found) == 1 else None


def _opened(path: str) -> tuple[str, Checkpoint]:
    where = find_checkpoint(path)
    if where is None:
        if os.path.isdir(path):
            raise CheckpointError(f"{path}: expected a folder with one file {_NAME}, found none or several")
        where = path
    return where, read_checkpoint(where)


def read_values(path: str) -> Weights:
    """Trained parameters' values; they stand sorted by name.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    _, held = _opened(path)
    return Weights(held.trainable, ordered=False)


def read_state(path: str) -> NativeState:
    """The optimizer's state. Slots are called ``momentum0`` and ``momentum1``.

    Attributes are those of the node in ``optimizer_model.onnx`` beside the file, the learning rate is
    known only where optexport wrote the file and nobody has stepped since. Extras: ``properties``.

    Raises:
        CheckpointError: as `read_checkpoint`, or the file has parameters alone.
    """
    where, held = _opened(path)
    if not held.groups:
        raise CheckpointError(
            f"{where}: holds the model's parameters and no optimizer state; save it with include_optimizer_state=True"
        )
    out = NativeState("onnxruntime", FORMAT, named=True, ordered=False)
    out.weights = {**held.trainable, **held.frozen}
    out.slots = {k: s for k, s in held.states.items() if s}
    missing = [n for n in out.slots if n not in held.trainable]
    if missing and held.trainable:
        raise CheckpointError(
            f"{where}: parameter {missing[0]!r}: has state and is not among the trained parameters "
            f"({', '.join(list(held.trainable)[:6])}); the file is damaged"
        )
    out.extras["properties"] = {k: v for k, v in held.properties.items() if k != NOTE}
    out.optimizer = _by_slots(held.states)
    node = _optimizer_node(where)
    arguments: dict[str, Any] = {}
    if node is not None and node.op == out.optimizer:
        arguments = _attributes(node)
    elif node is not None and out.optimizer is not None:
        out.warnings.append(
            f"{_MODEL} beside it has {node.op}, and the state is of {out.optimizer}: not used"
        )
    for step, _, params in held.groups.values():
        known = _noted(held.properties.get(NOTE), out.optimizer, step)
        # Attributes that run are the model's; the note has them in double.
        known = {k: v for k, v in known.items() if k not in arguments or _equal(v, arguments[k])}
        out.groups.append(NativeGroup({**arguments, **known}, params))
        out.steps |= dict.fromkeys(params, step)
    return out


def _by_slots(states: Mapping[str, Mapping[str, np.ndarray]]) -> str | None:
    """The training API has two optimizers, whose momentums differ in number."""
    found = {frozenset(s) for s in states.values() if s}
    kinds = {frozenset({"momentum0", "momentum1"}): ADAMW, frozenset({"momentum0"}): SGD}
    return kinds.get(found.pop()) if len(found) == 1 else None


def _optimizer_model(where: str) -> str | None:
    """``optimizer_model.onnx`` that belongs to a checkpoint, by its prefix, or alone in the folder."""
    folder, name = os.path.split(where)
    candidates = [name.removesuffix(_NAME) + _MODEL] if name.endswith(_NAME) else []
    candidates += [f"{os.path.splitext(name)[0]}_{_MODEL}", _MODEL]
    paths = (os.path.join(folder, c) for c in candidates)
    return next((p for p in paths if os.path.isfile(p) and inside(folder or ".", p)), None)


def _optimizer_node(where: str) -> Node | None:
    path = _optimizer_model(where)
    if path is None:
        return None
    nodes = [n for n in Model(path).main(nodes=True).nodes if n.domain == "com.microsoft" and n.op in ENTRIES]
    if len(nodes) != 1:
        raise CheckpointError(
            f"{path}: expected one node of {', '.join(ENTRIES)}, found {len(nodes)}; it tells the attributes of the "
            f"optimizer of {os.path.basename(where)}"
        )
    return nodes[0]


def _attributes(node: Node) -> dict[str, Any]:
    """Every argument but the learning rate: the node's, else the operator's default."""
    entry = ENTRIES[node.op]
    out = {k: v for k, v in entry.arguments.items() if k != "lr"}
    for name, value in node.attributes.items():
        if name in out:
            # The shortest decimal of a float32: the rule rounds it again.
            out[name] = float(str(value)) if isinstance(value, np.float32) else value
    return out


def _noted(note: Any, optimizer: str | None, step: int) -> dict[str, Any]:
    """Arguments that optexport left, where the file is as it left it."""
    try:
        held = json.loads(note) if isinstance(note, str) and len(note) < 1 << 16 else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(held, dict) or held.get("step") != step or held.get("optimizer") != optimizer:
        return {}
    arguments = held.get("arguments")
    known = ENTRIES[str(optimizer)].arguments
    if not isinstance(arguments, dict):
        return {}
    return {
        k: v
        for k, v in arguments.items()
        if k in known and isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    }


def _equal(a: float, b: float) -> bool:
    return bool(np.float32(a) == np.float32(b))


def write_state(state: NativeState, path: str, *, external_above: int = 1_800 << 20) -> None:
    """Write ``state`` as a checkpoint from which the training API goes on.

    path: the file, or a folder of the API's files whose checkpoint is replaced. Frozen parameters of a
        checkpoint that stands there are kept where it is of the same model.

    Raises:
        CheckpointError: several groups, parameters of different step counts or without values, numbers
            other than float32, an optimizer model beside it that has other attributes, or ``path``
            cannot be written; then ``path`` stays as it was.
    """
    where = find_checkpoint(path) if os.path.isdir(path) else path
    if where is None:
        raise CheckpointError(f"{path}: expected a folder with one file {_NAME}, found none or several")
    out = checkpoint_of(state, where)
    _check_attributes(ENTRIES[str(state.optimizer)], state.groups[0].arguments, where)
    out.frozen = _frozen(where, out.trainable)
    write_checkpoint(out, where, external_above=external_above)


def checkpoint_of(state: NativeState, where: str) -> Checkpoint:
    """What the training API holds of a state, nothing frozen; where: what to call the file in messages.

    Raises:
        CheckpointError: as `write_state`.
    """
    entry = ENTRIES.get(str(state.optimizer))
    if entry is None or entry.name not in (ADAMW, SGD):
        raise CheckpointError(
            f"{where}: the training API runs {ADAMW} and {SGD}; found {state.optimizer}; name one with --optimizer"
        )
    if len(state.groups) != 1:
        raise CheckpointError(
            f"{where}: expected one group of parameters, found {len(state.groups)}; the training API has one for all"
        )
    arguments = {**entry.arguments, **state.groups[0].arguments}
    params = state.groups[0].params
    steps = {state.steps.get(p) or 0 for p in params}
    if len(steps) > 1:
        raise CheckpointError(
            f"{where}: parameters were updated {', '.join(map(str, sorted(steps)))} times; the training API has one "
            "count for all"
        )
    step = max(steps, default=0)
    out = Checkpoint({p: _float32(state.weights.get(p), p, "values", where) for p in params})
    for p in params:
        out.states[p] = _momentums(entry, state.slots.get(p, {}), out.trainable[p], p, where)
    out.groups[GROUP] = step, float(arguments["lr"]), params
    kept = {k: v for k, v in arguments.items() if k in entry.arguments and isinstance(v, int | float)}
    note = {"arguments": kept, "optimizer": entry.name, "step": step}
    out.properties[NOTE] = json.dumps(note, sort_keys=True)
    return out


def _momentums(
    entry: Native, slots: Mapping[str, np.ndarray], value: np.ndarray, param: str, where: str
) -> dict[str, np.ndarray]:
    """Both of AdamW; SGD has one, which is never read. A parameter that was never updated has zeros."""
    names = [n for n, _ in entry.slots] or ["momentum0"]
    out = {}
    for name in names:
        array = slots.get(name)
        out[name] = np.zeros(value.shape, np.float32) if array is None else array
        _float32(out[name], param, name, where)
        if out[name].shape != value.shape:
            raise CheckpointError(
                f"{where}: parameter {param!r}, slot {name}: expected the parameter's shape {list(value.shape)}, found "
                f"{list(out[name].shape)}"
            )
    if set(slots) - set(names):
        raise CheckpointError(
            f"{where}: parameter {param!r}: expected the slots {', '.join(names)}, found {', '.join(slots)}"
        )
    return out


def _float32(array: np.ndarray | None, param: str, what: str, where: str) -> np.ndarray:
    if array is None:
        raise CheckpointError(
            f"{where}: parameter {param!r}: expected its values, which a checkpoint holds beside the state, found none; "
            "pass the weights (--model)"
        )
    if array.dtype.newbyteorder("=") != np.float32:
        raise CheckpointError(
            f"{where}: parameter {param!r}, {what}: the training operators take float32; found {array.dtype.name}; "
            "cast it first"
        )
    return array


def _frozen(where: str, trainable: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Frozen parameters of the checkpoint that is to be replaced, if it is of the same model."""
    if not is_checkpoint(where):
        return {}
    try:
        held = read_checkpoint(where)
    except CheckpointError:
        return {}
    same = {n: a.shape for n, a in held.trainable.items()} == {n: a.shape for n, a in trainable.items()}
    return held.frozen if same else {}


def _check_attributes(entry: Native, arguments: Mapping[str, Any], where: str) -> None:
    """The optimizer model beside the target must compute what the state is of."""
    node = _optimizer_node(where)
    if node is None:
        return
    arguments = {**entry.arguments, **arguments}
    model = _optimizer_model(where)
    if node.op != entry.name:
        raise CheckpointError(f"{where}: {model} beside it has {node.op}; expected {entry.name}")
    there = _attributes(node)
    differ = [k for k, v in there.items() if not _equal(arguments[k], v)]
    if differ:
        raise CheckpointError(
            f"{where}: {model} beside it has {', '.join(f'{k}={there[k]}' for k in differ)}; the state needs "
            f"{', '.join(f'{k}={arguments[k]}' for k in differ)}; set these attributes of its node"
        )
