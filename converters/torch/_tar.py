"""PyTorch's first format, a tar archive, which was written until 0.1.10.

Four members: ``sys_info``; ``storages``, each a pickled (key, location, class), an element count and the
elements, then a list of storages that are parts of others; ``tensors``, each a pickled (key, storage, class),
then sizes, strides and offset; and ``pickle``, the object, which names tensors and storages by their keys.
Read from ``legacy_load`` in torch/serialization.py.
"""

from __future__ import annotations

from typing import Any

from optexport.converters.torch._tensors import CONSTRUCTORS, STORAGE_CLASSES, Storage, StorageType, Tensor
from optexport.errors import CheckpointError
from optexport.state.pickles import Constant, GlobalRef, load_at, loads
from optexport.state.pickles.objects import brief

__all__ = ["is_tar", "load_tar"]

_BLOCK = 512
_MEMBERS = ("sys_info", "pickle", "tensors", "storages")
_MAX_DIMS = 32
_CLASSES = {
    **CONSTRUCTORS,
    **{
        (module, name.replace("Storage", "Tensor")): Constant(
            GlobalRef(module, name.replace("Storage", "Tensor"))
        )
        for module in ("torch", "torch.cuda")
        for name in STORAGE_CLASSES
    },
}


def is_tar(data: memoryview) -> bool:
    """Whether ``data`` is a tar archive that begins with one of the four members."""
    name = bytes(data[:100]).rstrip(b"\0").removeprefix(b"./")
    return bytes(data[257:262]) == b"ustar" and name in [m.encode() for m in _MEMBERS]


def load_tar(data: memoryview, file: str) -> Any:
    """The object of a tar file, tensors as `Tensor`.

    Raises CheckpointError if a member is missing, twice or damaged, or a key names nothing.
    """
    members = _members(data, file)
    system = loads(members["sys_info"], file=f"{file}: sys_info", constructors={})
    little = system.get("little_endian") if isinstance(system, dict) else None
    if not isinstance(little, bool):
        raise CheckpointError(f"{file}: sys_info does not say the byte order")
    known: dict[str, Any] = dict(_storages(members["storages"], f"{file}: storages", little))
    known |= _tensors(members["tensors"], f"{file}: tensors", known)

    def resolve(identity: Any) -> Any:
        key = identity[0] if isinstance(identity, tuple) and identity else identity
        if isinstance(identity, tuple) and isinstance(key, GlobalRef):
            return key
        if str(key) not in known or type(key) not in (int, str):
            raise CheckpointError(f"{file}: {brief(identity)} names no tensor of the file")
        return known[str(key)]

    return loads(members["pickle"], file=file, constructors=_CLASSES, persistent_load=resolve)


def _members(data: memoryview, file: str) -> dict[str, memoryview]:
    members: dict[str, memoryview] = {}
    at = 0
    while at + _BLOCK <= len(data):
        head = bytes(data[at : at + _BLOCK])
        if not head.strip(b"\0"):
            break
        name = head[:100].rstrip(b"\0").decode("utf-8", "backslashreplace").removeprefix("./")
        try:
            size = int(head[124:136].rstrip(b"\0 ") or b"0", 8)
            total = int(head[148:156].strip(b"\0 ") or b"0", 8)
        except ValueError:
            raise CheckpointError(f"{file}: member {brief(name)} has a malformed header") from None
        if total != sum(head) - sum(head[148:156]) + 8 * 32:
            raise CheckpointError(f"{file}: the header of member {brief(name)} does not match its checksum")
        start = at + _BLOCK
        if size < 0 or start + size > len(data):
            raise CheckpointError(f"{file}: truncated: member {brief(name)} ends at byte {start + size}")
        if head[156:157] not in (b"0", b"\0") or name not in _MEMBERS or name in members:
            raise CheckpointError(
                f"{file}: member {brief(name)}: expected one file each of {', '.join(_MEMBERS)}; refused"
            )
        members[name] = data[start : start + size]
        at = start + -(-size // _BLOCK) * _BLOCK
    missing = [name for name in _MEMBERS if name not in members]
    if missing:
        raise CheckpointError(f"{file}: has no member {missing[0]}; the archive was not copied completely")
    return members


def _count(data: memoryview, file: str, what: str) -> tuple[int, int]:
    number, at = load_at(data, 0, file=file, constructors={})
    # Each takes some bytes, so that a count cannot be larger than the file.
    if type(number) is not int or not 0 <= number <= len(data):
        raise CheckpointError(f"{file}: holds {brief(number)} {what}")
    return number, at


def _storages(data: memoryview, file: str, little: bool) -> dict[str, Storage]:
    order = "little" if little else "big"
    out: dict[str, Storage] = {}
    number, at = _count(data, file, "storages")
    for _ in range(number):
        entry, at = load_at(data, at, file=file, constructors=_CLASSES)
        kind = entry[2] if isinstance(entry, tuple) and len(entry) == 3 else None
        if not isinstance(kind, StorageType) or kind.dtype is None or str(entry[0]) in out:
            raise CheckpointError(
                f"{file}: a storage is {brief(entry)}; expected key, location and class, once"
            )
        count = int.from_bytes(data[at : at + 8], order, signed=True)  # type: ignore[arg-type]
        end = at + 8 + count * kind.dtype.itemsize
        if count < 0 or at + 8 > len(data) or end > len(data):
            raise CheckpointError(
                f"{file}: storage {brief(entry[0])} of {count} elements ends behind the file"
            )
        key = str(entry[0])
        out[key] = Storage(file, key, kind.dtype, count, data[at + 8 : end], not little)
        at = end
    views, _ = load_at(data, at, file=file, constructors={})
    for view in views if isinstance(views, (list, tuple)) else (views,):
        if not isinstance(view, tuple) or len(view) != 4 or not all(type(n) is int for n in view):
            raise CheckpointError(f"{file}: a view is {brief(view)}; expected key, storage, offset and count")
        key, root, offset, count = str(view[0]), out.get(str(view[1])), view[2], view[3]
        if root is None or root.raw is None or root.dtype is None or key in out:
            raise CheckpointError(
                f"{file}: view {brief(key)} is of storage {brief(view[1])}, which is not there"
            )
        if offset < 0 or count < 0 or offset + count > root.count:
            raise CheckpointError(
                f"{file}: view {brief(key)} reaches outside its storage of {root.count} elements"
            )
        width = root.dtype.itemsize
        raw = root.raw[offset * width : (offset + count) * width]
        out[key] = Storage(file, key, root.dtype, count, raw, not little)
    return out


def _tensors(data: memoryview, file: str, storages: dict[str, Any]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    number, at = _count(data, file, "tensors")
    for _ in range(number):
        entry, at = load_at(data, at, file=file, constructors=_CLASSES)
        if (
            not isinstance(entry, tuple)
            or len(entry) != 3
            or str(entry[0]) in out
            or str(entry[0]) in storages
        ):
            raise CheckpointError(
                f"{file}: a tensor is {brief(entry)}; expected key, storage and class, once"
            )
        if str(entry[1]) not in storages:
            raise CheckpointError(
                f"{file}: tensor {brief(entry[0])} is on storage {brief(entry[1])}, which is not there"
            )
        # Sizes are little-endian whatever the machine was.
        dims = int.from_bytes(data[at : at + 4], "little", signed=True)
        end = at + 8 + 16 * dims + 8
        if not 0 <= dims <= _MAX_DIMS or end > len(data):
            raise CheckpointError(
                f"{file}: tensor {brief(entry[0])} has {dims} dimensions and ends behind the file"
            )
        numbers = [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(at + 8, end, 8)]
        size, stride, offset = tuple(numbers[:dims]), tuple(numbers[dims : 2 * dims]), numbers[-1]
        out[str(entry[0])] = Tensor(storages[str(entry[1])], offset, size, stride)
        at = end
    return out
