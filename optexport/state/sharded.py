"""Tensors in several safetensors files, found through the index beside them.

``model.safetensors.index.json`` has ``weight_map``, from a tensor's name to the file that holds it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .files import map_file, whole_or_nothing
from .limits import parse_json
from .native import Weights
from .safetensors import read_tensors, write_tensors

__all__ = ["SHARD", "SUFFIX", "index_metadata", "is_index", "read_shards", "write_shards"]

# In the metadata of a shard that optexport wrote: the name of its index.
SHARD = "optexport.index"

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


def index_metadata(path: str) -> dict[str, str]:
    """The text entries of an index's ``metadata``.

    Raises:
        CheckpointError: no index.
    """
    found = _index(path).get("metadata")
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def write_shards(
    path: str,
    tensors: Mapping[str, np.ndarray],
    meta: Callable[[Mapping[str, str]], Mapping[str, str]],
    size: int,
    on_tensor: Callable[[int], None] | None = None,
) -> list[str]:
    """Write tensors in sorted order to shards of at most ``size`` bytes, and their index; the index first.

    path: ``name.safetensors``, of which the shards' and the index's names are made. meta: the index's
    metadata, from the sha256 of every tensor. A tensor larger than ``size`` has a shard of its own.

    Raises:
        CheckpointError: the index stands there already: its shards could not be replaced all at once.
            And as `write_tensors`.
    """
    stem = path.removesuffix(SUFFIX).removesuffix(".safetensors")
    index = f"{stem}{SUFFIX}"
    if os.path.lexists(index):
        raise CheckpointError(
            f"{index}: already exists; choose another name, or remove it and its shards first"
        )
    cut: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors):
        if cut[-1] and filled + tensors[name].nbytes > size:
            cut.append([])
            filled = 0
        cut[-1].append(name)
        filled += tensors[name].nbytes
    sums: dict[str, str] = {}
    mark = {SHARD: os.path.basename(index)}

    def noted(found: Mapping[str, str]) -> Mapping[str, str]:
        sums.update(found)
        return mark

    files = [f"{stem}-{i + 1:05}-of-{len(cut):05}.safetensors" for i in range(len(cut))]
    for file, names in zip(files, cut, strict=True):
        with whole_or_nothing(file) as out:
            write_tensors(out, file, {n: tensors[n] for n in names}, noted, on_tensor)
    where = {n: os.path.basename(file) for file, names in zip(files, cut, strict=True) for n in names}
    total = sum(a.nbytes for a in tensors.values())
    text = {"metadata": {**meta(sums), "total_size": total}, "weight_map": where}
    with whole_or_nothing(index) as out:
        out.write(json.dumps(text, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    return [index, *files]


def _listed(path: str) -> dict[str, str]:
    found = _index(path).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(v, str) for v in found.values()):
        raise CheckpointError(f"{path}: expected 'weight_map', from tensors to files, found none")
    return found


def _index(path: str) -> dict[str, Any]:
    data = map_file(path)
    if len(data) > _MOST_BYTES:
        raise CheckpointError(f"{path}: expected an index of at most {_MOST_BYTES} bytes")
    try:
        value = parse_json(bytes(data))
    except ValueError as e:
        raise CheckpointError(f"{path}: expected an index in JSON: {e}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected an index, a JSON object, found {type(value).__name__}")
    return value
