"""The zip container, written without torch: deterministic bytes that ``torch.load`` opens."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from optexport.converters.torch._flat import gather
from optexport.converters.torch._tensors import DTYPES, STORAGE_CLASSES
from optexport.errors import CheckpointError
from optexport.state.native import NativeState
from optexport.state.pickles import Global, Persistent, Reduce, dumps
from optexport.state.pickles.objects import brief

__all__ = ["write_zip"]

_ROOT = "archive"
_ALIGNMENT = 64
# Sizes and offsets from here on are written in zip64 fields.
ZIP64_FROM = 0xFFFFFFFF
_FULL = 0xFFFFFFFF
# 1 January 1980, the earliest date a zip can hold: a clock would make equal contents differ.
_DATE = 0x0021
_UTF8 = 0x0800
_CLASS_OF = {dtype: name for name, dtype in STORAGE_CLASSES.items()}
# Optimizers of torch.optim whose state has no step.
_STEPLESS = ("SGD", "Muon", "LBFGS")
# Those that keep it as a Python number, whose powers are then doubles.
_PLAIN_STEP = ("SparseAdam",)


def write_zip(file: BinaryIO, state: NativeState, *, combined: bool) -> None:
    """Write ``state`` as ``Optimizer.state_dict()``; combined: as {"model": …, "optimizer": …}.

    The state of a scheduler (extras ``lr_scheduler``) makes it {"optimizer": …, "lr_scheduler": …}: an
    optimizer's own dict has no place for it.

    Raises CheckpointError if a slot's parameter is in no group or in two, or a value has no
    counterpart in PyTorch.
    """
    pack = _Pack()
    value: Any = _state_dict(state, pack)
    scheduler = state.extras.get("lr_scheduler")
    if scheduler is not None and not combined:
        value = {"optimizer": value, "lr_scheduler": scheduler}
    if combined:
        weights = {name: pack.tensor(array, f"weight {name}") for name, array in state.weights.items()}
        value = {"model": Reduce(Global("collections", "OrderedDict"), items=weights), "optimizer": value}
        value |= {} if scheduler is None else {"lr_scheduler": scheduler}
    members: list[tuple[str, bytes | np.ndarray]] = [("data.pkl", dumps(value, 2))]
    members += [(".format_version", b"1"), (".storage_alignment", b"64"), ("byteorder", b"little")]
    members += [(f"data/{key}", array) for key, array in enumerate(pack.storages)]
    members.append(("version", b"3\n"))
    _write_members(file, members)


def _state_dict(state: NativeState, pack: _Pack) -> dict[str, Any]:
    ids: dict[str, int] = {}
    groups: list[dict[str, Any]] = []
    for index, group in enumerate(state.groups):
        for key in group.params:
            if key in ids:
                raise CheckpointError(f"parameter {brief(key)} is in two groups; PyTorch takes it in one")
            ids[key] = len(ids)
        arguments = {name: _argument(value, name, index) for name, value in group.arguments.items()}
        arguments["params"] = [ids[key] for key in group.params]
        if state.named:
            arguments["param_names"] = list(group.params)
        groups.append(arguments)
    if not groups:
        raise CheckpointError("there is no parameter group to write; PyTorch needs at least one")
    unknown = [key for key in state.slots if key not in ids]
    if unknown:
        raise CheckpointError(f"parameter {brief(unknown[0])} has state and is in no group")
    if state.optimizer == "LBFGS":
        return {"state": _one_state(state, list(ids), pack), "param_groups": groups}
    entries: dict[int, dict[str, Any]] = {}
    for key, identity in ids.items():
        slots = dict(state.slots.get(key, {}))
        step = state.steps.get(key)
        if slots and "step" not in slots and step is not None and state.optimizer not in _STEPLESS:
            slots = {"step": np.asarray(step, np.float32), **slots}
        if slots:
            entries[identity] = {
                slot: pack.tensor(array, f"parameter {key}, slot {slot}") for slot, array in slots.items()
            }
            if state.optimizer in _PLAIN_STEP and "step" in slots:
                entries[identity]["step"] = int(slots["step"])
    return {"state": entries, "param_groups": groups}


def _one_state(state: NativeState, order: list[str], pack: _Pack) -> dict[int, dict[str, Any]]:
    """L-BFGS' state, one for all parameters, under the first."""
    if len(state.groups) != 1:
        raise CheckpointError(f"LBFGS has one parameter group, found {len(state.groups)}")
    if not state.slots:
        return {}
    missing = [k for k in order if k not in state.slots]
    if missing:
        raise CheckpointError(f"parameter {brief(missing[0])} has no state; LBFGS keeps one for all together")

    def packed(value: Any, slot: str) -> Any:
        if isinstance(value, list):
            return [packed(item, slot) for item in value]
        return pack.tensor(value, f"slot {slot}") if isinstance(value, np.ndarray) else value

    held = gather({k: state.slots[k] for k in order})
    return {0: {slot: packed(value, slot) for slot, value in held.items()}}


def _argument(value: Any, name: str, group: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    items = value if isinstance(value, (tuple, list)) else (value,)
    if not all(item is None or type(item) in (bool, int, float, str) for item in items):
        raise CheckpointError(
            f"argument {brief(name)} of group {group} is {brief(value)}; expected a plain value"
        )
    return value


class _Pack:
    """Collects storages while tensors are turned into pickle markers."""

    def __init__(self) -> None:
        self.storages: list[np.ndarray] = []
        self.hooks = Reduce(Global("collections", "OrderedDict"))

    def tensor(self, array: np.ndarray, what: str) -> Reduce:
        """A tensor of its own storage. A dense array keeps its strides, others become C order."""
        array = np.asarray(array)
        dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
        name = next((name for name, known in DTYPES.items() if known == dtype), None)
        if name is None:
            raise CheckpointError(f"{what}: PyTorch has no dtype {array.dtype}")
        if dtype != array.dtype or array.dtype.byteorder == ">":
            array = array.astype(dtype)
        axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
        if array.size == 0 or not array.transpose(axes).flags.c_contiguous:
            axes = list(range(array.ndim))
        flat = np.ascontiguousarray(array.transpose(axes)).reshape(-1)
        strides = [0] * array.ndim
        step = 1
        for axis in reversed(axes):
            strides[axis] = step
            step *= max(1, array.shape[axis])
        key = str(len(self.storages))
        self.storages.append(flat)
        size = tuple(int(length) for length in array.shape)
        if name in _CLASS_OF:
            storage = Persistent(("storage", Global("torch", _CLASS_OF[name]), key, "cpu", int(flat.size)))
            args: tuple[Any, ...] = (storage, 0, size, tuple(strides), False, self.hooks)
            return Reduce(Global("torch._utils", "_rebuild_tensor_v2"), args)
        storage = Persistent(
            ("storage", Global("torch.storage", "UntypedStorage"), key, "cpu", int(flat.nbytes))
        )
        args = (storage, 0, size, tuple(strides), False, self.hooks, Global("torch", name))
        return Reduce(Global("torch._utils", "_rebuild_tensor_v3"), args)


def _write_members(file: BinaryIO, members: Sequence[tuple[str, bytes | np.ndarray]]) -> None:
    at = 0
    directory = bytearray()
    for short, content in members:
        raw = content.view(np.uint8).data if isinstance(content, np.ndarray) else memoryview(content)
        name = f"{_ROOT}/{short}".encode()
        size, crc = len(raw), zlib.crc32(raw)
        wide = struct.pack("<HHQQ", 1, 16, size, size) if size >= ZIP64_FROM else b""
        start = at + 30 + len(name) + len(wide) + 4
        padding = -start % _ALIGNMENT
        extra = wide + struct.pack("<HH", 0x4246, padding) + b"Z" * padding
        shown = _FULL if wide else size
        version = 45 if wide else 20
        fields = (version, _UTF8, 0, 0, _DATE, crc, shown, shown)
        file.write(struct.pack("<IHHHHHIIIHH", 0x04034B50, *fields, len(name), len(extra)) + name + extra)
        file.write(raw)
        directory += _central(name, fields, size, at)
        at = start + padding + size
    file.write(directory)
    file.write(_end(len(members), len(directory), at))


def _central(name: bytes, fields: tuple[int, ...], size: int, at: int) -> bytes:
    wide = b"" if fields[-1] == size else struct.pack("<QQ", size, size)
    far = at >= ZIP64_FROM
    if far:
        wide += struct.pack("<Q", at)
    extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
    fixed = struct.pack("<IH", 0x02014B50, 45) + struct.pack("<HHHHHIII", 45 if wide else 20, *fields[1:])
    return (
        fixed
        + struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, _FULL if far else at)
        + name
        + extra
    )


def _end(count: int, size: int, at: int) -> bytes:
    wide = b""
    if at >= ZIP64_FROM or size >= ZIP64_FROM or count >= 0xFFFF:
        wide = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, at)
        wide += struct.pack("<IIQI", 0x07064B50, 0, at + size, 1)
    shown = (0xFFFF, 0xFFFF, _FULL, _FULL) if wide else (count, count, size, at)
    return wide + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, *shown, 0)
