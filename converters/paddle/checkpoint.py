"""Paddle's ``.pdopt`` and ``.pdparams`` files, without Paddle.

An optimizer's file is a pickle of arrays: no class, no hyperparameter but the learning rate of a
scheduler. Its keys begin with names that Paddle invents (``linear_0.w_0``); the ``.pdparams`` file
beside it says whose they are (``--model``). The step is worked out of the powers of β1 and β2
(`dialect.arrange`) unless it is given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.formats import Format
from optexport.state.native import NativeGroup, NativeState, Weights
from optexport.state.training import MASTER

from ._keys import split
from ._pickled import NAMES, load_pickle
from ._write import write

__all__ = ["FORMATS", "read", "read_weights", "sniff", "write"]

PathLike = str | os.PathLike[str]

_SCHEDULER, _MASTERS = "LR_Scheduler", "master_weights"
_TAIL = 1 << 22
_HEAD = 1 << 12
# ``builtins.tuple`` in protocols 4 and 2.
_TUPLES = (b"builtins\x94\x8c\x05tuple\x94\x93", b"builtin__\ntuple\n", b"builtins\ntuple\n")


def sniff(path: PathLike) -> bool:
    """Whether ``path`` looks like a file of `paddle.save`: a pickle with Paddle's table of names at its end,
    or one whose arrays stand in tuples (name, array), as where dictionaries are nested (masters)."""
    if not os.path.isfile(path):
        return False
    data = map_file(path)
    if len(data) < 2 or data[0] != 0x80 or data[1] not in (2, 3, 4, 5):
        return False
    if NAMES.encode() in bytes(data[-_TAIL:]):
        return True
    head = bytes(data[:_HEAD])
    return any(t in head for t in _TUPLES) and b"_reconstruct" in head and b"numpy" in head


def read(path: PathLike) -> NativeState:
    """The state's arrays by parameter (as Paddle names it) and slot.

    A float32 master is the slot ``master``. Powers of β1 and β2 are slots here; `dialect.arrange`
    makes the step of them.

    Raises:
        CheckpointError: the file is damaged, unsafe, or holds no optimizer's state.
    """
    file = os.fspath(path)
    root = load_pickle(map_file(path), file)
    root.pop(NAMES, None)
    out = NativeState("paddle", "paddle-pickle", named=True)
    scheduler, masters = root.pop(_SCHEDULER, None), root.pop(_MASTERS, None)
    strange = []
    for key, value in root.items():
        found = split(key)
        if found is None or not isinstance(value, np.ndarray):
            strange.append(key)
            continue
        slots = out.slots.setdefault(found.param, {})
        if found.slot in slots:
            raise CheckpointError(
                f"{file}: parameter {found.param!r}: slot {found.slot!r} occurs twice ({key!r})"
            )
        slots[found.slot] = value
    for name, value in _masters(masters, file).items():
        out.slots.setdefault(name, {})[MASTER] = value
    if not out.slots and (strange or scheduler is None):
        what = f"found {strange[0]!r}; is it a weights file?" if strange else "found none"
        raise CheckpointError(f"{file}: expected keys PARAMETER_SLOT_N of an optimizer's state, {what}")
    if strange:
        out.warnings.append(
            f"entries {', '.join(strange[:4])} are no optimizer's slots; carried, not interpreted"
        )
        out.extras["others"] = {k: root[k] for k in strange}
    arguments: dict[str, Any] = {}
    if isinstance(scheduler, Mapping):
        out.extras[_SCHEDULER] = dict(scheduler)
        rate = scheduler.get("last_lr")
        if isinstance(rate, int | float) and not isinstance(rate, bool):
            arguments["learning_rate"] = float(rate)
            out.warnings.append(
                f"the learning rate followed a scheduler; it is {float(rate):g} now, and make the scheduler again in "
                "the program that goes on"
            )
    out.groups = [NativeGroup(arguments, list(out.slots))]
    out.steps = dict.fromkeys(out.slots)
    return out


def _masters(masters: Any, file: str) -> dict[str, np.ndarray]:
    if masters is None:
        return {}
    if not isinstance(masters, Mapping) or not all(isinstance(a, np.ndarray) for a in masters.values()):
        raise CheckpointError(f"{file}: {_MASTERS} is no dictionary of arrays; the file is damaged")
    return dict(masters)


def read_weights(path: PathLike) -> Weights:
    """Parameters of a ``.pdparams`` file; ``called`` says what Paddle itself calls each.

    Raises:
        CheckpointError: the file is damaged, or holds an optimizer's state.
    """
    file = os.fspath(path)
    root = load_pickle(map_file(path), file)
    names = root.pop(NAMES, None) or {}
    tensors = {k: v for k, v in root.items() if isinstance(v, np.ndarray)}
    if not tensors:
        raise CheckpointError(f"{file}: expected parameters, found no array")
    if _SCHEDULER in root or _MASTERS in root or all(_is_slot(k, names) for k in tensors):
        raise CheckpointError(
            f"{file}: expected parameters, found an optimizer's state; give the .pdparams file"
        )
    called = {str(own): name for name, own in names.items() if name in tensors}
    if len(called) != len([n for n in names if n in tensors]):
        raise CheckpointError(f"{file}: {NAMES} gives two parameters one name; the file is damaged")
    return Weights(tensors, ordered=True, called=called)


def _is_slot(key: str, names: Mapping[str, Any]) -> bool:
    """An optimizer's entries are called as their keys say; a layer's have names of Paddle's own."""
    return split(key) is not None and names.get(key, key) == key


FORMATS = (
    Format(
        "paddle",
        "paddle",
        "Paddle's .pdopt; .pdparams for --model",
        sniff,
        read,
        read_weights,
        write,
        (".pdopt",),
    ),
)
