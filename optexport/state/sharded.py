"""Weights in several safetensors files, found through the index beside them.

``model.safetensors.index.json`` has ``weight_map``, from a tensor's name to the file that holds it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .bundle import read_tensors
from .native import Weights

__all__ = ["is_index", "read_shards"]

SUFFIX = ".safetensors.index.json"
# A name and a file name a tensor; no model has a million.
_MOST_BYTES = 1 << 28


def is_index(path: str) -> bool:
    """Whether a file's name is an index's."""
    return path.endswith(SUFFIX) and os.path.isfile(path)


def read_shards(path: str) -> Weights:
    """The weights that an index lists, each file mapped.

    Raises:
        CheckpointError: no index, a file that is missing or outside the index's folder, or files that do
            not hold what it lists.
    """
    listed = _listed(path)
    folder = Path(path).resolve().parent
    tensors: dict[str, Any] = {}
    for shard in sorted(set(listed.values())):
        file = folder / shard
        if Path(shard).name != shard or file.resolve().parent != folder:
            raise CheckpointError(f"{path}: expected files of its own folder, found {shard!r}")
        if not file.is_file():
            raise CheckpointError(
                f"{path}: lists {shard!r}, which is not in its folder; fetch every file of the model"
            )
        held, _ = read_tensors(str(file))
        want = {n for n, s in listed.items() if s == shard}
        if set(held) != want:
            odd = sorted(set(held) ^ want)[0]
            side = "is not in it" if odd in want else "is in it and not listed"
            raise CheckpointError(
                f"{path}: {shard!r}: tensor {odd!r} {side}; the files are of different saves"
            )
        tensors |= held
    return Weights(dict(sorted(tensors.items())), ordered=False)


def _listed(path: str) -> dict[str, str]:
    try:
        with open(path, "rb") as f:
            data = f.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise CheckpointError(f"{path}: expected an index of at most {_MOST_BYTES} bytes")
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path}: expected an index in JSON: {e}") from None
    found = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(v, str) for v in found.values()):
        raise CheckpointError(f"{path}: expected 'weight_map', from tensors to files, found none")
    return found
