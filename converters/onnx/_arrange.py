"""What a file leaves open until the optimizer and the caller's arguments are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optexport.dialects import Native
from optexport.errors import CheckpointError

if TYPE_CHECKING:
    from optexport.state.native import NativeState

__all__ = ["arrange"]

# What onnxruntime.training.artifacts makes: attributes of AdamW in its optimizer_model.onnx.
_GENERATED = {
    "alpha": 0.9,
    "beta": 0.999,
    "epsilon": 1e-6,
    "weight_decay": 0.0,
    "adam_mode": 1,
    "correct_bias": 1,
}
_RATE = ("lr", "learning_rate", "R", "r")


def arrange(native: NativeState, entry: Native, given: Mapping[str, Any], where: str) -> NativeState:
    """The state with completed updates (onnx), and with attributes (onnxruntime) that no file holds.

    given: the caller's arguments.

    Raises:
        CheckpointError: T is smaller than that of the first update.
    """
    if entry.framework == "onnx":
        return _counted(native, given, where)
    if entry.name == "AdamWOptimizer" and any(k in given for k in _RATE):
        return _attributed(native, given)
    return native


def _counted(native: NativeState, given: Mapping[str, Any], where: str) -> NativeState:
    steps = dict(native.steps)
    for group in native.groups:
        first = int(given.get("t0", group.arguments.get("t0", 0)))
        for key in group.params:
            count = native.extras.get("T", {}).get(key)
            if count is None:
                continue
            if count < first:
                raise CheckpointError(
                    f"{where}: parameter {key!r}: T of the next update is {count}; expected at least that of the first, "
                    f"t0={first}"
                )
            steps[key] = count - first
    return replace(native, steps=steps)


def _attributed(native: NativeState, given: Mapping[str, Any]) -> NativeState:
    if any(g.arguments for g in native.groups):
        return native
    assumed = {k: v for k, v in _GENERATED.items() if k not in given}
    if not assumed:
        return native
    text = ", ".join(f"{k}={v}" for k, v in assumed.items())
    return replace(
        native,
        groups=[replace(g, arguments=dict(assumed)) for g in native.groups],
        warnings=[
            *native.warnings,
            f"no optimizer_model.onnx beside the file; assumed what generate_artifacts makes: {text}; "
            "put the model there, or give the arguments",
        ],
    )
