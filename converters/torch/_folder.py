"""Weights in a folder as Hugging Face libraries save them: one file, or shards with an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optexport.converters.torch._interpret import native_weights
from optexport.converters.torch._legacy import is_legacy, load_legacy
from optexport.converters.torch._zip import load_zip
from optexport.errors import CheckpointError
from optexport.state.bundle import read_tensors
from optexport.state.files import map_file
from optexport.state.limits import parse_json
from optexport.state.native import Weights
from optexport.state.pickles.objects import brief

__all__ = ["FolderWeights", "folder_weights", "has_weights", "inside", "load_pt", "read_json"]

# With their order first: PyTorch's pickles keep the model's own, safetensors sorts.
_ORDERED = ("pytorch_model.bin", "adapter_model.bin")
_SORTED = ("model.safetensors", "adapter_model.safetensors")
_INDEX = ".index.json"
# Of a JSON file that is read whole; an index of a million tensors has a tenth of it.
_MAX_JSON = 1 << 27


@dataclass
class FolderWeights:
    """weights: values. files: what they were read from. order: names in the model's own order, where a
    file tells it."""

    weights: Weights
    files: list[str]
    order: list[str] | None


def has_weights(folder: Path) -> bool:
    """Whether one of the files is there, by its name alone."""
    return any((folder / (name + end)).is_file() for name in (*_ORDERED, *_SORTED) for end in ("", _INDEX))


def folder_weights(folder: Path) -> FolderWeights | None:
    """The weights in ``folder``, None if there are none.

    Values are those of the safetensors file where there is one beside the pickle, since that is what is
    written today; the order is the pickle's if it has the same names and shapes.

    Raises CheckpointError if a file is damaged, the index names a file outside ``folder`` or a tensor
    that its file lacks, or two shards hold one tensor.
    """
    ordered, sorted_ = (
        next((found for name in names if (found := _one(folder, name)) is not None), None)
        for names in (_ORDERED, _SORTED)
    )
    if ordered is None and sorted_ is None:
        return None
    if sorted_ is None:
        assert ordered is not None
        tensors, files = ordered
        return FolderWeights(Weights(tensors, ordered=True), files, list(_untied(tensors)))
    tensors, files = sorted_
    order = None
    if ordered is not None:
        first = _untied(ordered[0])
        if set(tensors) <= set(first) and all(first[n].shape == a.shape for n, a in tensors.items()):
            order = [name for name in first if name in tensors]
            tensors = {name: tensors[name] for name in order}
    return FolderWeights(Weights(tensors, ordered=order is not None), files, order)


def _one(folder: Path, name: str) -> tuple[dict[str, np.ndarray], list[str]] | None:
    """(tensors, files) of ``name``, or of the shards that its index lists."""
    if (folder / name).is_file():
        return _tensors(folder, name), [name]
    if (folder / (name + _INDEX)).is_file():
        return _sharded(folder, name + _INDEX)
    return None


def _tensors(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = inside(folder, name)
    if name.endswith(".safetensors"):
        return dict(sorted(read_tensors(str(path))[0].items()))
    return native_weights(load_pt(path), str(path)).tensors


def _sharded(folder: Path, index: str) -> tuple[dict[str, np.ndarray], list[str]]:
    where = str(folder / index)
    said = read_json(inside(folder, index)).get("weight_map")
    if not isinstance(said, dict) or not said or not all(isinstance(f, str) for f in said.values()):
        raise CheckpointError(f"{where}: expected weight_map, from tensor to file, found {brief(said)}")
    shards = list(dict.fromkeys(said.values()))
    for shard in shards:
        inside(folder, shard)
    tensors: dict[str, np.ndarray] = {}
    for shard in shards:
        held = _tensors(folder, shard)
        if sorted(held) != sorted(name for name, file in said.items() if file == shard):
            missing = [n for n, file in said.items() if file == shard and n not in held]
            more = [n for n in held if said.get(n) != shard]
            raise CheckpointError(
                f"{where}: {brief(shard)} "
                + (
                    f"lacks {brief(missing[0])}"
                    if missing
                    else f"holds {brief(more[0])}, which is not listed there"
                )
                + "; the shards are of different saves"
            )
        tensors |= held
    ordered = not shards[0].endswith(".safetensors")
    return (tensors if ordered else dict(sorted(tensors.items()))), shards


def _untied(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each tensor under its first name: tied parameters occur once in an optimizer."""
    seen: set[tuple[Any, ...]] = set()
    out: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        place = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
        if array.size and place in seen:
            continue
        seen.add(place)
        out[name] = array
    return out


def inside(folder: Path, name: str) -> Path:
    """A file directly in ``folder``; raises CheckpointError for another place or a symbolic link."""
    if not name or name in (".", "..") or any(c in name for c in "/\\\0:"):
        raise CheckpointError(f"{folder}: {brief(name)} is not inside the directory; refused")
    path = folder / name
    if path.is_symlink():
        raise CheckpointError(
            f"{folder}: {brief(name)} is a symbolic link; refused: put the file itself there"
        )
    return path


def load_pt(path: Path) -> Any:
    """The object of a file of ``torch.save``, zip or legacy."""
    data = map_file(path)
    if is_legacy(data):
        return load_legacy(data, str(path))
    return load_zip(data, str(path))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises CheckpointError if it is none."""
    data = map_file(path)
    if len(data) > _MAX_JSON:
        raise CheckpointError(f"{path}: has {len(data)} bytes; expected a JSON file of at most {_MAX_JSON}")
    try:
        value = parse_json(bytes(data).decode())
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, found other bytes: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {brief(value)}")
    return value
