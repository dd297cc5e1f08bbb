"""PyTorch's files: zips that are no honest zips, tensors that are not in them, directories that lead elsewhere."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any

from optexport.state.pickles import Global, NewObj, Reduce, dumps
from tests.attacks.attack import SECRET_FILE, attack, deflated_bomb, file
from tests.converters.torch.making import FOUR, META, dcp, optimizer, save, tensor

DATA = Path(__file__).parents[1] / "data"
MOMENT = {"momentum_buffer": tensor("0", (4,), (1,), count=4)}


def _patched(path: Path, mark: bytes, at: int, layout: str, *values: int, which: int = 0) -> Path:
    """``values`` written ``at`` bytes after the ``which``-th record that starts with ``mark``."""
    raw = bytearray(path.read_bytes())
    places = [i for i in range(len(raw)) if raw.startswith(mark, i)]
    struct.pack_into(layout, raw, places[which] + at, *values)
    path.write_bytes(raw)
    return path


@attack("occurs twice; refused", format="torch")
def zip_two_members_of_one_name(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save(folder / "hostile.pt", optimizer(MOMENT), FOUR, {"archive/data.pkl": dumps({})})


@attack("holds 2 members called ROOT/data.pkl", format="torch")
def zip_two_roots(folder: Path) -> Path:
    return save(folder / "hostile.pt", optimizer(MOMENT), FOUR, {"other/data.pkl": dumps({})})


@attack("is outside the root folder", format="torch")
def zip_member_that_climbs_out(folder: Path) -> Path:
    return save(folder / "hostile.pt", optimizer(MOMENT), FOUR, {"../../canary": b"x"})


@attack("is compressed; torch.save stores members as they are", format="torch", once=True)
def zip_bomb(folder: Path) -> Path:
    huge = {"m": tensor("0", (1 << 28,), (1,), count=1 << 28)}
    members = {"archive/data.pkl": dumps(optimizer(huge), 2), "archive/data/0": (b"", 1 << 30)}
    return deflated_bomb(folder / "hostile.pt", members)


@attack("is encrypted; refused", format="torch")
def zip_encrypted(folder: Path) -> Path:
    return _patched(save(folder / "hostile.pt", optimizer(MOMENT), FOUR), b"PK\x01\x02", 8, "<H", 1)


@attack("the zip archive is damaged", format="torch")
def zip_member_longer_than_the_file(folder: Path) -> Path:
    path = save(folder / "hostile.pt", optimizer(MOMENT), FOUR)
    return _patched(path, b"PK\x01\x02", 20, "<II", 1 << 30, 1 << 30)


@attack("members overlap", format="torch")
def zip_members_that_overlap(folder: Path) -> Path:
    path = save(folder / "hostile.pt", optimizer(MOMENT), FOUR)
    size = struct.unpack_from("<I", path.read_bytes(), path.read_bytes().index(b"PK\x01\x02") + 24)[0]
    return _patched(path, b"PK\x01\x02", 20, "<II", size + 8, size + 8)


@attack("the zip archive is damaged", format="torch")
def zip_that_counts_members_it_has_not(folder: Path) -> Path:
    path = save(folder / "hostile.pt", optimizer(MOMENT), FOUR)
    return _patched(path, b"PK\x05\x06", 8, "<HH", 60000, 60000)


@attack("the zip archive is damaged", format="torch")
def zip64_with_a_directory_beyond_everything(folder: Path) -> Path:
    path = save(folder / "hostile.pt", optimizer(MOMENT), FOUR)
    raw = path.read_bytes()
    end = raw.index(b"PK\x05\x06")
    wide = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 60, 1 << 62)
    wide += struct.pack("<IIQI", 0x07064B50, 0, end, 1)
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return file(folder, "hostile.pt", raw[:end] + wide + tail)


@attack("does not match its checksum", format="torch")
def zip_pickle_with_a_wrong_checksum(folder: Path) -> Path:
    raw = bytearray(save(folder / "hostile.pt", optimizer(MOMENT), FOUR).read_bytes())
    raw[raw.index(b"momentum")] ^= 1
    return file(folder, "hostile.pt", bytes(raw))


@attack("holds 1100000 members; expected at most 1000000", format="torch", once=True)
def zip_with_very_many_members(folder: Path) -> Path:
    """A central directory of more than a million entries, all of one member."""
    path = save(folder / "hostile.pt", optimizer(MOMENT), FOUR)
    raw = path.read_bytes()
    first, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    count = 1_100_000
    many = raw[first : raw.index(b"PK\x01\x02", first + 4)] * count
    wide = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(many), first)
    wide += struct.pack("<IIQI", 0x07064B50, 0, first + len(many), 1)
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert end > first
    return file(folder, "hostile.pt", raw[:first] + many + wide + tail)


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "stride_0": ({"size": (1 << 15, 1 << 15), "stride": (0, 0)}, "has stride 0"),
    "negative_stride": ({"size": (4,), "stride": (-1,)}, "the strides of a tensor hold -1"),
    "negative_offset": ({"size": (4,), "stride": (1,), "offset": -4}, "the offset of a tensor hold -4"),
    "beyond_the_storage": ({"size": (4,), "stride": (1 << 40,)}, "needs 3298534883329 elements; storage 0 has 4"),
    "dimensions_that_overflow": ({"size": (1 << 32, 1 << 32), "stride": (1, 1)}, "which no array can have"),
    "storage_that_is_not_there": ({"size": (4,), "stride": (1,), "count": 1 << 33}, "should hold 34359738368 bytes"),
    "empty_of_huge_sizes": ({"size": (0, 1 << 47, 1 << 47), "stride": (1, 1, 1)}, "which no array can have"),
    "overlapping_itself": (
        {"size": (2,) * 30, "stride": (1,) * 30, "count": 40}, "needs 1073741824 elements; storage 0 has 40",
    ),
}  # fmt: skip
for _name, (_fields, _says) in TENSORS.items():

    def _build(folder: Path, fields: dict[str, Any] = _fields) -> Path:
        lie = tensor("0", **{"count": 4, **fields})
        held = {"0": bytes(160)} if fields.get("count") == 40 else FOUR
        return save(folder / "hostile.pt", optimizer({"momentum_buffer": lie}), held)

    attack(_says, format="torch", name=f"tensor_{_name}")(_build)


@attack("has no member data/../../secret.bin", format="torch")
def storage_named_as_a_path(folder: Path) -> Path:
    lie = tensor("../../" + SECRET_FILE, (4,), (1,), count=4)
    return save(folder / "hostile.pt", optimizer({"momentum_buffer": lie}), FOUR)


@attack("it is rebuilt by", format="torch")
def tensor_rebuilt_by_a_function_of_the_files_choice(folder: Path) -> Path:
    lie = Reduce(
        Global("torch._tensor", "_rebuild_from_type_v2"),
        (Global("torch", "Size"), 1, (("touch canary",),), {}),
    )
    return save(folder / "hostile.pt", lie)


@attack("truncated at byte", format="torch")
def legacy_that_counts_storages_it_has_not(folder: Path) -> Path:
    raw = (DATA / "torch" / "adam_legacy.pt").read_bytes()
    return file(folder, "hostile.pt", raw[:-40])


@attack("has -1 elements", format="torch")
def legacy_storage_of_a_negative_length(folder: Path) -> Path:
    """Every int64 count near the end becomes negative: the first storage that is read says so."""
    raw = bytearray((DATA / "torch" / "adam_legacy.pt").read_bytes())
    at = raw.rindex(b".") + 1
    for place in range(len(raw) // 2, len(raw) - 8):
        if raw[place : place + 8] in (struct.pack("<q", n) for n in (1, 4, 8, 12, 16, 32, 64, 128)):
            raw[place : place + 8] = struct.pack("<q", -1)
    assert at
    return file(folder, "hostile.pt", bytes(raw))


# -- directories of distributed checkpoints ---------------------------------------------------------


def _dcp(folder: Path, size: Any = (4,), chunks: Any = (((0,), (4,)),)) -> Path:
    return dcp(folder / "hostile", tuple(size), list(chunks))


def _said_elsewhere(folder: Path, name: str) -> Path:
    """The index says that the bytes are in the file ``name``."""
    made = _dcp(folder)
    raw = (made / ".metadata").read_bytes()
    old, new = b"__0_0.distcp", name.encode()
    for width, layout in ((1, b"\x8c"), (4, b"X")):
        raw = raw.replace(layout + len(old).to_bytes(width, "little") + old,
                          layout + len(new).to_bytes(width, "little") + new)  # fmt: skip
    assert new in raw
    file(made, ".metadata", raw)
    return made


for _name, _path in {
    "above": f"../../{SECRET_FILE}",
    "absolute": "/etc/passwd",
    "of_a_drive": "C:\\secret.bin",
    "nowhere": "",
    "itself": ".",
    "with_a_nul": "__0_0.distcp\0x",
}.items():

    def _elsewhere(folder: Path, path: str = _path) -> Path:
        return _said_elsewhere(folder, path)

    attack("is not inside the directory; refused", name=f"dcp_data_{_name}")(_elsewhere)


@attack("symbolic link; refused")
def dcp_data_behind_a_link(folder: Path) -> Path:
    made = _dcp(folder)
    os.replace(made / "__0_0.distcp", folder / "elsewhere")
    (made / "__0_0.distcp").symlink_to(folder / "elsewhere")
    return made


@attack(".metadata: is a symbolic link; refused")
def dcp_index_behind_a_link(folder: Path) -> Path:
    made = _dcp(folder)
    os.replace(made / ".metadata", folder / "elsewhere")
    (made / ".metadata").symlink_to(folder / "elsewhere")
    return made


@attack("regular file")
def dcp_data_is_a_pipe(folder: Path) -> Path:
    made = _dcp(folder)
    (made / "__0_0.distcp").unlink()
    os.mkfifo(made / "__0_0.distcp")
    return made


@attack("two chunks of optim.state.w.m overlap")
def dcp_chunks_that_overlap(folder: Path) -> Path:
    return _dcp(folder, (4, 4), [((0, 0), (2, 4)), ((1, 0), (2, 4))])


@attack("do not cover")
def dcp_chunks_with_a_hole(folder: Path) -> Path:
    return _dcp(folder, (4,), [((0,), (1,)), ((2,), (2,))])


@attack("do not cover")
def dcp_tensor_far_larger_than_its_chunks(folder: Path) -> Path:
    return _dcp(folder, (1 << 40,), [((0,), (4,))])


@attack("two chunks of w overlap", once=True)
def dcp_very_many_chunks(folder: Path) -> Path:
    """Whoever compares each with each takes for ever; the last two are one."""
    made = _dcp(folder)
    count = 80_000

    def dims(value: int) -> bytes:
        return b"ctorch\nSize\n(J" + struct.pack("<i", value) + b"t\x85R"

    def entry(name: str, **state: Any) -> NewObj:
        return NewObj(Global(META, name), state=state)

    head = b"c" + META.encode() + b"\nChunkStorageMetadata\n)\x81}(\x8c\x07offsets"
    sizes = b"\x8c\x05sizes" + dims(1) + b"ub"
    chunks = b"".join(head + dims(min(i, count - 2)) + sizes for i in range(count))
    properties = NewObj(
        Global(META, "TensorProperties"), state=(Global("torch", "float32"), None, False, None, False)
    )
    shape = Reduce(Global("torch", "Size"), ((count,),))
    tensors = {"w": entry("TensorStorageMetadata", properties=properties, size=shape, chunks="HERE")}
    index = entry("Metadata", state_dict_metadata=tensors, planner_data=None, storage_data={})
    raw = dumps(index, 4)
    assert raw.count(b"\x8c\x04HERE\x94") == 1
    file(made, ".metadata", raw.replace(b"\x8c\x04HERE\x94", b"]\x94(" + chunks + b"e"))
    return made


@attack("should be float32 (4,) and is float32 (2,)")
def dcp_chunk_of_another_shape(folder: Path) -> Path:
    return dcp(folder / "hostile", (4,), [((0,), (4,))], stored_as=(2,))
