"""Orbax checkpoints: which folder, which step, and the tree of its leaves.

    DIR/_METADATA …                the folder of one item, as StandardCheckpointer writes it
    DIR/default/_METADATA …        a step of CheckpointManager: a folder an item
    DIR/10/default/_METADATA …     all its steps; the newest is read unless the path names one

``_METADATA`` lists every leaf by its keys. A leaf's name is its keys joined by dots; the file says them one
by one, so a key may have a dot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.limits import parse_json

from ._stores import open_store
from ._zarr import Room, open_leaf, read_leaf

__all__ = ["is_orbax", "load_orbax"]

METADATA, CHECKPOINT = "_METADATA", "_CHECKPOINT_METADATA"
_STEP = re.compile(r"(?:[A-Za-z][\w.-]*_)?(\d{1,18})")
_DEPTH = 64
_EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")

Read = Callable[[], np.ndarray]


def is_orbax(path: Any) -> bool:
    """Whether ``path`` is the folder of an item, of a step or of all steps."""
    folder = Path(path)
    try:
        if not folder.is_dir():
            return False
        if (folder / METADATA).is_file() or (folder / CHECKPOINT).is_file():
            return True
        return bool(_items(folder)) or any(
            (s / CHECKPOINT).is_file() or _items(s) for s in _steps(folder).values()
        )
    except OSError:
        return False


def _steps(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for entry in sorted(folder.iterdir()):
        match = _STEP.fullmatch(entry.name)
        if match and entry.is_dir() and not entry.is_symlink():
            found[int(match[1])] = entry
    return found


def _items(folder: Path) -> dict[str, Path]:
    return {
        e.name: e
        for e in sorted(folder.iterdir())
        if not e.is_symlink() and e.is_dir() and (e / METADATA).is_file()
    }


def load_orbax(path: Any, wanted: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """(the tree of the checkpoint with arrays for leaves, warnings).

    wanted: keys at the root below which leaves are read, where one of them is there; everything is
        read otherwise. Several items of a step make one tree, by their names.

    Raises:
        CheckpointError: no step, no item, or what is there is damaged or leads out of the folder.
    """
    folder, file = Path(path), str(path)
    warnings: list[str] = []
    try:
        if not (folder / METADATA).is_file() and not _items(folder):
            folder = _newest(folder, file, warnings)
        items = {"": folder} if (folder / METADATA).is_file() else _items(folder)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    if not items:
        raise CheckpointError(
            f"{folder}: expected an item's folder with {METADATA}, found none; is the step whole?"
        )
    trees = {name: _tree(item, warnings) for name, item in items.items()}
    root = _state_of(next(iter(trees.values())) if len(trees) == 1 else trees, wanted, file)
    if set(wanted) & set(root):
        left = sorted(set(root) - set(wanted))
        if left:
            warnings.append(f"{', '.join(left)}: beside the state of the optimizer; not read")
        root = {k: v for k, v in root.items() if k in wanted}
    return _arrays(root), warnings


def _newest(folder: Path, file: str, warnings: list[str]) -> Path:
    steps = _steps(folder)
    if not steps:
        raise CheckpointError(
            f"{file}: expected {METADATA}, or folders of steps, found neither; a checkpoint that was not committed, "
            "or of an Orbax before 0.5, cannot be read: save it again with a newer one"
        )
    if len(steps) > 1:
        warnings.append(
            f"the newest of the steps {', '.join(map(str, sorted(steps)))} is taken; name another's folder to have it"
        )
    return steps[max(steps)]


def _state_of(root: Any, wanted: tuple[str, ...], file: str) -> dict[str, Any]:
    """The tree that has the optimizer's state: the root, or the one entry of it that has."""
    if not isinstance(root, dict):
        raise CheckpointError(f"{file}: expected a tree of arrays, found one array alone")
    if set(wanted) & set(root):
        return root
    inside = [k for k, v in root.items() if isinstance(v, dict) and wanted[0] in v]
    if len(inside) > 1:
        raise CheckpointError(
            f"{file}: several training states, under {', '.join(inside)}; expected one; name the folder of an item"
        )
    return root[inside[0]] if inside else root  # type: ignore[no-any-return]


def _json(path: Path, where: str) -> dict[str, Any]:
    if path.is_symlink():
        raise CheckpointError(f"{path}: is a link; nothing outside the checkpoint's own folder is read")
    try:
        found = parse_json(bytes(map_file(path)))
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON: {str(error)[:120]}; the file is damaged") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected an object, found {found!r:.40}")
    return found


def _tree(folder: Path, warnings: list[str]) -> dict[str, Any]:
    """Nested dictionaries, tuples and lists by "0", "1", …; leaves are functions that read them."""
    file = str(folder)
    store = open_store(folder)
    meta = _json(folder / METADATA, file)
    listed, room = meta.get("tree_metadata"), Room(store, file)
    if not isinstance(listed, dict):
        raise CheckpointError(
            f"{folder / METADATA}: expected tree_metadata, found {', '.join(meta) or 'nothing'}"
        )
    always = meta.get("store_array_data_equal_to_fill_value") is True
    root: dict[str, Any] = {}
    for shown, entry in listed.items():
        where = f"{file}: leaf {shown[:200]}"
        keys, kind, skipped = _entry(entry, where)
        name = ".".join(keys)
        value: Any = {}
        if kind == "string":
            continue
        if not skipped:
            value = _reader(store, name, room, file, always)
        if any("." in k for k in keys):
            warnings.append(f"{name}: a key of it has a dot; written anew its parts are keys of their own")
        _set(root, keys, value, where)
    return _ordered(root)


def _reader(store: Any, name: str, room: Room, file: str, always: bool) -> Read:
    return lambda: read_leaf(store, open_leaf(store, name, file, always), room, file)


def _entry(entry: Any, where: str) -> tuple[list[str], str, bool]:
    """(keys, kind of value, whether nothing is stored)."""
    try:
        keys = [k["key"] for k in entry["key_metadata"]]
        value = entry["value_metadata"]
        kind = value["value_type"]
        skipped = value.get("skip_deserialize", kind in _EMPTY)
    except (TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{where}: expected key_metadata and value_metadata; the file is damaged"
        ) from None
    if not keys or len(keys) > _DEPTH or not all(isinstance(k, str) for k in keys):
        raise CheckpointError(f"{where}: expected 1 to {_DEPTH} keys of text; the file is damaged")
    return keys, str(kind), bool(skipped)


def _set(root: dict[str, Any], keys: list[str], value: Any, where: str) -> None:
    at = root
    for key in keys[:-1]:
        at = at.setdefault(key, {})
        if not isinstance(at, dict):
            break
    if not isinstance(at, dict) or keys[-1] in at:
        raise CheckpointError(
            f"{where}: another leaf has the same keys, or begins with them; the file is damaged"
        )
    at[keys[-1]] = value


def _ordered(tree: dict[str, Any]) -> dict[str, Any]:
    """Items of tuples in the order of their numbers, whatever the file's."""
    out = {k: _ordered(v) if isinstance(v, dict) else v for k, v in tree.items()}
    if all(k.isdecimal() for k in out):
        return {k: out[k] for k in sorted(out, key=int)}
    return out


def _arrays(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _arrays(v) if isinstance(v, Mapping) else v() for k, v in tree.items()}
