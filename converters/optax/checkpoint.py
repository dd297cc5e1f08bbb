"""Optax state in Flax' msgpack files, in pickles and in Orbax' folders, without JAX, Flax, Orbax or Optax.

A file holds a state's tree, alone or in a training state under ``opt_state`` beside ``params``. It
names fields (``mu``, ``nu``, ``trace``), no transformation and no hyperparameter, except those of
`optax.inject_hyperparams`: name the optimizer and give its arguments. A parameter's name is its keys
joined by dots.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optexport.dialects import find
from optexport.errors import CheckpointError
from optexport.state.files import map_file, whole_or_nothing
from optexport.state.formats import Format
from optexport.state.native import NativeGroup, NativeState, Weights

from ._classes import FIELDS
from ._msgpack import encode, load_msgpack, looks_like_msgpack
from ._orbax import is_orbax, load_orbax
from ._orbax_write import write_folder
from ._pickled import load_pickle, looks_like_pickle
from ._tree import flat, nested, place, refuse_emitted
from .optimizers.common import OptaxNative, scheduled
from .schedule_state import SCHEDULED

__all__ = [
    "FORMATS", "read", "read_orbax", "read_orbax_weights", "read_weights", "sniff", "write", "write_orbax",
]  # fmt: skip

PathLike = str | os.PathLike[str]

_SNIFFED = 1 << 16
_STATE, _PARAMS = "opt_state", "params"
# Fields that hold one array a parameter, under the parameters' own tree.
_SLOTS = frozenset(f for names in FIELDS.values() for f in names.split()) - {
    *(
        "count",
        "step",
        "inner_state",
        "inner_states",
        "hyperparams",
        "hyperparams_states",
        "base_optimizer_state",
    ),
    *(
        "inner_opt_state",
        "skip_state",
        "mini_step",
        "gradient_step",
        "b1",
        "weight_sum",
        "step_count",
        "max_lr",
    ),
    *("opt_state", "adv_state", "rng_key", "key", "ns_coeffs"),
}


def sniff(path: PathLike) -> bool:
    """Whether ``path`` looks like Optax state: a msgpack map with text keys, or a pickle that names Optax."""
    if os.path.isdir(path):
        return False
    head = bytes(map_file(path)[:_SNIFFED])
    return looks_like_pickle(head) or (looks_like_msgpack(head) and _is_flax(head))


def _is_flax(head: bytes) -> bool:
    """A map's values in Flax' files are maps, numbers, or arrays, which name their dtype."""
    return any(kind in head for kind in (b"float", b"int32", b"bfloat16")) or head[:1] in (b"\x81", b"\x82")


def read(path: PathLike) -> NativeState:
    """The state's arrays by parameter and field.

    Slots are under Optax' field names; extras ``tree`` is the whole state, for `dialect.arrange`.
    The arguments are what `optax.inject_hyperparams` keeps, if anything.

    Raises:
        CheckpointError: the file is damaged, unsafe, or holds no optimizer's state.
    """
    root, kind = _load(path)
    return _native(root, kind, os.fspath(path))


def read_orbax(path: PathLike) -> NativeState:
    """As `read`, of an Orbax folder: an item's, a step's, or that of all steps, the newest then."""
    root, warnings = load_orbax(path, (_STATE, _PARAMS, "step"))
    out = _native(root, "orbax", os.fspath(path))
    out.ordered, out.warnings = False, [*warnings, *out.warnings]
    return out


def read_orbax_weights(path: PathLike) -> Weights:
    """As `read_weights`, of an Orbax folder; its leaves are sorted."""
    root, _ = load_orbax(path, (_PARAMS,))
    return replace(_weights(root, os.fspath(path)), ordered=False)


def _native(root: Mapping[str, Any], kind: str, file: str) -> NativeState:
    tree = root.get(_STATE, root)
    out = NativeState("optax", kind, named=True)
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{file}: {_STATE} is no tree of arrays; the file is damaged")
    if isinstance(root.get(_PARAMS), Mapping):
        out.weights = dict(flat(root[_PARAMS]))
    counts: list[int] = []
    for slot, name, array in _fields(tree):
        if slot == "count":
            counts.append(int(array.reshape(())))
        else:
            out.slots.setdefault(name, {})[slot] = array
    if not out.slots:
        refuse_emitted(tree, file)
    if not out.slots and not out.weights:
        raise CheckpointError(f"{file}: expected Optax state, found no array of a parameter in it")
    names = list(out.weights) or list(out.slots)
    step = max(counts) if counts else _whole(root.get("step"))
    out.steps = dict.fromkeys(names, step)
    arguments = dict(_injected(tree))
    out.groups = [NativeGroup(arguments, names)]
    out.extras["tree"] = tree
    if len(set(counts)) > 1:
        out.warnings.append(f"the state has several step counts, {sorted(set(counts))}; the largest is taken")
    if _has(tree, "inner_states"):
        out.warnings.append("multi_transform: each label's parameters have an optimizer of their own")
    return out


def read_weights(path: PathLike) -> Weights:
    """Parameters under ``params``, or the whole file where it has neither that nor a state.

    Raises:
        CheckpointError: the file is damaged, or has no array.
    """
    root, _ = _load(path)
    return _weights(root, os.fspath(path))


def _weights(root: Mapping[str, Any], file: str) -> Weights:
    found = dict(flat(root.get(_PARAMS, {} if _STATE in root else root)))
    if not found:
        raise CheckpointError(f"{file}: expected parameters under {_PARAMS!r}, found none")
    return Weights(found, ordered=True)


def write(state: NativeState, path: PathLike, *, combined: bool = False) -> None:
    """Write a Flax msgpack file that ``flax.serialization.from_bytes(tx.init(params), data)`` takes.

    combined: write {"params", "opt_state", "step"} instead of the state alone. Several groups become
    the state of `optax.multi_transform` with the groups' numbers ("0", "1", …) for labels.

    Raises:
        CheckpointError: steps differ between parameters, which share Optax' count; a name is the beginning of
            another; the weights are missing for ``combined``; msgpack is not installed. Then ``path``
            stays as it was.
    """
    where = os.fspath(path)
    if combined and not state.weights:
        raise CheckpointError(f"{where}: a combined file was asked for and there are no weights")
    tree = _whole_tree(state, where, combined)
    with whole_or_nothing(path) as file:

        def put(data: bytes) -> None:
            file.write(data)

        encode(tree, put)


def write_orbax(state: NativeState, path: PathLike) -> None:
    """Write an Orbax folder, which appears whole or not at all.

    With the weights it is {"params", "opt_state", "step"}, else the state alone: what Orbax' checkpointers
    restore into ``{"params": …, "opt_state": tx.init(params), "step": 0}``, or into ``tx.init(params)``.

    Raises:
        CheckpointError: as `write`; or ``path`` exists and is not empty.
    """
    write_folder(_whole_tree(state, os.fspath(path), bool(state.weights)), path)


def _whole_tree(state: NativeState, where: str, combined: bool) -> dict[str, Any]:
    names = [n for g in state.groups for n in g.params]
    names = [n for n in state.weights if n in set(names)] or names
    counts = {state.steps.get(n) or 0 for n in names}
    if len(counts) > 1:
        raise CheckpointError(
            f"{where}: expected one step count for all parameters, found {sorted(counts)}; Optax keeps one"
        )
    step = counts.pop() if counts else 0
    tree: Any = _tree(state, names, step, where)
    if combined:
        tree = {_PARAMS: nested(state.weights, where), _STATE: tree, "step": step}
    return tree  # type: ignore[no-any-return]


def _tree(state: NativeState, names: list[str], step: int, where: str) -> Any:
    if "state" in state.extras:  # an emitted transformation's own
        return place(state.extras["state"], state.slots, names, step, where)
    entry = find(f"optax:{state.optimizer}")
    assert isinstance(entry, OptaxNative)
    if len(state.groups) == 1:
        return place(_layout(state, entry, 0), state.slots, names, step, where)
    inner = {}
    for label, group in enumerate(state.groups):
        own = [n for n in names if n in set(group.params)]
        made = place(
            _layout(state, entry, label),
            {n: state.slots.get(n, {}) for n in own},
            own,
            step,
            where,
            others=names,
        )
        inner[str(label)] = {"inner_state": made}
    return {"inner_states": inner}


def _layout(state: NativeState, entry: OptaxNative, index: int) -> Any:
    """How a group's state is nested; where its learning rate follows a schedule, that counts too."""
    layout = entry.state(entry.complete(state.groups[index].arguments))
    return scheduled(layout) if index in state.extras.get(SCHEDULED, ()) else layout


def _load(path: PathLike) -> tuple[dict[str, Any], str]:
    file, data = os.fspath(path), map_file(path)
    head = bytes(data[:_SNIFFED])
    if looks_like_pickle(head):
        return load_pickle(data, file), "optax-pickle"
    if looks_like_msgpack(head):
        return load_msgpack(data, file), "flax-msgpack"
    raise CheckpointError(
        f"{file}: expected a msgpack file of Flax or a pickle of Optax state, found neither"
    )


def _fields(tree: Any) -> Iterator[tuple[str, str, np.ndarray]]:
    """(field, parameter, array) of everything below a field that holds the parameters' tree, and counts."""
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if key == "count" and isinstance(value, np.ndarray) and value.size == 1:
            yield "count", "", value
        elif key in _SLOTS and isinstance(value, Mapping):
            for name, array in flat(value):
                yield key, name, array
        elif key not in ("hyperparams", "hyperparams_states"):
            yield from _fields(value)


def _whole(value: Any) -> int | None:
    """A training state's own count, where it is a number from 0 up."""
    known = np.asarray(value)
    return int(known) if known.dtype.kind in "iu" and known.size == 1 and int(known) >= 0 else None


def _has(tree: Any, key: str) -> bool:
    return isinstance(tree, Mapping) and (key in tree or any(_has(v, key) for v in tree.values()))


def _injected(tree: Any) -> Iterator[tuple[str, Any]]:
    """Hyperparameters that the state itself holds."""
    if isinstance(tree, Mapping):
        held = tree.get("hyperparams")
        if isinstance(held, Mapping):
            for name, value in held.items():
                if np.size(value) == 1:
                    yield name, np.asarray(value).item()
        for value in tree.values():
            yield from _injected(value)


FORMATS = (
    Format(
        "optax",
        "optax",
        "Flax' msgpack; a pickle to read",
        sniff,
        read,
        read_weights,
        write,
        (".msgpack",),
    ),
    Format(
        "orbax",
        "optax",
        "a folder of Orbax: an item's, a step's, or that of all steps",
        is_orbax,
        read_orbax,
        read_orbax_weights,
        write_orbax,
        (".orbax", ".orbax/"),
    ),
)
