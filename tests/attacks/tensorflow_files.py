"""TensorFlow checkpoints that lie, every checksum of which is right."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from tests.attacks.attack import SECRET_FILE, attack, file
from tests.attacks.other_files import DATA, copied, field, linked, varint

_MAGIC = 0xDB4775248B80FB57
_SHARD = "hostile.data-00000-of-00001"
_GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"
Entries = dict[bytes, bytes]


def masked(data: bytes) -> int:
    """The checksum of ``data`` as these files keep it."""
    from optexport.converters.keras import _crc32c

    return _crc32c.masked(_crc32c.crc32c(data))


def block(entries: list[tuple[int, bytes, bytes]], restarts: int = 1) -> bytes:
    """(bytes shared with the key before, rest of the key, value); with its trailer."""
    body = b"".join(varint(n) + varint(len(k)) + varint(len(v)) + k + v for n, k, v in entries)
    body += bytes(4) + struct.pack("<I", restarts)
    return sealed(body)


def sealed(body: bytes) -> bytes:
    return body + b"\0" + struct.pack("<I", masked(body + b"\0"))


def handle(offset: int, size: int) -> bytes:
    return varint(offset) + varint(size)


def table(*blocks: bytes, listed: list[bytes] | None = None) -> bytes:
    """The file of these data blocks. listed: handles in the index instead of theirs."""
    at, handles = 0, []
    for held in blocks:
        handles.append(handle(at, len(held) - 5))
        at += len(held)
    index = block([(0, b"%07d" % i, h) for i, h in enumerate(handles if listed is None else listed)])
    footer = handle(0, 0) + handle(at, len(index) - 5)
    return b"".join(blocks) + index + footer.ljust(40, b"\0") + struct.pack("<Q", _MAGIC)


def bundle(entries: Entries) -> bytes:
    return table(block([(0, key, entries[key]) for key in sorted(entries)]))


def sample() -> Entries:
    from optexport.converters.keras._tensor_bundle import Bundle

    return dict(Bundle(str(DATA / "tf_checkpoint" / "adam"))._table())


def entry(
    kind: int = 1,
    shape: tuple[int, ...] = (4,),
    shard: int = 0,
    offset: int = 0,
    size: int = 16,
    crc: int = 0,
) -> bytes:
    """BundleEntryProto."""
    axes = b"".join(field(2, b"\x08" + varint(n & (1 << 64) - 1)) for n in shape)
    out = b"\x08" + varint(kind) + field(2, axes) + b"\x18" + varint(shard & (1 << 64) - 1)
    out += b"\x20" + varint(offset & (1 << 64) - 1) + b"\x28" + varint(size & (1 << 64) - 1)
    return out + b"\x35" + struct.pack("<I", crc)


def variables(lie: bytes) -> Callable[[], Entries]:
    """The sample, every variable of which is described by ``lie``."""

    def made() -> Entries:
        return {k: lie if k.endswith(b"VARIABLE_VALUE") else v for k, v in sample().items()}

    return made


def described(header: bytes) -> Callable[[], Entries]:
    """The sample with another description of the whole."""
    return lambda: {**sample(), b"": header}


ENTRIES: dict[str, tuple[Callable[[], Entries], str]] = {
    "shard_that_is_not_there": (variables(entry(shard=7)), "is in shard 7 of 1"),
    "shard_below_zero": (variables(entry(shard=-1)), "is in shard 18446744073709551615 of 1"),
    "shards_of_a_huge_number": (described(b"\x08" + varint(1 << 40)), "expected a number of shards, found 1099511627776"),
    "shards_of_none": (described(b""), "expected a number of shards, found 0"),
    "big_endian": (described(b"\x08\x01\x10\x01"), "expected a little-endian bundle"),
    "without_a_header": (lambda: {k: v for k, v in sample().items() if k}, "the bundle's header is missing"),
    "offset_beyond_the_shard": (variables(entry(offset=1 << 60)), "expected 16 bytes at 1152921504606846976 of its shard"),
    "offset_below_zero": (variables(entry(offset=-8)), "expected 16 bytes at -8 of its shard"),
    "size_of_another_shape": (variables(entry(size=12)), "expected 16 bytes for float32 [4], found 12"),
    "size_below_zero": (variables(entry(size=-16)), "expected 16 bytes for float32 [4], found -16"),
    "dimensions_that_overflow": (variables(entry(shape=(1 << 32, 1 << 32), size=0)), "a shape that an array can have"),
    "empty_of_huge_sizes": (variables(entry(shape=(0, 1 << 62, 1 << 62), size=0)), "a shape that an array can have"),
    "negative_dimension": (variables(entry(shape=(-2, -2))), "expected a size of an axis, found -2"),
    "very_many_dimensions": (variables(entry(shape=(1,) * 100_000, size=4)), "has more than 32 axes"),
    "resource": (variables(entry(kind=20)), "expected a tensor of numbers, found TensorFlow's dtype 20"),
    "text_as_a_variable": (variables(entry(kind=7)), "expected a tensor of numbers, found TensorFlow's dtype 7"),
    "slices": (variables(entry() + field(7, b"")), "found slices of a partitioned variable"),
    "checksum_of_other_bytes": (variables(entry(crc=1)), "bytes do not have the checksum of the index"),
    "entry_that_is_cut": (variables(b"\x12\x7f"), "a field of 127 bytes is cut"),
    "entry_of_an_endless_number": (variables(b"\x08" + b"\xff" * 64), "a number is cut"),
}  # fmt: skip


def _written(folder: Path, index: bytes) -> Path:
    """The sample with another index; named as TensorFlow names a checkpoint, by what its files have in common."""
    copied("tf_checkpoint/adam.index", folder)
    file(folder, "hostile.index", index)
    return folder / "hostile"


for _name, (_make, _says) in ENTRIES.items():

    def _build(folder: Path, make: Callable[[], Entries] = _make) -> Path:
        return _written(folder, bundle(make()))

    attack(_says, format="tensorflow", name=f"tensorflow_{_name}")(_build)


_ONE = block([(0, b"", b"\x08\x01"), (0, b"w", entry())])
_ENDLESS = sealed(bytes(4_000_000) + struct.pack("<I", 1_000_000))
TABLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "block_beyond_the_file": (lambda: table(_ONE, listed=[handle(0, 1 << 40)]), "is not inside the file"),
    "block_behind_all_numbers": (lambda: table(_ONE, listed=[handle((1 << 64) - 1, 8)]), "is not inside the file"),
    "block_of_nothing": (lambda: table(_ONE, listed=[handle(0, 0)]), "is not inside the file"),
    "block_listed_again": (
        # Nothing is in it, and its checksum takes long.
        lambda: table(_ENDLESS, listed=[handle(0, len(_ENDLESS) - 5)] * 5000), "its blocks have more bytes together",
    ),
    "restarts_of_more_than_fit": (lambda: table(block([(0, b"w", entry())], 1 << 30)), "restarts, more than fit"),
    "key_that_shares_what_there_is_not": (lambda: table(block([(9, b"w", entry())])), "has an entry that does not fit"),
    "value_longer_than_its_block": (
        lambda: table(sealed(b"\0\1" + varint(1 << 62) + b"w" + bytes(4) + struct.pack("<I", 1))),
        "has an entry that does not fit",
    ),
    "key_that_grows": (
        lambda: table(block([(0, b"a" * 65_536, b""), (65_536, b"b", b"")])), "a key of 65537 bytes",
    ),
    "keys_that_share_nearly_all": (
        lambda: table(block([(0, b"a" * 60_000, b""), *((59_990, b"%010d" % i, b"") for i in range(100_000))])),
        "the names of its tensors take more than 67108864 bytes",
    ),
    "one_key_twice": (lambda: table(block([(0, b"w", entry()), (0, b"w", entry())])), "two tensors are called 'w'"),
    "key_of_control_characters": (lambda: table(block([(0, b"w\x1b[2J", entry())])), "a tensor is called"),
}  # fmt: skip
for _name, (_table, _says) in TABLES.items():

    def _index(folder: Path, make: Callable[[], bytes] = _table) -> Path:
        return _written(folder, make())

    attack(_says, format="tensorflow", name=f"tensorflow_{_name}", once=_name.endswith(("again", "all")))(
        _index
    )


def node(*children: tuple[str, int], key: str = "") -> bytes:
    """TrackableObject."""
    out = b"".join(field(1, b"\x08" + varint(at) + field(2, name.encode())) for name, at in children)
    held = field(1, b"VARIABLE_VALUE") + field(2, b"v") + field(3, key.encode())
    return field(1, out + (field(2, held) if key else b""))


def _with_graph(folder: Path, graph: bytes) -> Path:
    """The sample with other objects, a string of the shard with the checksums that belong to it."""
    lengths = struct.pack("<I", len(graph))
    told = struct.pack("<I", masked(lengths))
    text = varint(len(graph)) + told + graph
    place = (DATA / "tf_checkpoint" / "adam.data-00000-of-00001").stat().st_size
    told_all = masked(lengths + told + graph)
    path = _written(
        folder, bundle({**sample(), _GRAPH: entry(7, (), offset=place, size=len(text), crc=told_all)})
    )
    with open(folder / _SHARD, "ab") as shard:
        shard.write(text)
    return path


GRAPHS: dict[str, tuple[Callable[[], bytes], str]] = {
    "objects_that_are_not_there": (lambda: node(("_iterations", 9)), "an object refers to one that there is not"),
    "object_in_itself": (
        lambda: node(("_iterations", 0), ("_variables", 0), ("0", 0)), "expected a tensor '', found none",
    ),
    "tensor_that_is_not_there": (
        lambda: node(("_iterations", 1), ("_variables", 2)) + node(key=f"../{SECRET_FILE}") + node(("0", 1)),
        "expected a tensor '../secret.bin', found none",
    ),
    "two_optimizers": (
        lambda: node(("_iterations", 1)) * 2, "expected one optimizer, found 2",
    ),
    "no_optimizer": (lambda: node(("model", 0)), "expected one optimizer, found none"),
    "objects_that_are_cut": (lambda: b"\x0a\x7f", "a field of 127 bytes is cut"),
    "very_many_objects": (lambda: b"\x0a\x00" * 4_000_000, "expected at most 300000 objects, found more"),
}  # fmt: skip
for _name, (_objects, _says) in GRAPHS.items():

    def _graph(folder: Path, make: Callable[[], bytes] = _objects) -> Path:
        return _with_graph(folder, make())

    attack(_says, format="tensorflow", name=f"tensorflow_{_name}", once=_name.startswith("very"))(_graph)


@attack("is a link that leads out of its folder", format="tensorflow")
def tensorflow_data_behind_a_link(folder: Path) -> Path:
    path = copied("tf_checkpoint/adam.index", folder)
    linked(folder / _SHARD)
    return path


@attack("found blocks compressed with method 255", format="tensorflow")
def tensorflow_index_of_noise(folder: Path) -> Path:
    raw = bytearray((DATA / "tf_checkpoint" / "adam.index").read_bytes())
    raw[: len(raw) - 48] = bytes([255]) * (len(raw) - 48)
    return _written(folder, bytes(raw))


@attack("does not have its checksum", format="tensorflow")
def tensorflow_index_of_another_byte(folder: Path) -> Path:
    raw = bytearray((DATA / "tf_checkpoint" / "adam.index").read_bytes())
    raw[20] ^= 1
    return _written(folder, bytes(raw))
