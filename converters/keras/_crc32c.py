"""CRC-32C (Castagnoli), as TensorFlow keeps it beside every block and tensor.

The register after a message is linear over GF(2) in the message and in the register before it. So a long
message is cut into strips that go through the register at once, and two neighbours' results join:
that of the first, moved on by the zeros that the second stands for, xor that of the second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

__all__ = ["crc32c", "masked"]

_POLYNOMIAL = np.uint32(0x82F63B78)  # bits reversed
_STRIP = 128  # two-byte words; leading zeros leave a register of 0 as it is, so strips are filled up in front
_CHUNK = 1 << 24
_SHORT = 1 << 12  # below, a loop over bytes is faster
_MASK = 0xA282EAD8

Register = np.ndarray
Move = Callable[[Register], Register]


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of ``data``."""
    view = memoryview(data).cast("B")
    if len(view) < _SHORT:
        return _short(bytes(view))
    # The register starts at all ones: the same as a register of 0 and the first four bytes inverted.
    head = bytes(b ^ 0xFF for b in view[:4])
    total = _raw(np.frombuffer(head, np.uint8))
    for start in range(4, len(view), _CHUNK):
        piece = np.frombuffer(view[start : start + _CHUNK], np.uint8)
        total = _moved(total, len(piece)) ^ _raw(piece)
    return int(total[0]) ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """What TensorFlow stores for a checksum: of data that holds checksums itself, none would be good."""
    return ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF


def _short(data: bytes) -> int:
    register, table = 0xFFFFFFFF, _numbers()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


@cache
def _numbers() -> list[int]:
    return [int(n) for n in _byte_table()]


@cache
def _byte_table() -> Register:
    """The register after a zero byte, for a register that holds one byte."""
    out = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        out = np.where(out & 1, (out >> np.uint32(1)) ^ _POLYNOMIAL, out >> np.uint32(1))
    return out


@cache
def _word_table() -> Register:
    return _by_a_byte(_by_a_byte(np.arange(1 << 16, dtype=np.uint32)))


def _by_a_byte(register: Register) -> Register:
    out: Register = _byte_table()[register & np.uint32(0xFF)] ^ (register >> np.uint32(8))
    return out


def _raw(piece: np.ndarray) -> Register:
    """The register after ``piece`` (bytes) from a register of 0, as an array of one."""
    strips = 1
    while strips * 2 * _STRIP < len(piece):
        strips *= 2
    filled = np.zeros((strips, 2 * _STRIP), np.uint8)
    filled.reshape(-1)[filled.size - len(piece) :] = piece
    register, table = np.zeros(strips, np.uint32), _word_table()
    for word in np.ascontiguousarray(filled.view("<u2").T):
        register = table[register.astype(np.uint16) ^ word] ^ (register >> np.uint32(16))
    size = 2 * _STRIP
    while len(register) > 1:
        register = _moved(register[::2], size) ^ register[1::2]
        size *= 2
    return register


def _moved(register: Register, zeros: int) -> Register:
    """The register after so many zero bytes."""
    power = 0
    while zeros:
        if zeros & 1:
            register = _apply(_doubled(power), register)
        zeros, power = zeros >> 1, power + 1
    return register


@cache
def _doubled(power: int) -> tuple[Register, ...]:
    """Moving on by 2^power zero bytes, as a table for each byte of the register."""
    if power == 0:
        move: Move = _by_a_byte
    else:
        half = _doubled(power - 1)

        def move(register: Register) -> Register:
            return _apply(half, _apply(half, register))

    return tuple(move(np.arange(256, dtype=np.uint32) << np.uint32(8 * k)) for k in range(4))


def _apply(tables: tuple[Register, ...], register: Register) -> Register:
    out: Register = tables[0][register & np.uint32(0xFF)]
    for k in range(1, 4):
        out = out ^ tables[k][(register >> np.uint32(8 * k)) & np.uint32(0xFF)]
    return out
