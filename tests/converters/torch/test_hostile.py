"""Hostile and damaged files are refused with a cause."""

from __future__ import annotations

import contextlib
import struct
import zipfile

import pytest

from optexport.converters.torch.checkpoint import read
from optexport.errors import CheckpointError
from optexport.state.pickles import Global, NewObj, Persistent, Reduce

from .making import DATA, FILES, FOUR, optimizer, refused, save, tensor

# -- hostile and damaged files ----------------------------------------------------------------------


def test_the_path_to_running_code_is_closed(tmp_path):
    for index, data in enumerate((b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
                                  b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.")):  # fmt: skip
        path = save(tmp_path / f"{index}.pt", data)
        assert "os.system, which is not on the closed list; nothing was executed" in refused(path)
    dotted = b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93\x8c\x02ls\x85R."
    assert "dotted or empty name" in refused(save(tmp_path / "dotted.pt", dotted))
    module = NewObj(Global("torch.nn.modules.linear", "Linear"), state={"training": True})
    path = save(tmp_path / "module.pt", {"model": module, "optimizer": optimizer({})})
    assert "torch.nn.modules.linear.Linear, which is not on the closed list" in refused(path)
    rebuilt = Reduce(
        Global("torch._tensor", "_rebuild_from_type_v2"), (Global("torch", "Size"), 1, ((),), {})
    )
    assert "it is rebuilt by" in refused(save(tmp_path / "rebuilt.pt", rebuilt))


@pytest.mark.parametrize(
    "size, stride, offset, count, why",
    [
        ((10**6, 10**6), (0, 0), 0, 4, "has stride 0"),
        ((4,), (2,), 0, 4, "needs 7 elements; storage 0 has 4"),
        ((4,), (1,), 1, 4, "needs 5 elements"),
        ((3, 3), (1, 1), 0, 5, "should hold 20 bytes and holds 16"),
        ((2, 3), (1, 1), 0, 4, "needs 6 elements"),
        ((2,), (-1,), 0, 4, "the strides of a tensor hold -1"),
        ((-2,), (1,), 0, 4, "the sizes of a tensor hold -2"),
        ((2,), (1,), -1, 4, "the offset of a tensor hold -1"),
        ((True,), (1,), 0, 4, "the sizes of a tensor hold True"),
        ((2**60,), (1,), 0, 4, "the sizes of a tensor hold 1152921504606846976"),
        ((2,), (1, 1), 0, 4, "has 1 sizes and 2 strides"),
        ((1,) * 40, (1,) * 40, 0, 4, "the sizes of a tensor are a tuple of 40"),
        ((4,), (1,), 0, 10**9, "should hold 4000000000 bytes and holds 16"),
        ((4,), (1,), 0, 10**18, "claims 1000000000000000000 elements"),
        ("ab", (1,), 0, 4, "the sizes of a tensor are ab; expected a tuple"),
    ],
)
def test_tensors_that_reach_beyond_their_storage(tmp_path, size, stride, offset, count, why):
    value = optimizer({"m": tensor("0", size, stride, offset=offset, count=count)})
    assert why in refused(save(tmp_path / "a.pt", value, FOUR))


def test_messages_name_parameter_and_slot(tmp_path):
    path = save(tmp_path / "a.pt", optimizer({"m": tensor("0", (5,), (1,), count=4)}), FOUR)
    assert "state of parameter 0, slot m: a tensor of sizes (5,)" in refused(path)


def test_storages_that_are_not_there_or_not_storages(tmp_path):
    assert "no member data/../secret" in refused(
        save(tmp_path / "a.pt", optimizer({"m": tensor("../secret", (4,), (1,), count=4)}), FOUR)
    )
    assert "a persistent id is" in refused(save(tmp_path / "b.pt", optimizer({"m": Persistent("x")})))
    path = save(tmp_path / "c.pt", optimizer({"m": Persistent(("storage", 1, "0", "cpu", 4))}), FOUR)
    assert "a storage is named by 1" in refused(path)


def test_zip_tricks_are_refused(tmp_path):
    value = optimizer({"m": tensor("0", (4,), (1,), count=4)})
    path = save(tmp_path / "deflated.pt", value, FOUR, method=zipfile.ZIP_DEFLATED)
    assert "is compressed; torch.save stores members as they are" in refused(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        save(tmp_path / "twice.pt", value, FOUR, {"archive/data/0": b"other bytes here"})
    assert "member archive/data/0 occurs twice" in refused(tmp_path / "twice.pt")
    path = save(tmp_path / "roots.pt", value, FOUR, {"other/data.pkl": b"\x80\x02N."})
    assert "holds 2 members called ROOT/data.pkl" in refused(path)
    path = save(tmp_path / "outside.pt", value, FOUR, {"evil": b""})
    assert "member evil is outside the root folder archive/" in refused(path)
    raw = bytearray(save(tmp_path / "a.pt", value, FOUR).read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.pt").write_bytes(raw)
    assert "is encrypted; refused" in refused(tmp_path / "secret.pt")


def test_overlapping_members_are_refused(tmp_path):
    path = save(tmp_path / "a.pt", optimizer({"m": tensor("0", (4,), (1,), count=4)}), FOUR)
    raw = bytearray(path.read_bytes())
    first, second = (place for place in range(len(raw)) if raw[place : place + 4] == b"PK\x01\x02")
    raw[first + 20 : first + 28] = struct.pack("<II", *[struct.unpack_from("<I", raw, first + 24)[0] + 8] * 2)
    path.write_bytes(raw)
    assert "overlap" in refused(path)
    assert second > first


def test_a_changed_byte_is_found_in_the_pickle_always_and_in_tensors_on_request(tmp_path):
    source = (DATA / "torch" / "adam.pt").read_bytes()
    broken = bytearray(source)
    broken[source.index(b"exp_avg")] ^= 1
    (tmp_path / "pickle.pt").write_bytes(broken)
    assert "member data.pkl does not match its checksum" in refused(tmp_path / "pickle.pt")
    broken = bytearray(source)
    broken[source.index(read(DATA / "torch" / "adam.pt").slots["0"]["exp_avg"].tobytes())] ^= 1
    (tmp_path / "tensor.pt").write_bytes(broken)
    read(tmp_path / "tensor.pt")
    assert "member data/1 does not match its checksum" in refused(tmp_path / "tensor.pt", verify=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_truncation_anywhere_is_a_checkpoint_error(tmp_path, path):
    raw = path.read_bytes()
    for part in range(20):
        (tmp_path / "cut.pt").write_bytes(raw[: len(raw) * part // 20])
        refused(tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes(raw[:-1])
    refused(tmp_path / "cut.pt")


@pytest.mark.parametrize("name", ["adam", "adam_legacy", "checkpoint_combined"])
def test_flipped_bytes_give_a_state_or_a_checkpoint_error(tmp_path, name):
    raw = (DATA / "torch" / f"{name}.pt").read_bytes()
    for place in range(0, len(raw), 23):
        broken = bytearray(raw)
        broken[place] ^= 0xFF
        (tmp_path / "a.pt").write_bytes(broken)
        with contextlib.suppress(CheckpointError):
            read(tmp_path / "a.pt")


def test_legacy_traps(tmp_path):
    raw = (DATA / "torch" / "adam_legacy.pt").read_bytes()
    (tmp_path / "long.pt").write_bytes(raw + b"x")
    assert "1 bytes follow the last storage" in refused(tmp_path / "long.pt")
    (tmp_path / "cut.pt").write_bytes(raw[:-3])
    assert "truncated at byte" in refused(tmp_path / "cut.pt")
