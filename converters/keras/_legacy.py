"""A whole model in one HDF5 file, as Keras 2 and 3 write it where the name ends in ``.h5``.

    attribute training_config             JSON: optimizer_config has class_name and config
    model_weights                         attribute layer_names; a group a layer: attribute weight_names, datasets
    optimizer_weights                     attribute weight_names: the optimizer's order; datasets by those names

Names of variables, of Keras 3, of Keras 2.11 on, and before:

    adam/iteration   adam/fc1_kernel_momentum
    iteration:0      Adam/m/fc1/kernel:0
    Adam/iter:0      Adam/fc1/kernel/m:0        (training/Adam/fc1/kernel/m:0)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.limits import parse_json
from optexport.state.native import NativeGroup, NativeState, Weights

from ._h5 import H5, SIGNATURE
from ._keras2 import KERAS2, is_keras2, named_in, with_decay
from ._variables import Held, class_and_arguments, native_state

__all__ = ["FORMAT", "is_legacy", "read", "read_weights"]

FORMAT = "keras-legacy-h5"
_OPTIMIZER, _MODEL = "optimizer_weights", "model_weights"
# Names of the root group's members stand in a heap right behind the first headers.
_SNIFFED = 1 << 12
_HEADS = ("iteration", "iter", "learning_rate", "current_learning_rate")


def is_legacy(data: memoryview) -> bool:
    """Whether an HDF5 file begins as such a one."""
    head = bytes(data[:_SNIFFED])
    return head[:8] == SIGNATURE and any(f"{name}\0".encode() in head for name in (_OPTIMIZER, _MODEL))


def read(path: str) -> NativeState:
    """The optimizer and the weights in ``path``."""
    with H5(map_file(path), path) as h5:
        weights = _weights(h5, path)
        names = h5.texts(_OPTIMIZER, "weight_names")
        if not names:
            raise CheckpointError(f"{path}: expected an optimizer's variables in {_OPTIMIZER}, found none")
        _check_once(names, f"{path}: {_OPTIMIZER}")
        variables = {_bare(n): h5.array(f"{_OPTIMIZER}/{n}") for n in names}
        optimizer = _config(h5, path)
    if optimizer is not None:
        # "Custom>Adam": the package a class is registered in.
        optimizer = {**optimizer, "class_name": str(optimizer.get("class_name")).rpartition(">")[2]}
    config = (optimizer or {}).get("config")
    if (isinstance(config, dict) and is_keras2(config)) or any(_last(n) == "iter" for n in variables):
        return _of_keras2(variables, optimizer, weights, path)
    arrays = [a for n, a in variables.items() if _last(n) != "current_learning_rate"]
    trained = named_in([n for n in variables if _last(n) not in _HEADS], list(weights))
    return native_state(Held(arrays, optimizer, weights, True, trained, _OPTIMIZER), FORMAT, path)


def read_weights(path: str) -> Weights:
    """The weights in ``path`` by Keras' names (``fc1/kernel``)."""
    with H5(map_file(path), path) as h5:
        weights = _weights(h5, path)
        names = [_bare(n) for n in h5.texts(_OPTIMIZER, "weight_names")]
    if not weights:
        raise CheckpointError(f"{path}: expected weights in {_MODEL}, found none")
    trained = named_in([n for n in names if _last(n) not in _HEADS], list(weights))
    return Weights(weights, True, frozenset(weights) - frozenset(trained or weights))


def _weights(h5: H5, where: str) -> dict[str, np.ndarray]:
    """Weights by name, in the model's order."""
    out: dict[str, np.ndarray] = {}
    for layer in (*h5.texts(_MODEL, "layer_names"), "top_level_model_weights"):
        for name in h5.texts(f"{_MODEL}/{layer}", "weight_names"):
            if _bare(name) in out:
                raise CheckpointError(
                    f"{where}: {_MODEL}: two weights are called {_bare(name)!r}; rename a layer"
                )
            out[_bare(name)] = h5.array(f"{_MODEL}/{layer}/{name}")
    return out


def _config(h5: H5, where: str) -> dict[str, Any] | None:
    """``class_name`` and ``config`` of the optimizer."""
    text = h5.attribute("", "training_config")
    if text is None:
        return None
    try:
        found = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: attribute training_config: expected JSON: {error}") from None
    optimizer = found.get("optimizer_config") if isinstance(found, dict) else None
    return optimizer if isinstance(optimizer, dict) else None


def _of_keras2(
    variables: dict[str, np.ndarray], optimizer: Any, weights: dict[str, np.ndarray], where: str
) -> NativeState:
    """Slots under Keras 2's names, which tell the parameter and the slot."""
    out = NativeState("keras", FORMAT, weights=weights, named=True, extras={KERAS2: True})
    arguments = class_and_arguments(optimizer, out, where)
    decay = with_decay(arguments)
    if decay is not None:
        out.extras["schedule"] = decay
    step = next((a for n, a in variables.items() if _last(n) == "iter"), None)
    if step is None or step.shape != () or step.dtype.kind not in "iu" or int(step) < 0:
        raise CheckpointError(f"{where}: {_OPTIMIZER}: expected iter, a whole number ≥ 0, found none")
    slots: dict[str, dict[str, np.ndarray]] = {}
    for name, array in variables.items():
        if _last(name) == "iter":
            continue
        found = named_in([name], list(weights))
        if found is None:
            # Nadam's momentum_cache is of no parameter.
            out.extras.setdefault("others", []).append(name)
            continue
        slots.setdefault(found[0], {})[_last(name)] = array
    out.slots = {n: slots[n] for n in weights if n in slots}
    out.groups = [NativeGroup(arguments, list(out.slots))]
    out.steps = dict.fromkeys(out.slots, int(step))
    return out


def _bare(name: str) -> str:
    """Without the number of the output that TensorFlow puts behind a name."""
    return name.removesuffix(":0")


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _check_once(names: list[str], where: str) -> None:
    twice = {n for n in names if names.count(n) > 1} if len(names) != len(set(names)) else set()
    if twice:
        raise CheckpointError(f"{where}: two variables are called {sorted(twice)[0]!r}; the file is damaged")
