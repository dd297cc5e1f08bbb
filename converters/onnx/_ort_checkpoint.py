"""Checkpoints of ONNX Runtime's training API: one flatbuffer, identifier ``ODTC``.

    Checkpoint            0 version, 1 module_state, 2 optimizer_groups, 3 property_bag
    ModuleState           0 requires_grad_params, 1 frozen_params, 2 is_nominal_state, 3 has_external_data
    OptimizerGroup        0 group_name, 1 step, 2 initial_learning_rate, 3 optimizer_states
    ParameterOptimizerState   0 param_name, 1 momentums
    Tensor                0 name, 1 doc_string, 2 dims, 3 data_type, 4 raw_data, 5 string_data,
                          6 external_data_offset
    PropertyBag           0 ints, 1 floats, 2 strings; each 0 name, 1 value

The optimizer's attributes are not in there: they are those of the node in ``optimizer_model.onnx``
beside it. The learning rate in use is nowhere. Source: core/flatbuffers/schema/ort_training_checkpoint.fbs
and orttraining/training_api/checkpoint.cc of ONNX Runtime 1.19.2.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file, whole_or_nothing

from ._beside import map_beside
from ._flatbuffer import Buffer, Field, Part, Scalar, Table, layout
from ._model import DTYPES, TYPES

__all__ = ["IDENTIFIER", "Checkpoint", "is_checkpoint", "read_checkpoint", "write_checkpoint"]

IDENTIFIER = b"ODTC"
VERSION = 2
DATA = ".data"
# ONNX Runtime keeps tensors smaller than this in the file itself, external data or not.
_SMALL = 64


@dataclass
class Checkpoint:
    """What a file holds.

    trainable, frozen: name -> value. states: parameter -> momentum's name -> value, of every group.
    groups: name -> (step, initial learning rate, parameters).
    """

    trainable: dict[str, np.ndarray] = field(default_factory=dict)
    frozen: dict[str, np.ndarray] = field(default_factory=dict)
    states: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    groups: dict[str, tuple[int, float, list[str]]] = field(default_factory=dict)
    properties: dict[str, int | float | str] = field(default_factory=dict)
    external: bool = False


def is_checkpoint(path: str) -> bool:
    """Whether a file starts as a checkpoint does; False for what cannot be read."""
    try:
        with open(path, "rb") as file:
            return os.path.isfile(path) and file.read(8)[4:] == IDENTIFIER
    except OSError:
        return False


def read_checkpoint(path: str) -> Checkpoint:
    """The file's tensors, read-only views of it, or of ``path`` + ``.data``.

    Raises:
        CheckpointError: it is damaged, of another version, nominal (names without values), or its
            data file is missing.
    """
    buffer = Buffer(map_file(path), path)
    if bytes(buffer.data[4:8]) != IDENTIFIER:
        raise CheckpointError(
            f"{path}: expected a checkpoint of ONNX Runtime's training API (identifier ODTC), found "
            f"{bytes(buffer.data[4:8])!r}"
        )
    root = buffer.root()
    version = root.number(0, "i")
    if version not in (1, VERSION):
        raise CheckpointError(f"{path}: checkpoint version {version}; expected 1 or {VERSION}")
    out = Checkpoint()
    module = root.table(1)
    if module is not None:
        if module.number(2, "?", False):
            raise CheckpointError(
                f"{path}: is a nominal checkpoint: it has the parameters' names and no values; take the full one, "
                "named checkpoint, that is made beside it"
            )
        out.external = bool(module.number(3, "?", False))
    tensors = _Tensors(buffer, out.external)
    if module is not None:
        out.trainable = tensors.named(module.tables(0), "parameter")
        out.frozen = tensors.named(module.tables(1), "frozen parameter")
        both = set(out.trainable) & set(out.frozen)
        if both:
            buffer.fail(f"parameter {min(both)!r} is both trained and frozen")
    for group in root.tables(2):
        _read_group(group, tensors, out)
    bag = root.table(3)
    if bag is not None:
        _read_properties(bag, buffer, out)
    return out


class _Tensors:
    """Decodes the tensors of one file."""

    def __init__(self, buffer: Buffer, external: bool) -> None:
        self.buffer = buffer
        self.data: memoryview | None = None
        if external:
            name = os.path.basename(buffer.where) + DATA
            self.data = map_beside(buffer.where, name, "external data")
            self.left = len(self.data)

    def named(self, tables: Iterable[Table], what: str) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for table in tables:
            name = table.text(0, f"the name of a {what}")
            if name in out:
                self.buffer.fail(f"{what} {name!r} occurs twice")
            out[name] = self.array(table, f"{what} {name!r}")
        return out

    def array(self, table: Table, what: str) -> np.ndarray:
        dims, kind = table.longs(2), table.number(3, "i")
        dtype = DTYPES.get(kind)
        if dtype is None:
            self.buffer.fail(f"{what}: data type {kind}; expected a number's")
        if len(dims) > 32 or any(d < 0 for d in dims):
            self.buffer.fail(f"{what}: shape {list(dims)}; expected at most 32 sizes ≥ 0")
        needed = math.prod(dims) * dtype.itemsize
        raw, offset = table.bytes(4), table.number(6, "q", -1)
        if raw is None and offset >= 0:
            raw = self._external(offset, needed, what)
        elif raw is None:
            raw = memoryview(b"")
        if len(raw) != needed:
            self.buffer.fail(
                f"{what}: {len(raw)} bytes; its shape {list(dims)} of {dtype.name} needs {needed}"
            )
        return np.frombuffer(raw, dtype).reshape(dims)

    def _external(self, offset: int, needed: int, what: str) -> memoryview:
        if self.data is None:
            self.buffer.fail(f"{what}: its values are in a data file, which the checkpoint says it has not")
        if needed > len(self.data) - offset:
            self.buffer.fail(
                f"{what}: expected {needed} bytes at {offset} of the data file, which has {len(self.data)}"
            )
        self.left -= needed
        if self.left < 0:
            self.buffer.fail(f"{what}: tensors overlap in the data file")
        return self.data[offset : offset + needed]


def _read_group(group: Table, tensors: _Tensors, out: Checkpoint) -> None:
    fail = tensors.buffer.fail
    name = group.text(0, "an optimizer group's name")
    step = group.number(1, "q")
    if name in out.groups or step < 0:
        fail(f"optimizer group {name!r} occurs twice" if name in out.groups else f"step {step}")
    params: list[str] = []
    for state in group.tables(3):
        param = state.text(0, "the name of a parameter with state")
        if param in out.states:
            fail(f"parameter {param!r} has its state twice")
        out.states[param] = tensors.named(state.tables(1), f"parameter {param!r}, slot")
        params.append(param)
    out.groups[name] = step, float(group.number(2, "f", 0.0)), params


def _read_properties(bag: Table, buffer: Buffer, out: Checkpoint) -> None:
    for number, code in ((0, "q"), (1, "f"), (2, "")):
        for table in bag.tables(number):
            name = table.text(0, "a property's name")
            if name in out.properties:
                buffer.fail(f"property {name!r} occurs twice")
            out.properties[name] = table.number(1, code) if code else table.text(1, f"property {name!r}")


def write_checkpoint(checkpoint: Checkpoint, path: str, *, external_above: int = 1_800 << 20) -> None:
    """Write a checkpoint of version 2, as ONNX Runtime does: tensors sorted by name.

    external_above: with more bytes than this the tensors go to ``path`` + ``.data``; offsets of the
        file itself end at 2 GiB.

    Raises:
        CheckpointError: a dtype that ONNX does not have, or ``path`` cannot be written, or its data
            file would replace that of the checkpoint which stands there.
    """
    arrays = [*checkpoint.trainable.values(), *checkpoint.frozen.values()]
    arrays += [a for slots in checkpoint.states.values() for a in slots.values()]
    if sum(a.nbytes for a in arrays) <= external_above:
        parts, _ = _laid_out(checkpoint, None, path)
        with whole_or_nothing(path) as file:
            _write(file, parts)
        return
    # Two files cannot be replaced as one: the old checkpoint must not find the new one's data.
    if is_checkpoint(path) and os.path.exists(path + DATA):
        raise CheckpointError(
            f"{path}: a checkpoint with external data stands there; choose another name, or remove both files first"
        )
    outside: list[np.ndarray] = []
    parts, _ = _laid_out(checkpoint, outside, path)
    with whole_or_nothing(path) as file:
        _write(file, parts)
        with whole_or_nothing(path + DATA) as data:
            _write(data, outside)


def _write(file: Any, parts: Iterable[Part]) -> None:
    for part in parts:
        file.write(part.data if isinstance(part, np.ndarray) else part)


def _laid_out(checkpoint: Checkpoint, outside: list[np.ndarray] | None, path: str) -> tuple[list[Part], int]:
    placed = 0

    def tensor(name: str, array: np.ndarray) -> list[Field]:
        nonlocal placed
        kind = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
        if kind not in TYPES:
            raise CheckpointError(
                f"{path}: tensor {name!r}: ONNX has no type for {array.dtype.name}; expected float32"
            )
        raw = np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8)
        dims = np.asarray(array.shape, "<i8")
        head: list[Field] = [name, None, dims, Scalar("i", TYPES[kind])]
        if outside is None or raw.size < _SMALL:
            return [*head, raw]
        offset, placed = placed, placed + raw.size
        outside.append(raw)
        return [*head, None, None, Scalar("q", offset)]

    def tensors(named: Mapping[str, np.ndarray]) -> tuple[list[Field], ...]:
        return tuple(tensor(n, named[n]) for n in sorted(named))

    def state(param: str) -> list[Field]:
        return [param, tensors(checkpoint.states[param])]

    module: list[Field] = [tensors(checkpoint.trainable), tensors(checkpoint.frozen)]
    module += [None, Scalar("?", True) if outside is not None else None]
    groups = tuple(
        [name, Scalar("q", step), Scalar("f", rate), tuple(state(p) for p in sorted(params))]
        for name, (step, rate, params) in sorted(checkpoint.groups.items())
    )
    root: list[Field] = [Scalar("i", VERSION), module, groups, _properties(checkpoint.properties)]
    try:
        return layout(root, IDENTIFIER)
    except OverflowError:
        raise CheckpointError(f"{path}: names and shapes alone take more than 2 GiB") from None


def _properties(properties: Mapping[str, int | float | str]) -> list[Field] | None:
    if not properties:
        return None
    kinds: tuple[list[Field], list[Field], list[Field]] = ([], [], [])
    for name in sorted(properties):
        value = properties[name]
        if isinstance(value, str):
            kinds[2].append([name, value])
        else:
            whole = isinstance(value, int)
            kinds[0 if whole else 1].append([name, Scalar("q" if whole else "f", value)])
    return [tuple(k) if k else None for k in kinds]
