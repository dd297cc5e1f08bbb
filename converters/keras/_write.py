"""``.weights.h5`` and ``.keras``, written.

A ``.weights.h5`` file has the optimizer's variables, and the weights where they are named by their places
in such a file. A ``.keras`` file is a model besides: it is made from another one, the model's, of which it
keeps everything but the optimizer, and the weights where the state has others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.rules import families
from optexport.state.files import map_file, tell_write, whole_or_nothing
from optexport.state.native import NativeState

from ._archive import CONFIG, WEIGHTS, Archive, is_archive
from ._emitted import emitted_order, is_emitted
from ._h5 import H5, import_h5py
from ._model import layout
from ._scaled import is_scaled, wrapped, wrapped_variables
from ._weights_file import NOTE, VARIABLES
from .dialect import OPTIMIZERS
from .optimizers.common import KerasNative, variable_order
from .schedule_state import SCHEDULE

__all__ = ["MODEL", "write"]

# Key of `NativeState.extras`: the file whose model a `.keras` file is to hold.
MODEL = "model"
# What a parameter has where its optimizer keeps something for others alone.
_NOTHING = np.zeros((), np.int32)
_PLACE = re.compile(r"(?:.+/)?vars/\d+")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal states, equal bytes

Path = str | os.PathLike[str]


def write(state: NativeState, path: Path) -> None:
    """Write ``state`` as a ``.weights.h5`` file, or as a ``.keras`` file where the name ends so.

    Keras takes the optimizer's part of a ``.weights.h5`` file with ``optimizer.load_own_variables``, and the
    whole with ``model.load_weights`` where the weights are named by their places in such a file, as
    reading names them; weights with other names are left out. A ``.keras`` file it takes with
    ``keras.saving.load_model``; it needs the model, a ``.keras`` file too, in ``state.extras["model"]``.

    Raises:
        CheckpointError: h5py is missing, several groups, parameters with different step counts or
            without state, the model is not known or has other parameters, or ``path`` cannot be
            written; then ``path`` stays as it was.
    """
    where = os.fspath(path)
    import_h5py(where)
    if where.lower().endswith(".keras"):
        _write_archive(state, where)
        return
    variables = _variables(state, where)
    weights = {n: a for n, a in state.weights.items() if _PLACE.fullmatch(n)}
    note = {"compile_config": {"optimizer": wrapped(_note(state))}}
    # HDF5 writes by path; the name of the temporary file becomes `path` in the end.
    with whole_or_nothing(path) as file:
        _write_h5(file.name, where, weights, {}, state, variables, note)


# -- a model's file ------------------------------------------------------------------------------------


def _write_archive(state: NativeState, where: str) -> None:
    told = state.extras.get(MODEL)
    if told is None:
        raise CheckpointError(
            f"{where}: the model itself is not known; give its file with --model MODEL.keras, or write a .weights.h5 file"
        )
    model = os.fspath(told)
    data = map_file(model)
    if not is_archive(data):
        raise CheckpointError(
            f"{where}: expected the model as a .keras file, found {model}; save it with model.save"
        )
    archive = Archive(data, model)
    config = archive.config()
    compiled = config.get("compile_config")
    if not isinstance(compiled, dict):
        raise CheckpointError(
            f"{model}: expected a compiled model, found one without; compile it and save it again"
        )
    with H5(archive.weights(), model) as h5:
        groups = {p: h5.variables(p) for p in h5.groups_of_variables() if not p.startswith("optimizer/")}
        called = {p: h5.attribute(p, "name") or "" for p in groups}
    known = layout(config, groups, called)
    if known is None:
        raise CheckpointError(
            f"{model}: the order of the model's trainable weights is not in its configuration, since it has a layer of "
            "several layers; write a .weights.h5 file, and build the optimizer before it loads"
        )
    weights = {f"{p}/{i}": a for p, arrays in groups.items() for i, a in enumerate(arrays)}
    state = _in_the_models_order(state, known.trained, weights, where, model)
    weights |= {n: a for n, a in state.weights.items() if n in weights}
    variables = _variables(state, where)
    config = {**config, "compile_config": {**compiled, "optimizer": wrapped(_complete(state, where))}}
    with whole_or_nothing(where) as file, _scratch(file.name) as h5_file:
        _write_h5(h5_file, where, weights, called, state, variables, None)
        with zipfile.ZipFile(file, "w") as out:
            for name in archive.names():
                info = zipfile.ZipInfo(name, _EPOCH)
                if name == WEIGHTS:
                    info.file_size = os.path.getsize(h5_file)
                    with open(h5_file, "rb") as source, out.open(info, "w") as member:
                        shutil.copyfileobj(source, member, 1 << 22)
                elif name == CONFIG:
                    out.writestr(info, json.dumps(config))
                else:
                    out.writestr(info, archive.bytes_of(name))


@contextmanager
def _scratch(path: str) -> Iterator[str]:
    """The name of a file beside ``path``, which is gone in the end."""
    part = f"{path}.h5"
    try:
        yield part
    finally:
        if os.path.exists(part):
            os.unlink(part)


def _in_the_models_order(
    state: NativeState, trained: Sequence[str], weights: Mapping[str, np.ndarray], where: str, model: str
) -> NativeState:
    """Its group in the order of the model's trainable weights, which it has to be about."""
    if len(state.groups) != 1:
        raise CheckpointError(f"{where}: expected one group of parameters, found {len(state.groups)}")
    (group,) = state.groups
    missing, foreign = (
        [n for n in trained if n not in group.params],
        [n for n in group.params if n not in trained],
    )
    if missing or foreign:
        raise CheckpointError(
            f"{where}: expected a parameter for each trainable weight of {model}; "
            + (f"missing {', '.join(missing[:4])}" if missing else f"{foreign[0]!r} is none of them")
            + (f", found {', '.join(foreign[:4])} in their place" if missing and foreign else "")
            + "; name them by their places, as --model does"
        )
    for name in trained:
        own = state.weights.get(name)
        slots = state.slots.get(name, {})
        right = weights[name].shape
        if (own is not None and own.shape != right) or (
            own is None and slots and not any(a.shape == right for a in slots.values()) and not _fitted(state)
        ):
            found = own.shape if own is not None else next(iter(slots.values())).shape
            raise CheckpointError(
                f"{where}: parameter {name!r}: expected the shape {list(right)} of {model}, found {list(found)}"
            )
    group.params = list(trained)
    return state


def _fitted(state: NativeState) -> bool:
    entry = next((e for e in OPTIMIZERS if e.name == state.optimizer), None)
    return entry is not None and families()[entry.family].fit is not None


# -- the optimizer -------------------------------------------------------------------------------------


def _note(state: NativeState) -> dict[str, Any]:
    """``class_name`` and ``config`` of the optimizer, as far as JSON can hold them."""
    arguments = {k: v for k, v in state.groups[0].arguments.items() if _is_json(v)}
    if SCHEDULE in state.extras:
        arguments["learning_rate"] = state.extras[SCHEDULE]
    return {"class_name": state.optimizer, "config": arguments}


def _complete(state: NativeState, where: str) -> dict[str, Any]:
    """The optimizer as Keras serializes it."""
    entry = _entry(state, where)
    told = _note(state)
    known = {k: v for k, v in told["config"].items() if k in (*entry.arguments, "name")}
    config = {"name": entry.name.lower(), **entry.arguments, **known}
    return {"module": "keras.optimizers", "class_name": entry.name, "config": config, "registered_name": None}


def _entry(state: NativeState, where: str) -> KerasNative:
    entry = next((e for e in OPTIMIZERS if e.name == state.optimizer), None)
    if entry is None:
        raise CheckpointError(
            f"{where}: expected an optimizer of Keras, found {state.optimizer!r}; an emitted one goes into "
            "a .weights.h5 file"
        )
    return entry


def _variables(state: NativeState, where: str) -> list[np.ndarray]:
    """Every variable in the optimizer's order."""
    if len(state.groups) != 1:
        raise CheckpointError(f"{where}: expected one group of parameters, found {len(state.groups)}")
    group = state.groups[0]
    head = [] if SCHEDULE in state.extras else [np.asarray(group.arguments["learning_rate"], np.float64)]
    if is_emitted(group.arguments):
        count = max((state.steps.get(p) or 0 for p in group.params), default=0)
        places = emitted_order(group.arguments, group.params)
        return [np.asarray(count, np.int64), *head, *(state.slots[p][s] for p, s in places)]
    steps = {state.steps.get(p) or 0 for p in group.params}
    if len(steps) > 1:
        raise CheckpointError(
            f"{where}: parameters were updated {', '.join(map(str, sorted(steps)))} times; Keras has one count for all; "
            "emit an optimizer with --emit-optimizer FILE"
        )
    entry = _entry(state, where)
    fitted = families()[entry.family].fit is not None
    held = {
        k: {**dict.fromkeys(entry.placeholders, _NOTHING), **state.slots.get(k, {})} for k in group.params
    }
    parameters = [tuple(held[k]) for k in group.params] if fitted else len(group.params)
    known = {k: v for k, v in group.arguments.items() if k in entry.arguments}
    order = variable_order(entry, entry.complete(known), parameters)
    for place, slot in order:
        key = group.params[place or 0]
        if slot not in held[key]:
            raise CheckpointError(
                f"{where}: parameter {key!r}: expected the slot {slot}, found none; Keras' files hold the state of "
                "every parameter"
            )
    slots = [held[group.params[place or 0]][slot] for place, slot in order]
    if not is_scaled(group.arguments):
        return [np.asarray(max(steps, default=0), np.int64), *head, *slots]
    shared = _shared(state, where)
    # Calls that an overflow skipped are no updates of the optimizer inside.
    done = shared.get("iteration", np.asarray(max(steps, default=0)))
    return wrapped_variables([np.asarray(int(done), np.int64), *head, *slots], shared)


def _shared(state: NativeState, where: str) -> Mapping[str, np.ndarray]:
    """What a LossScaleOptimizer has once: the same beside every parameter."""
    names = ("step_counter", "dynamic_scale", "iteration")
    first: dict[str, np.ndarray] = {}
    for key in state.groups[0].params:
        for name in names:
            array = state.slots.get(key, {}).get(name)
            if array is None:
                continue
            if first.setdefault(name, array).tobytes() != array.tobytes():
                raise CheckpointError(
                    f"{where}: parameter {key!r}, slot {name}: expected {first[name]} as beside the others, found {array}; "
                    "Keras has one for all"
                )
    if not {"step_counter", "dynamic_scale"} <= set(first):
        raise CheckpointError(f"{where}: expected the slots step_counter and dynamic_scale, found none")
    first["step_counter"] = np.asarray(int(first["step_counter"]), np.int64)
    return first


# -- HDF5 ----------------------------------------------------------------------------------------------


@contextmanager
def _disk_errors() -> Iterator[None]:
    """HDF5 says that the disk is full in errors of other kinds as well, when it closes the file."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(" ".join(str(error).split())[:200]) from error


def _write_h5(
    file: str,
    where: str,
    weights: Mapping[str, np.ndarray],
    called: Mapping[str, str],
    state: NativeState,
    variables: Sequence[np.ndarray],
    note: Mapping[str, Any] | None,
) -> None:
    """called: path of a group -> the layer's name. note: put beside the variables."""
    h5py = import_h5py(where)
    with _disk_errors(), h5py.File(file, "w") as h5:
        for path, name in called.items():
            h5.create_group(path).attrs["name"] = name
        for name, array in weights.items():
            _put(h5, name, array)
        group = h5.create_group(VARIABLES)
        group.attrs["name"] = (state.optimizer or "optimizer").lower()
        if note is not None:
            group.attrs[NOTE] = json.dumps(note, sort_keys=True)
        for i, array in enumerate(variables):
            _put(h5, f"{VARIABLES}/{i}", array)
        if is_scaled(state.groups[0].arguments):
            # Keras keeps those of the optimizer inside twice, and looks for both.
            for i, array in enumerate(variables[4:]):
                _put(h5, f"optimizer/inner_optimizer/vars/{i}", array)


def _put(h5: Any, path: str, array: np.ndarray) -> None:
    """One dataset as Keras writes it: contiguous; bfloat16 as two opaque bytes with its name."""
    if array.dtype.name == "bfloat16":
        h5.create_dataset(path, data=np.ascontiguousarray(array).view("V2")).attrs["dtype"] = "bfloat16"
    else:
        h5.create_dataset(path, data=array)
    tell_write(array.nbytes)


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
