"""PyTorch's format before 1.6, and with ``_use_new_zipfile_serialization=False``.

Five pickles (magic number, protocol, system, object, storage keys), then for every key an int64
element count and the elements.
"""

from __future__ import annotations

from typing import Any

from optexport.converters.torch._tensors import CONSTRUCTORS, Storage, storage_of
from optexport.errors import CheckpointError
from optexport.state.pickles import load_at
from optexport.state.pickles.objects import brief

__all__ = ["is_legacy", "load_legacy"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# LONG1, ten bytes: how every protocol from 2 on spells the magic number.
_MAGIC_BYTES = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")


def is_legacy(data: memoryview) -> bool:
    """Whether ``data`` starts with the magic number of the old format."""
    head = bytes(data[:32])
    return head[:1] == b"\x80" and _MAGIC_BYTES in head


def load_legacy(data: memoryview, file: str) -> Any:
    """The object of a legacy file, tensors as `Tensor`.

    Raises CheckpointError if a part is missing, a storage has another element count than its
    tensors were told, or bytes are left over.
    """
    storages: dict[str, list[Storage]] = {}

    def resolve(identity: Any) -> Storage:
        storage = storage_of(identity, file)
        storages.setdefault(storage.key, []).append(storage)
        return storage

    magic, at = load_at(data, 0, file=file, constructors={})
    protocol, at = load_at(data, at, file=file, constructors={})
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise CheckpointError(f"{file}: legacy protocol is {brief(protocol)}; expected {_PROTOCOL}")
    system, at = load_at(data, at, file=file, constructors={})
    result, at = load_at(data, at, file=file, constructors=CONSTRUCTORS, persistent_load=resolve)
    keys, at = load_at(data, at, file=file, constructors={})
    little = system.get("little_endian") if isinstance(system, dict) else None
    if not isinstance(little, bool):
        raise CheckpointError(f"{file}: the system record does not say the byte order")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{file}: the list of storages is {brief(keys)}; expected a list of names")
    if sorted(keys) != sorted(storages):
        raise CheckpointError(f"{file}: {len(keys)} storages are listed and tensors use {len(storages)}")
    for key in keys:
        at = _attach(data, at, storages[key], file, little)
    if at != len(data):
        raise CheckpointError(f"{file}: {len(data) - at} bytes follow the last storage at byte {at}")
    return result


def _attach(data: memoryview, at: int, uses: list[Storage], file: str, little: bool) -> int:
    """Give every use of one storage its bytes, which start at ``at``; returns where they end."""
    if at + 8 > len(data):
        raise CheckpointError(
            f"{file}: truncated at byte {len(data)}: storage {brief(uses[0].key)} is missing"
        )
    count = int.from_bytes(data[at : at + 8], "little" if little else "big", signed=True)
    width = uses[0].dtype.itemsize if uses[0].dtype is not None else 1
    if count < 0 or any(use.count != count or use.dtype != uses[0].dtype for use in uses):
        raise CheckpointError(
            f"{file}: storage {brief(uses[0].key)} has {count} elements; its tensors expect {uses[0].count}"
        )
    start, end = at + 8, at + 8 + count * width
    if end > len(data):
        raise CheckpointError(
            f"{file}: truncated at byte {len(data)}: storage {brief(uses[0].key)} ends at {end}"
        )
    for use in uses:
        use.raw, use.big_endian = data[start:end], not little
    return end
