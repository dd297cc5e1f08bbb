"""The bundle: one ``.safetensors`` file with the manifest in its metadata.

Tensors are named ``<param>``, ``<param>/<slot>`` and ``<buffer>``. Equal states give equal bytes: tensors are
in sorted order, the manifest is canonical.

A large one may be in shards, ``name-00001-of-00003.safetensors`` and so on, with the manifest in the
metadata of ``name.safetensors.index.json``, an index as model hubs have it. The index is written last:
there is no bundle before it stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..rules import Rule
from ..specs import Spec
from .files import whole_or_nothing
from .manifest import message_text, parse_message, spec_from_message, spec_to_message
from .native import Weights
from .safetensors import is_safetensors, is_text, metadata, read_tensors, tensor_bytes, write_tensors
from .sharded import SHARD as _SHARD
from .sharded import index_metadata, is_index, read_shards, write_shards
from .training import MASTER, TrainingState

__all__ = ["digests", "read", "read_tensors", "read_weights", "sniff", "tensor_bytes", "write"]

KEY = "optexport"


def sniff(path: str) -> bool:
    """Whether the file is a bundle, its index or one of its shards; False if it cannot be read."""
    try:
        if is_index(path):
            return KEY in index_metadata(path)
        return is_safetensors(path) and not {KEY, _SHARD}.isdisjoint(metadata(path)[1])
    except CheckpointError:
        return False


def read_weights(path: str) -> Weights:
    """Parameter values of any safetensors file; its order is the container's, not the model's."""
    if is_index(path):
        return Weights(dict(read(path).params), ordered=False)
    tensors, meta = read_tensors(path)
    if KEY in meta:
        state = read(path)
        return Weights(dict(state.params), ordered=False)
    return Weights(dict(sorted(tensors.items())), ordered=False)


def write(
    state: TrainingState, path: str, *, on_tensor: Any = None, shard_size: int | None = None
) -> list[str]:
    """Write a bundle; the files that were written, the one to open first. It appears whole or not at all.

    on_tensor: called with the number of bytes after each tensor (progress).
    shard_size: bytes of tensors from which on it is cut into shards of at most so many; a tensor is
        never cut. None: one file, whatever its size.

    Raises:
        CheckpointError: a dtype that safetensors does not have, a name that would be ambiguous or is
            no text, a step count below 0, or a sharded bundle that stands there already.
    """
    if shard_size is not None and shard_size <= 0:
        raise CheckpointError(f"{path}: expected a shard size above 0, found {shard_size}")
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
    for name, array in state.buffers.items():
        if name in tensors:
            raise CheckpointError(f"{path}: buffer {name!r} has the name of a parameter or slot; rename it")
        tensors[name] = array

    def meta(sums: Mapping[str, str]) -> dict[str, str]:
        return {KEY: message_text(_manifest(state, sums))}

    if shard_size is not None and sum(a.nbytes for a in tensors.values()) > shard_size:
        return write_shards(path, tensors, meta, shard_size, on_tensor)
    with whole_or_nothing(path) as f:
        write_tensors(f, path, tensors, meta, on_tensor)
    return [path]


def _check_names(state: TrainingState, path: str) -> None:
    for name in (*state.names, *state.buffers):
        if name == "__metadata__" or not is_text(name):
            raise CheckpointError(
                f"{path}: parameter {name!r}: a bundle cannot have this name; rename the parameter"
            )
    for name in state.names:
        if not 0 <= state.steps[name] < 1 << 64:
            raise CheckpointError(
                f"{path}: parameter {name!r}: expected a step count ≥ 0, found {state.steps[name]}"
            )


def _manifest(state: TrainingState, sums: Mapping[str, str]) -> Any:
    """sums: sha256 of each tensor, by its name in the file."""
    from optexport.schemas import message

    m = message("Manifest")(version=2 if state.buffers else 1, dialect=state.dialect)
    m.spec.CopyFrom(spec_to_message(state.spec))
    m.provenance.extend(state.provenance)
    for name in state.ordered_names:
        p = m.parameters.add(name=name, step=state.steps[name], carried=name in state.params)
        if name in state.params:
            _describe(p.value, state.params[name], sums[name])
        for slot, array in state.slots.get(name, {}).items():
            _describe(p.slots[slot], array, sums[f"{name}/{slot}"])
    for name, array in state.buffers.items():
        _describe(m.buffers[name], array, sums[name])
    return m


def _describe(m: Any, array: np.ndarray, sha256: str) -> None:
    m.dtype, m.sha256 = array.dtype.name, sha256
    m.shape.extend(array.shape)


def read(path: str, *, verify: bool = False) -> TrainingState:
    """The training state of a bundle.

    verify: also compare every tensor with its sha256 (reads the whole file).

    Raises:
        CheckpointError: no bundle, a newer format version, or contents that disagree with the manifest.
    """
    tensors, meta = _contents(path)
    if _SHARD in meta:
        raise CheckpointError(
            f"{path}: is one shard of a bundle; open {meta[_SHARD]!r}, which stands beside it"
        )
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
    buffers = {}
    for name, described in sorted(m.buffers.items()):
        if name in taken:
            raise CheckpointError(f"{path}: tensor {name!r} is in the manifest twice; the file was changed")
        buffers[name] = _take(path, tensors, name, described, taken, verify)
    extra = sorted(set(tensors) - taken)
    if extra:
        raise CheckpointError(f"{path}: tensor {extra[0]!r} is not in the manifest; the file was changed")
    spec = spec_from_message(m.spec, path)
    _agree(path, spec, params, slots, steps)
    return TrainingState(
        spec,
        params,
        slots,
        steps,
        dialect=m.dialect,
        provenance=tuple(m.provenance),
        warnings=(_only_here(buffers),) if buffers else (),
        buffers=buffers,
    )


def _only_here(buffers: Mapping[str, Any]) -> str:
    some = ", ".join(list(buffers)[:3]) + (f", … {len(buffers)} in all" if len(buffers) > 3 else "")
    return f"carries what is the model's and no optimizer's ({some}); only a bundle and the model's own file hold it"


def _contents(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of one file, or of an index and its shards."""
    if is_index(path):
        return read_shards(path).tensors, index_metadata(path)
    return read_tensors(path)


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
    m = parse_message("Manifest", (index_metadata(path) if is_index(path) else metadata(path)[1])[KEY], path)
    out = {p.name: p.value.sha256 for p in m.parameters if p.carried}
    out |= {name: t.sha256 for name, t in m.buffers.items()}
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
