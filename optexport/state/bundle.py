"""The bundle: one ``.safetensors`` file with the manifest in its metadata.

Tensors are named ``<param>`` and ``<param>/<slot>``. Written by a streaming writer of our own,
because the library's takes every tensor in memory at once; opened and checked as the format's own
library does. Equal states give equal bytes: tensors are in sorted order, the manifest is canonical.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import CheckpointError
from ..rules import Rule
from ..specs import Spec
from .files import map_file, whole_or_nothing
from .manifest import message_text, parse_message, spec_from_message, spec_to_message
from .native import Weights
from .training import MASTER, TrainingState

__all__ = ["digests", "read", "read_tensors", "read_weights", "sniff", "tensor_bytes", "write"]

KEY = "optexport"
# The reference implementation's cap.
_MAX_HEADER = 100_000_000
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I16": np.int16,
    "U16": np.uint16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I32": np.int32,
    "U32": np.uint32,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "U64": np.uint64,
}
_NAMES = {np.dtype(t): name for name, t in _DTYPES.items()}


def tensor_bytes(array: np.ndarray) -> memoryview:
    """Little-endian C-order bytes, without a copy where the array has them already."""
    array = np.ascontiguousarray(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def sniff(path: str) -> bool:
    """Whether the file begins as a safetensors file."""
    try:
        with open(path, "rb") as f:
            head = f.read(9)
            size = os.fstat(f.fileno()).st_size
    except OSError:
        return False
    return (
        len(head) == 9
        and head[8:9] == b"{"
        and 2 <= struct.unpack("<Q", head[:8])[0] <= min(size - 8, _MAX_HEADER)
    )


def read_tensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors (mapped, read-only, in the file's order of bytes) and metadata of a safetensors file.

    Raises:
        CheckpointError: not a valid safetensors file: header over its cap, holes or overlaps, an
            unknown dtype, a shape that disagrees with the bytes, a name twice.
    """
    view = map_file(path)
    header, start = _header(path, view)
    meta = header.pop("__metadata__", {})
    if not isinstance(meta, dict) or not all(isinstance(v, str) for v in meta.values()):
        raise CheckpointError(f"{path}: expected text in __metadata__, found other values")
    out, end = {}, 0
    rows = [(name, *_row(path, name, row)) for name, row in header.items()]
    for name, dtype, shape, first, last in sorted(rows, key=lambda r: (r[3], r[4])):
        count = 1
        for n in shape:
            count *= n
        if first != end:
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected bytes from {end}, found {first}; holes and overlaps are refused"
            )
        if last - first != count * dtype.itemsize:
            raise CheckpointError(
                f"{path}: tensor {name!r}: shape {list(shape)} of {dtype.name} needs {count * dtype.itemsize} bytes, "
                f"found {last - first}"
            )
        if start + last > len(view):
            raise CheckpointError(
                f"{path}: tensor {name!r} ends at byte {start + last} of {len(view)}; the file is truncated"
            )
        out[name] = np.frombuffer(view, dtype, count, start + first).reshape(shape)
        end = last
    if start + end != len(view):
        raise CheckpointError(f"{path}: expected {start + end} bytes, found {len(view)}; the file has a tail")
    return out, meta


def _header(path: str, view: memoryview) -> tuple[dict[str, Any], int]:
    if len(view) < 9:
        raise CheckpointError(f"{path}: expected a safetensors file, found {len(view)} bytes")
    (size,) = struct.unpack("<Q", view[:8])
    if size > min(len(view) - 8, _MAX_HEADER):
        raise CheckpointError(
            f"{path}: declares a header of {size} bytes in a file of {len(view)}; truncated, or no safetensors file"
        )

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError(f"{path}: a name occurs twice in the header")
        return found

    text = bytes(view[8 : 8 + size])
    try:
        if text[:1] != b"{":
            raise ValueError
        header: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: expected a safetensors header in JSON, found other bytes") from None
    for name in header:
        if not _is_text(name):
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected a name in Unicode, found half a surrogate pair"
            )
    return header, 8 + size


def _row(path: str, name: str, row: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    try:
        kind, shape, (first, last) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        if isinstance(kind, str) and kind not in _DTYPES:
            raise CheckpointError(
                f"{path}: tensor {name!r}: unknown dtype {kind!r}; expected one of {', '.join(_DTYPES)}"
            )
        dtype = _DTYPES[kind]
        if set(row) != {"dtype", "shape", "data_offsets"}:
            raise ValueError
        if not all(type(n) is int and n >= 0 for n in (*shape, first, last)) or last < first:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: tensor {name!r}: malformed entry in the header") from None
    return np.dtype(dtype), shape, first, last


def read_weights(path: str) -> Weights:
    """Parameter values of any safetensors file; its order is the container's, not the model's."""
    tensors, meta = read_tensors(path)
    if KEY in meta:
        state = read(path)
        return Weights(dict(state.params), ordered=False)
    return Weights(dict(sorted(tensors.items())), ordered=False)


def write(state: TrainingState, path: str, *, on_tensor: Any = None) -> None:
    """Write a bundle. The file appears whole or not at all.

    on_tensor: called with the number of bytes after each tensor (progress).

    Raises:
        CheckpointError: a dtype that safetensors does not have, a name that would be ambiguous or is
            no text, or a step count below 0.
    """
    _check_names(state, path)
    tensors: dict[str, np.ndarray] = dict(state.params)
    for name, slots in state.slots.items():
        for slot, array in slots.items():
            key = f"{name}/{slot}"
            if key in tensors:
                raise CheckpointError(
                    f"{path}: parameter {key!r} and slot {slot!r} of {name!r} have one name; rename the parameter"
                )
            tensors[key] = array
    names = sorted(tensors)
    entries, offset = {}, 0
    for name in names:
        array = tensors[name]
        kind = _NAMES.get(array.dtype.newbyteorder("=") if array.dtype.byteorder == ">" else array.dtype)
        if kind is None:
            raise CheckpointError(f"{path}: tensor {name!r}: dtype {array.dtype} has no place in a bundle")
        entries[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    header = {"__metadata__": {KEY: message_text(_manifest(state))}, **entries}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with whole_or_nothing(path) as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for name in names:
            f.write(tensor_bytes(tensors[name]))
            if on_tensor is not None:
                on_tensor(tensors[name].nbytes)


def _check_names(state: TrainingState, path: str) -> None:
    for name in state.names:
        if name == "__metadata__" or not _is_text(name):
            raise CheckpointError(
                f"{path}: parameter {name!r}: a bundle cannot have this name; rename the parameter"
            )
        if not 0 <= state.steps[name] < 1 << 64:
            raise CheckpointError(
                f"{path}: parameter {name!r}: expected a step count ≥ 0, found {state.steps[name]}"
            )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _manifest(state: TrainingState) -> Any:
    from optexport.schemas import FORMAT_VERSION, message

    m = message("Manifest")(version=FORMAT_VERSION, dialect=state.dialect)
    m.spec.CopyFrom(spec_to_message(state.spec))
    m.provenance.extend(state.provenance)
    for name in state.ordered_names:
        p = m.parameters.add(name=name, step=state.steps[name], carried=name in state.params)
        if name in state.params:
            _describe(p.value, state.params[name])
        for slot, array in state.slots.get(name, {}).items():
            _describe(p.slots[slot], array)
    return m


def _describe(m: Any, array: np.ndarray) -> None:
    m.dtype, m.sha256 = array.dtype.name, hashlib.sha256(tensor_bytes(array)).hexdigest()
    m.shape.extend(array.shape)


def read(path: str, *, verify: bool = False) -> TrainingState:
    """The training state of a bundle.

    verify: also compare every tensor with its sha256 (reads the whole file).

    Raises:
        CheckpointError: no bundle, a newer format version, or contents that disagree with the manifest.
    """
    tensors, meta = read_tensors(path)
    if KEY not in meta:
        raise CheckpointError(
            f"{path}: a safetensors file without optexport's manifest; it may be a model (--model), it is no optimizer state"
        )
    m = parse_message("Manifest", meta[KEY], path)
    params: dict[str, np.ndarray] = {}
    slots: dict[str, dict[str, np.ndarray]] = {}
    steps: dict[str, int] = {}
    taken: set[str] = set()
    for p in m.parameters:
        if p.name in steps:
            raise CheckpointError(
                f"{path}: parameter {p.name!r} is in the manifest twice; the file was changed"
            )
        steps[p.name] = p.step
        if p.carried:
            params[p.name] = _take(path, tensors, p.name, p.value, taken, verify)
        for slot, described in sorted(p.slots.items()):
            slots.setdefault(p.name, {})[slot] = _take(
                path, tensors, f"{p.name}/{slot}", described, taken, verify
            )
    extra = sorted(set(tensors) - taken)
    if extra:
        raise CheckpointError(f"{path}: tensor {extra[0]!r} is not in the manifest; the file was changed")
    spec = spec_from_message(m.spec, path)
    _agree(path, spec, params, slots, steps)
    return TrainingState(spec, params, slots, steps, dialect=m.dialect, provenance=tuple(m.provenance))


def _agree(
    path: str,
    spec: Spec,
    params: Mapping[str, np.ndarray],
    slots: Mapping[str, Mapping[str, np.ndarray]],
    steps: Mapping[str, int],
) -> None:
    """Every parameter in one group, with slots that its rule has, shaped as the rule says."""
    held: set[str] = set()
    for group in spec.groups:
        known = {*group.rule.slot_names, MASTER}
        for name in group.params or ():
            if name not in steps:
                raise CheckpointError(
                    f"{path}: parameter {name!r} of the spec is not in the manifest; the file was changed"
                )
            if name in held:
                raise CheckpointError(
                    f"{path}: parameter {name!r} is in two groups of the spec; the file was changed"
                )
            held.add(name)
            arrays = dict(slots.get(name, {}))
            for slot in arrays:
                if slot not in known:
                    raise CheckpointError(
                        f"{path}: parameter {name!r}: expected the slots {', '.join(sorted(known))}, found {slot!r}"
                    )
            if name in params:
                arrays = {"value": params[name], **arrays}
            if not _fit_together(group.rule, arrays):
                found = ", ".join(f"{s} {list(a.shape)}" for s, a in arrays.items())
                raise CheckpointError(
                    f"{path}: parameter {name!r}: expected tensors of one shape, found {found}"
                )
    for name in steps:
        if name not in held:
            raise CheckpointError(
                f"{path}: parameter {name!r} of the manifest is in no group of the spec; the file was changed"
            )


def _fit_together(rule: Rule, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the slots have the shapes that they have beside a parameter of the others' shape."""
    slots = {s.name: s for s in rule.slots}
    whole = [a.shape for name, a in arrays.items() if name not in slots or slots[name].shape == "param"]
    if not whole:
        return True
    try:
        expected = {n: slots[n].shape_for(whole[0]) if n in slots else whole[0] for n in arrays}
    except (ArithmeticError, IndexError):  # an axis that such a parameter does not have
        return False
    return all(a.shape == expected[n] for n, a in arrays.items())


def digests(path: str) -> dict[str, str]:
    """Tensor name -> sha256, as the manifest has them."""
    m = parse_message("Manifest", read_tensors(path)[1][KEY], path)
    out = {p.name: p.value.sha256 for p in m.parameters if p.carried}
    return out | {f"{p.name}/{slot}": t.sha256 for p in m.parameters for slot, t in p.slots.items()}


def _take(
    path: str, tensors: Mapping[str, np.ndarray], key: str, described: Any, taken: set[str], verify: bool
) -> np.ndarray:
    array = tensors.get(key)
    if array is None:
        raise CheckpointError(f"{path}: tensor {key!r} of the manifest is missing; the file was changed")
    if array.dtype.name != described.dtype or tuple(described.shape) != array.shape:
        raise CheckpointError(
            f"{path}: tensor {key!r}: the manifest says {described.dtype} {list(described.shape)}, "
            f"the file {array.dtype.name} {list(array.shape)}"
        )
    if verify and hashlib.sha256(tensor_bytes(array)).hexdigest() != described.sha256:
        raise CheckpointError(
            f"{path}: tensor {key!r}: bytes do not have the manifest's sha256; the file is damaged"
        )
    taken.add(key)
    return array
