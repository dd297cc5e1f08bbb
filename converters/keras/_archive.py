"""The zip behind ``.keras``: ``config.json`` and the HDF5 file, both stored as they are."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

from optexport.errors import CheckpointError
from optexport.state.limits import parse_json

from ._h5 import Mapped

__all__ = ["CONFIG", "WEIGHTS", "Archive", "is_archive"]

WEIGHTS, CONFIG = "model.weights.h5", "config.json"
_LONGEST_CONFIG = 256 << 20
_LOCAL_HEADER = 30


def is_archive(data: memoryview) -> bool:
    """Whether this is a zip with Keras' members; False if it cannot be read."""
    if bytes(data[:4]) != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(Mapped(data)) as archive:
            names = {i.filename for i in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return CONFIG in names and any(n.startswith("model.weights.") for n in names)


class Archive:
    """A ``.keras`` file. ``where`` is what messages call it.

    Raises:
        CheckpointError: two members of one name, or no HDF5 member.
    """

    def __init__(self, data: memoryview, where: str) -> None:
        self._data, self._where = data, where
        try:
            self._zip = zipfile.ZipFile(Mapped(data))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise CheckpointError(f"{where}: expected a zip, found a damaged one: {error}") from None
        members = self._zip.infolist()
        self._members = {m.filename: m for m in members}
        if len(self._members) != len(members):
            raise CheckpointError(f"{where}: holds two members of one name; the file is damaged")
        if WEIGHTS not in self._members:
            raise CheckpointError(
                f"{where}: expected the member {WEIGHTS}, found none; sharded weights are not read: save them whole"
            )

    def weights(self) -> memoryview:
        """The HDF5 file, mapped."""
        return self._member(WEIGHTS)

    def names(self) -> list[str]:
        """Every member, in the file's order."""
        return list(self._members)

    def bytes_of(self, name: str) -> bytes:
        """A small member, its checksum looked at.

        Raises:
            CheckpointError: it is damaged.
        """
        raw = bytes(self._member(name))
        if zlib.crc32(raw) != self._members[name].CRC:
            raise CheckpointError(f"{self._where}: {name}: bytes do not have the checksum of the zip")
        return raw

    def config(self) -> dict[str, Any]:
        """``config.json``.

        Raises:
            CheckpointError: it is damaged, or no JSON object.
        """
        info = self._members.get(CONFIG)
        if info is None or info.file_size > _LONGEST_CONFIG:
            raise CheckpointError(f"{self._where}: expected {CONFIG} of at most {_LONGEST_CONFIG} bytes")
        raw = self.bytes_of(CONFIG)
        try:
            config = parse_json(raw)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self._where}: {CONFIG}: expected JSON: {error}") from None
        if not isinstance(config, dict):
            raise CheckpointError(
                f"{self._where}: {CONFIG}: expected a JSON object, found {type(config).__name__}"
            )
        return config

    def _member(self, name: str) -> memoryview:
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(
                f"{self._where}: {name}: expected a member that is stored as it is, found a compressed or encrypted one"
            )
        header = bytes(self._data[info.header_offset : info.header_offset + _LOCAL_HEADER])
        if len(header) != _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"{self._where}: {name}: its header is missing; the file is damaged")
        start = info.header_offset + _LOCAL_HEADER
        start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if info.file_size != info.compress_size or start + info.file_size > len(self._data):
            raise CheckpointError(f"{self._where}: {name}: is longer than the file; the file is damaged")
        return self._data[start : start + info.file_size]
