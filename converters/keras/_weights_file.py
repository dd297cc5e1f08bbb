"""Keras 3's own files: ``.keras``, ``.weights.h5``, and ``.weights.json`` with its shards.

    optimizer/vars/0 …                  the optimizer's variables (``_variables.py``)
    optimizer/inner_optimizer/vars/0 …  those of the optimizer in a LossScaleOptimizer, a second time
    layers/…/vars/0 …                   weights, by position in their layer

A ``.keras`` file is a zip of that file and ``config.json``, which has the optimizer's class and
arguments; the others have neither, unless optexport wrote them: then the group ``optimizer/vars`` has
the attribute ``optexport`` with the same JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.limits import parse_json
from optexport.state.native import NativeState, Weights

from ._archive import Archive, is_archive
from ._h5 import H5, SIGNATURE
from ._model import layout
from ._shards import Shards, is_shard_list
from ._sorted import numbers_as_numbers
from ._variables import Held, native_state

__all__ = ["NOTE", "VARIABLES", "read", "read_weights"]

VARIABLES = "optimizer/vars"
NOTE = "optexport"
_INNER = "optimizer/inner_optimizer/vars"

Container = H5 | Shards


def read(path: str) -> NativeState:
    """The optimizer and weights in ``path``."""
    container, config = _open(path)
    with container as h5:
        if config is None:
            config = _noted(h5, path)
        compiled = (config or {}).get("compile_config")
        optimizer = compiled.get("optimizer") if isinstance(compiled, dict) else None
        weights, ordered, trained = _weights(h5, config)
        held = Held(h5.variables(VARIABLES), optimizer, weights, ordered, trained, VARIABLES)
        held.scaled = bool(h5.names(_INNER))
    return native_state(held, "keras-zip" if config and "config" in config else "keras-weights-h5", path)


def read_weights(path: str) -> Weights:
    """The weights in ``path`` under their places in the file (``layers/dense/vars/0``)."""
    container, config = _open(path)
    with container as h5:
        tensors, ordered, trained = _weights(h5, config)
    if not tensors:
        raise CheckpointError(f"{path}: expected weights below layers/, found none")
    fixed = frozenset(tensors) - frozenset(trained) if trained is not None else frozenset()
    return Weights(tensors, ordered, fixed)


def _open(path: str) -> tuple[Container, dict[str, Any] | None]:
    """What holds the variables, and ``config.json`` where there is one."""
    if is_shard_list(path) or path.lower().endswith(".weights.json"):
        return Shards(path), None
    data = map_file(path)
    if bytes(data[:8]) == SIGNATURE:
        return H5(data, path), None
    if not is_archive(data):
        raise CheckpointError(f"{path}: expected a .keras or .weights.h5 file, found {bytes(data[:8])!r}")
    archive = Archive(data, path)
    return H5(archive.weights(), path), archive.config()


def _noted(h5: Container, where: str) -> dict[str, Any] | None:
    """What optexport wrote beside the variables."""
    text = h5.attribute(VARIABLES, NOTE)
    if text is None:
        return None
    try:
        note = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: attribute {NOTE!r}: expected JSON: {error}") from None
    return note if isinstance(note, dict) else None


def _weights(
    h5: Container, config: Mapping[str, Any] | None
) -> tuple[dict[str, np.ndarray], bool, list[str] | None]:
    """Weights by place, whether their order is the model's own, and those that are trained where that is known."""
    paths = [p for p in h5.groups_of_variables() if not p.startswith("optimizer/")]
    groups = {p: h5.variables(p) for p in sorted(paths, key=numbers_as_numbers)}
    every = {f"{p}/{i}": a for p, arrays in groups.items() for i, a in enumerate(arrays)}
    known = layout(config, groups, {p: h5.attribute(p, "name") or "" for p in groups})
    if known is None:
        return every, False, None
    return {n: every[n] for n in known.names}, True, known.trained
