"""PyTorch's zip container: members are stored, so a storage is a range of the file's own bytes.

The central directory is read here rather than with `zipfile`: a member must be addressable inside a
mapping of the file (a DCP item is a zip inside a larger file), and duplicates, overlaps, compression
and encryption are errors instead of features.

Checksums: `data.pkl` and `byteorder` are always checked. Storages are checked only on request, since
that reads every byte of a file that is otherwise mapped and not read at all. PyTorch can be told to
leave checksums out; it then writes 0, which is taken as "none".
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optexport.converters.torch._tensors import CONSTRUCTORS, Storage, storage_of
from optexport.errors import CheckpointError
from optexport.state.pickles import Constant, loads
from optexport.state.pickles.objects import brief

__all__ = ["Archive", "is_zip", "load_zip"]

_END = struct.Struct("<IHHHHIIH")
_END64_LOCATOR = struct.Struct("<IIQI")
_END64 = struct.Struct("<IQHHIIQQQQ")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_FULL = 0xFFFFFFFF
_MOST_MEMBERS = 1_000_000

Constructors = Mapping[tuple[str, str], Callable[..., Any] | Constant]


@dataclass(frozen=True)
class _Member:
    name: str
    start: int
    size: int
    crc: int


def is_zip(data: memoryview) -> bool:
    """Whether ``data`` starts like a zip archive."""
    return bytes(data[:4]) == b"PK\x03\x04"


def load_zip(
    data: memoryview, file: str, *, verify: bool = False, constructors: Constructors = CONSTRUCTORS
) -> Any:
    """The object of a zip file, tensors as `Tensor`.

    verify: check every member's checksum. constructors: the closed list of what its pickle may name.

    Raises CheckpointError for anything that `torch.save` does not write.
    """
    archive = Archive(data, file)
    if verify:
        archive.verify()
    big_endian = archive.big_endian()

    def resolve(identity: Any) -> Storage:
        storage = storage_of(identity, file)
        storage.raw = archive.member(f"data/{storage.key}")
        storage.big_endian = big_endian
        return storage

    pickled = archive.checked("data.pkl")
    return loads(pickled, file=file, constructors=constructors, persistent_load=resolve)


class Archive:
    """The members of one zip file under its single root folder."""

    def __init__(self, data: memoryview, file: str) -> None:
        self.data, self.file = data, file
        if not is_zip(data):
            raise CheckpointError(f"{file}: not a zip archive; expected a file that torch.save wrote")
        self.members = self._directory()
        roots = [
            name[: -len("data.pkl")]
            for name in self.members
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(roots) != 1:
            raise CheckpointError(
                f"{file}: holds {len(roots)} members called ROOT/data.pkl; a file of torch.save holds one"
            )
        self.root = roots[0]
        for name in self.members:
            if not name.startswith(self.root):
                raise CheckpointError(
                    f"{file}: member {brief(name)} is outside the root folder {brief(self.root)}"
                )

    def member(self, name: str) -> memoryview:
        """The bytes of a member, without a copy; raises CheckpointError if there is none."""
        found = self.members.get(self.root + name)
        if found is None:
            raise CheckpointError(f"{self.file}: has no member {brief(name)}, which its pickle refers to")
        return self.data[found.start : found.start + found.size]

    def checked(self, name: str) -> memoryview:
        """Like `member`, after comparing the checksum."""
        raw = self.member(name)
        crc = self.members[self.root + name].crc
        if crc != 0 and zlib.crc32(raw) != crc:
            raise CheckpointError(
                f"{self.file}: member {brief(name)} does not match its checksum; the file is damaged"
            )
        return raw

    def verify(self) -> None:
        """Check the checksum of every member."""
        for name in self.members:
            self.checked(name[len(self.root) :])

    def big_endian(self) -> bool:
        """Whether storages are big-endian: what the `byteorder` record says, little without one."""
        if self.root + "byteorder" not in self.members:
            return False
        order = bytes(self.checked("byteorder")[:16])
        if order not in (b"little", b"big"):
            raise CheckpointError(f"{self.file}: byte order is {order!r}; expected little or big")
        return order == b"big"

    # -- central directory ----------------------------------------------------------------------

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file}: {what}; the zip archive is damaged or was not copied completely"
        )

    def _end(self) -> tuple[int, int, int]:
        """(offset, size, count) of the central directory."""
        tail_at = max(0, len(self.data) - (1 << 16) - _END.size)
        tail = bytes(self.data[tail_at:])
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END.size > len(tail):
            raise self._damaged("the end of the central directory is missing")
        _, disk, start_disk, here, count, size, offset, _ = _END.unpack_from(tail, at)
        if disk not in (0, 0xFFFF) or start_disk not in (0, 0xFFFF) or here != count:
            raise self._damaged("the archive spans several disks")
        at += tail_at
        if count == 0xFFFF or size == _FULL or offset == _FULL:
            if at < _END64_LOCATOR.size:
                raise self._damaged("the zip64 end record is missing")
            mark, _, record_at, _ = _END64_LOCATOR.unpack_from(self.data, at - _END64_LOCATOR.size)
            if mark != 0x07064B50 or record_at + _END64.size > at:
                raise self._damaged("the zip64 end record is missing")
            mark, *_, count, size, offset = _END64.unpack_from(self.data, record_at)
            if mark != 0x06064B50:
                raise self._damaged("the zip64 end record is missing")
        if offset + size > at or count * _CENTRAL.size > size:
            raise self._damaged("the central directory lies outside the file")
        return offset, size, count

    def _directory(self) -> dict[str, _Member]:
        offset, size, count = self._end()
        if count > _MOST_MEMBERS:
            raise self._damaged(f"holds {count} members; expected at most {_MOST_MEMBERS}")
        members: dict[str, _Member] = {}
        spans: list[tuple[int, int]] = []
        at, end = offset, offset + size
        for _ in range(count):
            if at + _CENTRAL.size > end:
                raise self._damaged("the central directory is too short")
            fields = _CENTRAL.unpack_from(self.data, at)
            mark, flags, method, crc, packed, plain = fields[0], fields[3], fields[4], *fields[7:10]
            name_len, extra_len, comment_len, header = *fields[10:13], fields[16]
            stop = at + _CENTRAL.size + name_len + extra_len + comment_len
            if mark != 0x02014B50 or stop > end:
                raise self._damaged("an entry of the central directory is malformed")
            raw_name = bytes(self.data[at + _CENTRAL.size : at + _CENTRAL.size + name_len])
            extra = self.data[at + _CENTRAL.size + name_len :][:extra_len]
            plain, packed, header = self._zip64(extra, plain, packed, header)
            name = raw_name.decode("utf-8", "backslashreplace")
            if name in members:
                raise CheckpointError(f"{self.file}: member {brief(name)} occurs twice; refused")
            if flags & 0x2041:
                raise CheckpointError(f"{self.file}: member {brief(name)} is encrypted; refused")
            if method != 0 or packed != plain:
                raise CheckpointError(
                    f"{self.file}: member {brief(name)} is compressed; torch.save stores members as they are"
                )
            start = self._data_start(header, raw_name, offset)
            if start + plain > offset:
                raise self._damaged(f"member {brief(name)} lies outside the file")
            members[name] = _Member(name, start, plain, crc)
            spans.append((header, start + plain))
            at = stop
        spans.sort()
        if any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans)):
            raise self._damaged("members overlap")
        return members

    def _zip64(self, extra: memoryview, plain: int, packed: int, header: int) -> tuple[int, int, int]:
        """Sizes and offset, from the zip64 field where the entry says they do not fit."""
        if _FULL not in (plain, packed, header):
            return plain, packed, header
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, at)
            if kind == 1:
                field = bytes(extra[at + 4 : at + 4 + length])
                numbers = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
                try:
                    values = [next(numbers) if value == _FULL else value for value in (plain, packed, header)]
                except StopIteration:
                    break
                return values[0], values[1], values[2]
            at += 4 + length
        raise self._damaged("a zip64 field is missing")

    def _data_start(self, header: int, raw_name: bytes, limit: int) -> int:
        if header + _LOCAL.size > limit:
            raise self._damaged("a member's header lies outside the file")
        fields = _LOCAL.unpack_from(self.data, header)
        start = header + _LOCAL.size
        if fields[0] != 0x04034B50 or bytes(self.data[start : start + fields[9]]) != raw_name:
            raise self._damaged(
                f"the header of member {brief(raw_name.decode('utf-8', 'replace'))} is malformed"
            )
        return int(start + fields[9] + fields[10])
