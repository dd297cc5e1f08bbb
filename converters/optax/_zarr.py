"""Arrays in zarr, versions 2 and 3, as Orbax writes them: chunks without filters, zstd or as they are.

Every size is checked against what the checkpoint really has before anything is made, and a chunk is
unpacked to the bytes that its shape takes, no more.
"""

from __future__ import annotations

import itertools
import math
import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from optexport.errors import CheckpointError
from optexport.state.formats import needed
from optexport.state.limits import parse_json

from ._stores import Store

__all__ = ["Leaf", "Room", "dtype_name", "open_leaf", "read_leaf"]

# zstd packs zeros at most so; all of a checkpoint together may unpack to RATIO times its files and SPARE.
RATIO, SPARE = 1000, 64 << 20
# Unpacked arrays beyond this many bytes go to a temporary file, which is mapped.
IN_MEMORY = 192 << 20
_LONG = 1 << 20  # of a description in JSON
_MISSING = 1 << 16  # chunks that hold nothing but the fill value, and are left out
_REAL = frozenset(
    ("bool", *(f"{k}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)), "float16", "float32", "float64")
)
_FLOAT8 = ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz")
_OTHERS = frozenset(("bfloat16", *(f"float8_{k}" for k in _FLOAT8)))


def dtype_name(dtype: np.dtype) -> str:
    """What zarr version 2 calls it, as tensorstore writes it."""
    return dtype.name if dtype.name in _OTHERS else dtype.newbyteorder("<").str


class Room:
    """Where unpacked arrays go: memory, or once that is much, a temporary file that is mapped.

    limit: bytes that all of them may take.
    """

    def __init__(self, store: Store, where: str) -> None:
        self._limit = SPARE + RATIO * store.size
        self._where, self._used, self._files = where, 0, store.size

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        self._used += size
        if self._used > self._limit:
            raise CheckpointError(
                f"{self._where}: its arrays would take {self._used} bytes, and its files have {self._files}; "
                f"expected at most {RATIO} times that; the file is damaged or hostile"
            )
        if self._used <= IN_MEMORY or not size:
            return np.empty(shape, dtype)
        try:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
        except OSError as error:
            raise CheckpointError(
                f"{self._where}: no room for {size} bytes of unpacked state in {tempfile.gettempdir()}: "
                f"{error.strerror}; set TMPDIR to a larger folder"
            ) from None


@dataclass(frozen=True)
class Leaf:
    """One array, described and not read.

    chunk: shape of what a key holds; inner: shape of the parts of a shard, None where there are none.
    fill: the value of a chunk that is not there, None where its absence is damage.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    inner: tuple[int, ...] | None
    zstd: bool
    fill: Any
    order: str
    separator: str
    prefix: str


def open_leaf(store: Store, name: str, where: str, always_stored: bool) -> Leaf:
    """The description of the array under ``name``, checked.

    always_stored: whether the checkpoint says that each chunk is written whatever its values.

    Raises:
        CheckpointError: there is none, or it is none that Orbax writes.
    """
    where = f"{where}: {name!r}"
    for file, made in ((".zarray", _version2), ("zarr.json", _version3)):
        key = f"{name}/{file}"
        if store.has(key):
            raw = store.get(key)
            try:
                if len(raw) > _LONG:
                    raise ValueError
                meta = parse_json(bytes(raw))
            except (ValueError, RecursionError):
                raise CheckpointError(
                    f"{where}: {file} is no JSON of an array; the file is damaged"
                ) from None
            if not isinstance(meta, dict):
                raise CheckpointError(f"{where}: {file} is no description of an array")
            leaf = made(name, meta, where)
            return leaf if not always_stored else Leaf(**{**leaf.__dict__, "fill": None})
    raise CheckpointError(
        f"{where}: listed in _METADATA, and there is no array of that name; the file is damaged"
    )


def _sizes(values: Any, what: str, where: str, least: int = 0) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(n) is int and least <= n < 1 << 48 for n in values):
        raise CheckpointError(f"{where}: {what} is {values!r:.80}; expected whole numbers from {least} up")
    if len(values) > 32:
        raise CheckpointError(f"{where}: {what} has {len(values)} dimensions; expected at most 32")
    return tuple(values)


def _kind(name: Any, where: str) -> np.dtype:
    if isinstance(name, str) and name in _OTHERS:
        return np.dtype(getattr(ml_dtypes, name))
    try:
        kind = np.dtype(name) if isinstance(name, str) and len(name) < 16 else None
    except (TypeError, ValueError):
        kind = None
    if kind is None or kind.newbyteorder("=").name not in _REAL:
        raise CheckpointError(f"{where}: an array of {name!r:.40}; expected a real number type")
    return kind


def _filled(value: Any, kind: np.dtype, where: str) -> Any:
    if value is None:
        return None
    try:
        return np.array(value, kind.newbyteorder("="))[()]
    except (TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{where}: fill_value is {value!r:.40}; expected a number of {kind}") from None


def _version2(name: str, meta: Mapping[str, Any], where: str) -> Leaf:
    packed, kind = meta.get("compressor"), _kind(meta.get("dtype"), where)
    if packed is not None and not (isinstance(packed, dict) and packed.get("id") == "zstd"):
        raise CheckpointError(f"{where}: compressed by {packed!r:.60}; expected zstd, or nothing")
    if meta.get("filters") or meta.get("order") not in ("C", "F"):
        raise CheckpointError(f"{where}: expected no filters and the order C or F, found {meta!r:.200}")
    separator = meta.get("dimension_separator", ".")
    shape = _sizes(meta.get("shape"), "shape", where)
    chunk = _sizes(meta.get("chunks"), "chunks", where, 1)
    if not _divides(shape, chunk) or separator not in (".", "/"):
        raise CheckpointError(
            f"{where}: chunks {list(chunk)} of shape {list(shape)}; expected them to be parts of it"
        )
    fill = _filled(meta.get("fill_value"), kind, where)
    return Leaf(
        name, shape, kind, chunk, None, packed is not None, fill, str(meta["order"]), separator, f"{name}/"
    )


def _version3(name: str, meta: Mapping[str, Any], where: str) -> Leaf:
    def configured(value: Any, named: str) -> Mapping[str, Any]:
        if not isinstance(value, dict) or value.get("name") != named:
            raise CheckpointError(f"{where}: expected {named}, found {value!r:.100}")
        inside = value.get("configuration", {})
        return inside if isinstance(inside, dict) else {}

    kind = _kind(meta.get("data_type"), where)
    shape = _sizes(meta.get("shape"), "shape", where)
    chunk = _sizes(configured(meta.get("chunk_grid"), "regular").get("chunk_shape"), "chunks", where, 1)
    separator = configured(meta.get("chunk_key_encoding"), "default").get("separator", "/")
    codecs, inner = meta.get("codecs"), None
    if _names(codecs) == ["sharding_indexed"]:
        shards = configured(codecs[0], "sharding_indexed")  # type: ignore[index]
        inner = _sizes(shards.get("chunk_shape"), "chunks of a shard", where, 1)
        if shards.get("index_location", "end") != "end" or _names(shards.get("index_codecs")) != [
            "bytes",
            "crc32c",
        ]:
            raise CheckpointError(
                f"{where}: a shard's index is {shards!r:.200}; expected it at the end, with crc32c"
            )
        codecs = shards.get("codecs")
    names = _names(codecs)
    if names not in (["bytes"], ["bytes", "zstd"]):
        raise CheckpointError(
            f"{where}: codecs {', '.join(names) or repr(codecs)[:60]}; expected bytes, zstd or not"
        )
    if configured(codecs[0], "bytes").get("endian", "little") == "big":  # type: ignore[index]
        kind = kind.newbyteorder(">")
    fits = inner is None or (
        len(inner) == len(chunk) and not any(c % i for c, i in zip(chunk, inner, strict=True))
    )
    if not _divides(shape, chunk) or not fits or separator not in (".", "/"):
        raise CheckpointError(
            f"{where}: chunks {list(chunk)}, {inner and list(inner)} do not divide {list(shape)}"
        )
    fill = _filled(meta.get("fill_value"), kind, where)
    prefix = f"{name}/c{separator}" if shape else f"{name}/c"
    return Leaf(name, shape, kind, chunk, inner, "zstd" in names, fill, "C", separator, prefix)


def _divides(shape: tuple[int, ...], chunk: tuple[int, ...]) -> bool:
    return len(chunk) == len(shape) and all(c <= max(n, 1) for n, c in zip(shape, chunk, strict=True))


def _names(codecs: Any) -> list[str]:
    return (
        [str(c.get("name")) if isinstance(c, dict) else "?" for c in codecs]
        if isinstance(codecs, list)
        else []
    )


def _grid(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(-(-n // c)) for n, c in zip(shape, chunk, strict=True)))


def _key(leaf: Leaf, at: tuple[int, ...]) -> str:
    if not leaf.shape:
        return leaf.prefix if leaf.prefix.endswith("/c") else f"{leaf.prefix}0"
    return leaf.prefix + leaf.separator.join(map(str, at))


def read_leaf(store: Store, leaf: Leaf, room: Room, where: str) -> np.ndarray:
    """The array: a view on the file where one uncompressed chunk is all of it.

    Raises:
        CheckpointError: a chunk is missing, too short or too long.
    """
    where = f"{where}: {leaf.name!r}"
    native = leaf.dtype.newbyteorder("=")
    count = math.prod(-(-n // c) for n, c in zip(leaf.shape, leaf.chunk, strict=True))
    if count > store.count + (0 if leaf.fill is None else _MISSING):
        raise CheckpointError(
            f"{where}: shape {list(leaf.shape)} in chunks of {list(leaf.chunk)} needs {count} of them, and the "
            f"checkpoint has {store.count} keys; the file is damaged"
        )
    grid = _grid(leaf.shape, leaf.chunk)
    if count == 1 and leaf.dtype == native and leaf.order == "C":
        start = (0,) * len(leaf.shape)
        ((offset, shape, raw), *more) = _piece(store, leaf, start, where)
        if raw is not None and shape == leaf.shape and not more:
            if not leaf.zstd:
                return _shaped(raw, leaf, shape, where)
            whole = room(leaf.shape, native)
            _unpack(raw, whole, where)
            whole.flags.writeable = False
            return whole
        grid = iter([start])
    out = room(leaf.shape, native)
    for at in grid:
        start = tuple(i * c for i, c in zip(at, leaf.chunk, strict=True))
        for offset, shape, raw in _piece(store, leaf, at, where):
            _put(out, [s + o for s, o in zip(start, offset, strict=True)], shape, raw, leaf, where)
    out.flags.writeable = False
    return out


def _present(store: Store, leaf: Leaf, at: tuple[int, ...], where: str) -> str:
    key = _key(leaf, at)
    if not store.has(key):
        raise CheckpointError(
            f"{where}: the chunk {key!r} is missing; the checkpoint is damaged or incomplete"
        )
    return key


# (offset in a chunk, shape, bytes or None for the fill value) of each of its parts.
Pieces = list[tuple[tuple[int, ...], tuple[int, ...], "memoryview | None"]]


def _piece(store: Store, leaf: Leaf, at: tuple[int, ...], where: str) -> Pieces:
    start = (0,) * len(leaf.shape)
    if leaf.fill is not None and not store.has(_key(leaf, at)):
        return [(start, leaf.chunk, None)]
    raw = store.get(_present(store, leaf, at, where))
    return [(start, leaf.chunk, raw)] if leaf.inner is None else _shard(raw, leaf, leaf.inner, where)


def _shard(raw: memoryview, leaf: Leaf, inner: tuple[int, ...], where: str) -> Pieces:
    count = math.prod(c // i for c, i in zip(leaf.chunk, inner, strict=True))
    size = 16 * count + 4
    if size > len(raw):
        raise CheckpointError(
            f"{where}: a shard of {len(raw)} bytes has no room for the index of {count} chunks"
        )
    index = bytes(raw[len(raw) - size :])
    if _crc32c(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise CheckpointError(f"{where}: the index of a shard has another checksum; the file is damaged")
    table = np.frombuffer(index[:-4], "<u8").reshape(count, 2)
    out: Pieces = []
    for (begin, length), at in zip(table.tolist(), _grid(leaf.chunk, inner), strict=True):
        start = tuple(i * c for i, c in zip(at, inner, strict=True))
        if begin == length == (1 << 64) - 1:
            if leaf.fill is None:
                raise CheckpointError(f"{where}: a chunk of a shard is missing; the checkpoint is damaged")
            out.append((start, inner, None))
        elif begin + length > len(raw) - size:
            raise CheckpointError(f"{where}: a chunk of a shard lies outside it; the file is damaged")
        else:
            out.append((start, inner, raw[begin : begin + length]))
    return out


def _put(
    out: np.ndarray,
    begin: Sequence[int],
    shape: tuple[int, ...],
    raw: memoryview | None,
    leaf: Leaf,
    where: str,
) -> None:
    """Chunks at the border reach beyond the array; that part of them is left out."""
    if any(b >= n for b, n in zip(begin, out.shape, strict=True)):
        return
    ends = [min(b + n, m) for b, n, m in zip(begin, shape, out.shape, strict=True)]
    target = tuple(slice(b, e) for b, e in zip(begin, ends, strict=True))
    if raw is None:
        out[target] = leaf.fill
        return
    if leaf.zstd:
        flat = np.empty(math.prod(shape), leaf.dtype)
        _unpack(raw, flat, where)
        raw = flat.view(np.uint8).data
    out[target] = _shaped(raw, leaf, shape, where)[
        tuple(slice(0, e - b) for b, e in zip(begin, ends, strict=True))
    ]


def _shaped(raw: memoryview, leaf: Leaf, shape: tuple[int, ...], where: str) -> np.ndarray:
    size = math.prod(shape) * leaf.dtype.itemsize
    if len(raw) != size:
        raise CheckpointError(
            f"{where}: a chunk {list(shape)} of {leaf.dtype} expected {size} bytes, found {len(raw)}; the file is "
            "damaged"
        )
    return np.frombuffer(raw, leaf.dtype).reshape(shape, order=leaf.order)  # type: ignore[call-overload,no-any-return]


def _unpack(raw: memoryview, out: np.ndarray, where: str) -> None:
    """Unpack zstd into ``out``, to its last byte and no further."""
    zstandard = needed("zstandard", "orbax", where)
    view = out.reshape(-1).view(np.uint8).data
    size, done = len(view), 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(raw) as reader:
            while done < size and (n := reader.readinto(view[done:])):
                done += n
            more = len(reader.read(1))
    except (zstandard.ZstdError, MemoryError) as error:
        raise CheckpointError(f"{where}: a chunk does not unpack: {error}; the file is damaged") from None
    if done < size or more:
        found = f"{done}" if done < size else f"more than {size}"
        raise CheckpointError(
            f"{where}: a chunk expected {size} bytes unpacked, found {found}; the file is damaged"
        )


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    out = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        out.append(n)
    return out


_TABLE = _table()
