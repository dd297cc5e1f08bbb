"""Orbax folders, written: one item, as ``StandardCheckpointer`` and ``PyTreeCheckpointer`` restore it.

Plain zarr version 2, one uncompressed chunk an array: the next reader maps it. The bytes depend on the
tree alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import tell_write, whole_or_nothing_directory

from ._orbax import CHECKPOINT, METADATA
from ._zarr import dtype_name

__all__ = ["write_folder"]

_SEQUENCE, _DICT = 1, 2
_HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
Key = tuple[str, int]


def write_folder(tree: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write ``tree``: nested dictionaries, arrays or whole numbers at their ends; keys "0", "1", … are a
    tuple's. Empty ones are Optax' empty states.

    Raises:
        CheckpointError: a name that no folder can have, or the disk refuses. Then ``path`` stays as it was.
    """
    listed: dict[str, Any] = {}
    with whole_or_nothing_directory(path) as folder:
        for keys, value in _leaves(tree):
            names = [k for k, _ in keys]
            name = ".".join(names)
            if value is not None:
                _array(folder, name, np.asarray(value), f"{os.fspath(path)}: {name!r}")
            kind = "None" if value is None else "np.ndarray" if isinstance(value, np.ndarray) else "scalar"
            listed[str(tuple(names))] = {
                "key_metadata": [{"key": k, "key_type": t} for k, t in keys],
                "value_metadata": {"value_type": kind, "skip_deserialize": value is None},
            }
        about = {
            "tree_metadata": listed,
            "use_ocdbt": False,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        (folder / METADATA).write_text(json.dumps(about))
        (folder / CHECKPOINT).write_text(
            json.dumps(
                {"item_handlers": _HANDLER, "metrics": {}, "performance_metrics": {}, "custom_metadata": {}}
            )
        )


def _leaves(tree: Any, keys: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield keys, tree
    elif not tree:
        yield keys, None
    else:
        kind = _SEQUENCE if list(tree) == [str(i) for i in range(len(tree))] else _DICT
        for key in tree if kind == _SEQUENCE else sorted(tree):
            yield from _leaves(tree[key], (*keys, (key, kind)))


def _array(folder: Path, name: str, array: np.ndarray, where: str) -> None:
    parts = name.split("/")
    if len(name.encode()) > 250 or "\0" in name or not all(p and p not in (".", "..") for p in parts):
        raise CheckpointError(f"{where}: no folder can have this name; rename the parameter")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    at = folder / name
    at.mkdir(parents=True)
    meta = {
        "chunks": [max(n, 1) for n in array.shape],
        "compressor": None,
        "dimension_separator": ".",
        "dtype": dtype_name(array.dtype),
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": list(array.shape),
        "zarr_format": 2,
    }
    (at / ".zarray").write_text(json.dumps(meta, separators=(",", ":")))
    if array.size:
        with open(at / (".".join("0" * array.ndim) or "0"), "xb") as file:
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            file.write(flat.data)
        tell_write(array.nbytes)
