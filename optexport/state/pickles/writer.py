"""Writes pickles of plain values, and of objects of other libraries without importing them.

The bytes depend on the values alone: equal strings and globals share a memo entry whatever their
identity, sets are written sorted, and there are no frames.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = ["Bulk", "Global", "NewObj", "Persistent", "Reduce", "dump", "dumps"]

_BATCH = 1000


@dataclass(frozen=True)
class Global:
    """A reference to ``module.name``."""

    module: str
    name: str


@dataclass(eq=False)
class Reduce:
    """``func(*args)``; then elements appended or entries set from ``items``; then BUILD with ``state``.

    state: a dict or tuple, None for no BUILD. items: a list or a dict, None for neither.
    """

    func: Global
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] | dict[Any, Any] | None = None


@dataclass(eq=False)
class NewObj:
    """``cls.__new__(cls, *args)``; otherwise like `Reduce`."""

    cls: Global
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] | dict[Any, Any] | None = None


@dataclass(eq=False)
class Persistent:
    """A persistent id: what the reader's ``persistent_load`` is given."""

    id: Any


@dataclass(eq=False)
class Bulk:
    """Bytes that need not be in memory at once: ``size`` of them, in the pieces that ``pieces()`` gives."""

    size: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


def dumps(obj: Any, protocol: int = 2) -> bytes:
    """``obj`` as a pickle of ``protocol`` 2 to 5.

    Takes None, bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset and the
    markers of this module. Raises TypeError for anything else, ValueError for another protocol.
    """
    out = io.BytesIO()
    dump(obj, out, protocol)
    return out.getvalue()


def dump(obj: Any, file: BinaryIO, protocol: int = 2) -> None:
    """Write ``obj`` to ``file`` as `dumps` has it, bulk data piece by piece."""
    if protocol not in (2, 3, 4, 5):
        raise ValueError(f"pickle protocol {protocol} is not written; choose 2 to 5")
    writer = _Writer(protocol, file)
    writer.out += bytes((0x80, protocol))
    writer.save(obj)
    writer.out += b"."
    writer.flush()


class _Writer:
    def __init__(self, protocol: int, file: BinaryIO) -> None:
        self.protocol, self.file = protocol, file
        self.out = bytearray()
        self.memo: dict[Any, int] = {}
        self.alive: list[Any] = []  # an id is only good for as long as its object lives

    def flush(self) -> None:
        self.file.write(bytes(self.out))
        self.out.clear()

    # -- memo ---------------------------------------------------------------------------------

    def seen(self, key: Any) -> bool:
        index = self.memo.get(key)
        if index is None:
            return False
        self.out += b"h" + bytes((index,)) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def put(self, key: Any, obj: Any = None) -> None:
        index = self.memo[key] = len(self.memo)
        self.alive.append(obj)
        if self.protocol >= 4:
            self.out += b"\x94"
        else:
            self.out += b"q" + bytes((index,)) if index < 256 else b"r" + struct.pack("<I", index)

    # -- values -------------------------------------------------------------------------------

    def save(self, obj: Any) -> None:
        kind = type(obj)
        if obj is None or kind is bool:
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[obj]
        elif kind is int:
            self.save_int(obj)
        elif kind is float:
            self.out += b"G" + struct.pack(">d", obj)
        elif kind is str:
            self.save_str(obj)
        elif kind is Global:
            self.save_global(obj)
        elif kind is Persistent:
            self.save(obj.id)
            self.out += b"Q"
        elif kind is tuple:
            self.save_tuple(obj)
        elif not self.seen(("id", id(obj))):
            self.save_object(obj, kind)

    def save_object(self, obj: Any, kind: type) -> None:
        key = ("id", id(obj))
        if kind is bytes or kind is bytearray:
            self.save_bytes(obj, key)
        elif kind is Bulk:
            self.save_bulk(obj, key)
        elif isinstance(obj, (Reduce, NewObj)):
            self.save_call(obj, key)
        elif kind is list:
            self.out += b"]"
            self.put(key, obj)
            self.elements(obj)
        elif isinstance(obj, dict):
            self.out += b"}"
            self.put(key, obj)
            self.entries(obj)
        elif kind is set or kind is frozenset:
            self.save_set(obj, key, kind)
        else:
            raise TypeError(f"a value of type {kind.__name__} cannot be pickled without its library")

    def save_int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes((value,))
        elif 0 <= value < 65536:
            self.out += b"M" + struct.pack("<H", value)
        elif -(2**31) <= value < 2**31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            if value < 0 and len(raw) > 1 and raw[-1] == 0xFF and raw[-2] & 0x80:
                raw = raw[:-1]  # the shortest form, as the standard pickler writes it
            self.out += (
                b"\x8a" + bytes((len(raw),)) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))
            )
            self.out += raw

    def save_str(self, text: str) -> None:
        if self.seen(("str", text)):
            return
        raw = text.encode("utf-8", "surrogatepass")
        if self.protocol >= 4 and len(raw) < 256:
            self.out += b"\x8c" + bytes((len(raw),))
        elif self.protocol >= 4 and len(raw) >= 1 << 32:
            self.out += b"\x8d" + struct.pack("<Q", len(raw))
        else:
            self.out += b"X" + struct.pack("<I", len(raw))
        self.out += raw
        self.put(("str", text))

    def save_bytes(self, obj: bytes | bytearray, key: Any) -> None:
        if type(obj) is bytearray:
            if self.protocol >= 5:
                self.out += b"\x96" + struct.pack("<Q", len(obj)) + obj
                self.put(key, obj)
            else:
                self.save_call(Reduce(Global("builtins", "bytearray"), (bytes(obj),) if obj else ()), key)
        elif self.protocol < 3:
            text = str(obj, "latin-1")
            spelt = Reduce(Global("_codecs", "encode"), (text, "latin1"))
            self.save_call(spelt if obj else Reduce(Global("builtins", "bytes")), key)
        else:
            self.length(len(obj))
            self.out += obj
            self.put(key, obj)

    def save_bulk(self, obj: Bulk, key: Any) -> None:
        """As the bytes themselves would be."""
        if self.protocol < 3:
            raise ValueError("bulk data needs pickle protocol 3 or later")
        self.length(obj.size)
        self.flush()
        size = 0
        for piece in obj.pieces():
            self.file.write(piece)
            size += len(piece)
        if size != obj.size:
            raise ValueError(f"bulk data of {obj.size} bytes came in {size}")
        self.put(key, obj)

    def length(self, size: int) -> None:
        """The opcode before a byte string of this size."""
        if size < 256:
            self.out += b"C" + bytes((size,))
        elif size < 1 << 32:
            self.out += b"B" + struct.pack("<I", size)
        elif self.protocol >= 4:
            self.out += b"\x8e" + struct.pack("<Q", size)
        else:
            raise ValueError("byte strings of 4 GiB and more need pickle protocol 4 or later")

    def save_tuple(self, obj: tuple[Any, ...]) -> None:
        if not obj:
            self.out += b")"
            return
        if self.seen(("id", id(obj))):
            return
        if len(obj) > 3:
            self.out += b"("
        for item in obj:
            self.save(item)
        self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(obj), b"t")
        self.put(("id", id(obj)), obj)

    def save_set(self, obj: set[Any] | frozenset[Any], key: Any, kind: type) -> None:
        items = sorted(obj, key=lambda item: (type(item).__name__, repr(item)))
        if self.protocol < 4:
            self.save_call(Reduce(Global("builtins", kind.__name__), (items,)), key)
        elif kind is set:
            self.out += b"\x8f"
            self.put(key, obj)
            for start in range(0, len(items), _BATCH):
                self.out += b"("
                for item in items[start : start + _BATCH]:
                    self.save(item)
                self.out += b"\x90"
        else:
            self.out += b"("
            for item in items:
                self.save(item)
            self.out += b"\x91"
            self.put(key, obj)

    def save_global(self, obj: Global) -> None:
        if self.seen(obj):
            return
        # Python 2's name: what every reader of protocol 2 expects and maps back.
        module = "__builtin__" if self.protocol < 3 and obj.module == "builtins" else obj.module
        if self.protocol >= 4:
            self.save(module)
            self.save(obj.name)
            self.out += b"\x93"
        else:
            self.out += b"c" + f"{module}\n{obj.name}\n".encode()
        self.put(obj)

    def save_call(self, obj: Reduce | NewObj, key: Any) -> None:
        self.save(obj.func if isinstance(obj, Reduce) else obj.cls)
        self.save(obj.args)
        self.out += b"R" if isinstance(obj, Reduce) else b"\x81"
        self.put(key, obj)
        if isinstance(obj.items, dict):
            self.entries(obj.items)
        elif obj.items is not None:
            self.elements(obj.items)
        if obj.state is not None:
            self.save(obj.state)
            self.out += b"b"

    # -- contents of containers ---------------------------------------------------------------

    def elements(self, items: list[Any]) -> None:
        for start in range(0, len(items), _BATCH):
            self.batch(items[start : start + _BATCH], 1, b"a", b"e")

    def entries(self, items: dict[Any, Any]) -> None:
        pairs = list(items.items())
        for start in range(0, len(pairs), _BATCH):
            flat = [part for pair in pairs[start : start + _BATCH] for part in pair]
            self.batch(flat, 2, b"s", b"u")

    def batch(self, flat: Iterable[Any], width: int, single: bytes, several: bytes) -> None:
        flat = list(flat)
        one = len(flat) == width
        if not one:
            self.out += b"("
        for part in flat:
            self.save(part)
        self.out += single if one else several
