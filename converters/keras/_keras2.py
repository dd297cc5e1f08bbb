"""Keras 2's optimizers of the kind before 2.11 (``keras.optimizers.legacy``), where their update is Keras 3's.

They keep slots by parameter and name, count in ``iter``, and have a ``decay`` of the learning rate, 1/(1 +
decay·iterations). Those of Keras 2.11 to 2.15 keep one list of variables, as Keras 3 does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optexport.errors import CheckpointError
from optexport.state.native import NativeGroup, NativeState

from .optimizers.common import KerasNative

__all__ = ["KERAS2", "from_keras2", "is_keras2", "named_in", "with_decay"]

# Key of `NativeState.extras`: slots are under the names of Keras 2.
KERAS2 = "keras2"

_ADAM = {"m": "momentum", "v": "velocity", "vhat": "velocity_hat"}
_SLOTS: Mapping[str, Mapping[str, str]] = {
    "SGD": {"momentum": "momentum"},
    "Adam": _ADAM,
    "Adamax": {"m": "momentum", "v": "norm"},
    "Adadelta": {"accum_grad": "accumulated_grad", "accum_var": "accumulated_delta_var"},
    "RMSprop": {"rms": "velocity", "momentum": "momentum", "mg": "average_gradient"},
}
_OTHER: Mapping[str, str] = {
    "Adagrad": "it adds epsilon to the root, Keras 3 adds it under the root",
    "Nadam": "its momentum follows a schedule that starts one step apart from that of Keras 3",
    "Ftrl": "its accumulator and shrinkage are those of TensorFlow's kernel",
    "RMSprop": "without momentum it adds epsilon to the root, Keras 3 adds it under the root",
}


def is_keras2(arguments: Mapping[str, Any]) -> bool:
    """Whether a configuration is of an optimizer of that kind."""
    return "decay" in arguments and "is_legacy_optimizer" not in arguments


def with_decay(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Takes ``decay`` out of the arguments; the schedule that it is, None where it is 0."""
    decay = arguments.pop("decay", 0.0)
    rate = arguments.get("learning_rate")
    if not decay or not isinstance(rate, int | float):
        return None
    config = {"initial_learning_rate": rate, "decay_steps": 1, "decay_rate": decay}
    del arguments["learning_rate"]
    return {"module": "keras.optimizers.schedules", "class_name": "InverseTimeDecay", "config": config}


def from_keras2(
    native: NativeState, entry: KerasNative, arguments: Mapping[str, Any], where: str
) -> NativeState:
    """``native`` with its slots under the names of Keras 3.

    arguments: known ones.

    Raises:
        CheckpointError: Keras 2's optimizer is not the one that Keras 3 calls so, or has other slots.
    """
    names = _SLOTS.get(entry.name)
    if names is None or (entry.name == "RMSprop" and not arguments.get("momentum")):
        why = _OTHER.get(entry.name, "Keras 2 had none of this kind")
        raise CheckpointError(
            f"{where}: was written by an optimizer of Keras 2, whose {entry.name} is another one than that of Keras 3: "
            f"{why}; go on with it in Keras 2, or convert the file there"
        )
    found = {s for slots in native.slots.values() for s in slots}
    if not found <= set(names):
        raise CheckpointError(
            f"{where}: expected the slots of {entry.name} of Keras 2, {', '.join(names)}; found "
            f"{', '.join(sorted(found))}; was it another optimizer? name it with --optimizer"
        )
    slots = {k: {names[s]: a for s, a in held.items()} for k, held in native.slots.items()}
    known = {k: v for k, v in native.groups[0].arguments.items() if k in entry.arguments}
    warnings = list(native.warnings)
    if "vhat" in found:
        known["amsgrad"] = True
    if native.optimizer is None and "epsilon" in entry.arguments and "epsilon" not in arguments:
        warnings.append(
            f"the file does not hold epsilon; assumed {entry.qualified}'s default epsilon={entry.arguments['epsilon']}"
        )
    return replace(
        native,
        slots=slots,
        groups=[NativeGroup(known, list(native.groups[0].params))],
        extras={k: v for k, v in native.extras.items() if k != KERAS2},
        warnings=warnings,
    )


def named_in(called: Sequence[str], weights: Sequence[str]) -> list[str] | None:
    """Names of the weights that an optimizer's variables are called after, in the order of the variables.

    ``adam/fc1_kernel_momentum`` (Keras 3), ``Adam/m/fc1/kernel`` (Keras 2.11 on) and ``Adam/fc1/kernel/m``
    (before) are all of ``fc1/kernel``. None where a name tells no weight, or two.
    """
    whole: dict[str, set[str]] = {w: {w} for w in weights}
    joined: dict[str, set[str]] = {}
    for w in weights:
        joined.setdefault(w.replace("/", "_"), set()).add(w)
    order: dict[str, None] = {}
    for name in called:
        fitting: dict[int, set[str]] = {}
        for ending in (*_endings(name), *_endings(name.rpartition("/")[0])):
            fitting.setdefault(len(ending), set()).update(whole.get(ending, ()))
        inner = name.partition("/")[2]
        for at, letter in enumerate(inner):
            if letter == "_":
                fitting.setdefault(at, set()).update(joined.get(inner[:at], ()))
        found = [names for size in sorted(fitting, reverse=True) if (names := fitting[size])]
        if not found or len(found[0]) != 1:
            return None
        order[found[0].pop()] = None
    return list(order)


def _endings(name: str) -> Iterator[str]:
    """``a/b/c``, ``b/c``, ``c``."""
    while name:
        yield name
        name = name.partition("/")[2]
