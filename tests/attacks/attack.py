"""An attack: a file, and what a reader must say to it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ATTACKS",
    "CANARY",
    "COMMAND",
    "SECRET",
    "SECRET_FILE",
    "Attack",
    "attack",
    "deflated_bomb",
    "file",
]

# What a payload makes if it is ever run, and the command that makes it.
CANARY = "canary"
COMMAND = f"touch {CANARY}"
# A file beside the attack's folder, which no reader may look into, and what it holds.
SECRET_FILE = "secret.bin"
SECRET = b"0123456789abcdefSECRETSECRET" * 64


@dataclass(frozen=True)
class Attack:
    """One hostile file or folder.

    name: of the folder that it is written to.
    build: writes it into an empty folder and gives the path to open. ``folder.parent / SECRET_FILE`` exists.
    says: what the error must say, beside the file's name; None where a reader may accept the file, since
        it takes nothing of it that could do harm.
    format: to open it as; None to have it detected.
    weights: it is a weights file; the error is that of reading it as such.
    needs: modules that must be importable, to make it or to read it as far as the attack.
    once: it is only read, not opened in every way: it takes long, or shares all but its reader with another attack.
    """

    name: str
    build: Callable[[Path], Path]
    says: str | None
    format: str | None = None
    weights: bool = False
    needs: tuple[str, ...] = ()
    once: bool = False


ATTACKS: dict[str, Attack] = {}


def attack(
    says: str | None,
    *,
    format: str | None = None,
    weights: bool = False,
    needs: tuple[str, ...] = (),
    name: str | None = None,
    once: bool = False,
) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    """Add the decorated function to `ATTACKS` under its own name."""

    def register(build: Callable[[Path], Path]) -> Callable[[Path], Path]:
        called = name or build.__name__
        if called in ATTACKS:
            raise ValueError(f"two attacks are called {called}")
        ATTACKS[called] = Attack(called, build, says, format, weights, needs, once)
        return build

    return register


def file(folder: Path, name: str, data: bytes) -> Path:
    """``data`` as a file in ``folder``."""
    path = folder / name
    path.write_bytes(data)
    return path


_BLOCK = 1 << 24


def deflated_bomb(path: Path, members: Mapping[str, bytes | tuple[bytes, int]]) -> Path:
    """A zip archive. Of members: bytes, stored; or bytes and the number of zeros behind them, deflated.

    The zeros are never made: a deflated block of them is repeated. Their checksum is left out.
    """
    work = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = work.compress(bytes(_BLOCK)) + work.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(path, "w") as archive:
        for name, held in members.items():
            if isinstance(held, tuple):
                head, zeros = held
                work = zlib.compressobj(9, zlib.DEFLATED, -15)
                raw = work.compress(head) + work.flush(zlib.Z_FULL_FLUSH) + block * (zeros // _BLOCK)
                work = zlib.compressobj(9, zlib.DEFLATED, -15)
                archive.writestr(name, raw + work.compress(bytes(zeros % _BLOCK)) + work.flush())
            else:
                archive.writestr(name, held)
        infos = archive.infolist()
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02", infos[-1].header_offset + infos[-1].compress_size)
    for info in infos:
        held = members[info.filename]
        if isinstance(held, tuple):
            size = len(held[0]) + held[1]
            # Method, time, checksum, packed size, size: at 8 bytes of its own header, at 10 of the directory's.
            for place in (info.header_offset + 8, at + 10):
                struct.pack_into("<H", data, place, zipfile.ZIP_DEFLATED)
                struct.pack_into("<III", data, place + 6, 0, info.compress_size, size)
        at += 46 + len(info.filename.encode())
    path.write_bytes(data)
    return path
