"""The NDArray codec: MXNet's samples, MXNet itself, and files that lie."""

from __future__ import annotations

import io
import math
import re
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optexport.converters.mxnet.ndarray import DenseBudget, pack_record, read_list, read_record, write_list
from optexport.errors import CheckpointError

from .conftest import DATA, samples, sha256

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
LISTS = [sample for sample in samples() if sample["format"] == "mxnet-ndarray-list"]
ARRAYS = [
    np.arange(12).astype(dtype).reshape(3, 4)
    for dtype in ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", ml_dtypes.bfloat16)
]


def decode(data: bytes) -> tuple[np.ndarray | None, int]:
    return read_record(memoryview(data), 0, where="f: index 3, slot [0]", budget=DenseBudget(len(data)))


def record(shape: tuple[int, ...], data: bytes, *, flag: int = 0, magic: int = V2, storage: int = 0) -> bytes:
    head = struct.pack("<Iii", magic, storage, len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
    return head + struct.pack("<iii", 1, 0, flag) + data


def dims(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<i{len(shape)}q", len(shape), *shape)


def sparse(storage: int, stored: tuple[int, ...], shape: tuple[int, ...], *aux: list[int]) -> bytes:
    """A float32 record whose values are 1, 2, 3, …; aux: its index arrays."""
    out = struct.pack("<Ii", V2, storage) + dims(stored) + dims(shape) + struct.pack("<iii", 1, 0, 0)
    for indices in aux:
        out += struct.pack("<i", 6) + dims((len(indices),))
    out += np.arange(1, math.prod(stored) + 1, dtype="<f4").tobytes()
    return out + b"".join(struct.pack(f"<{len(i)}q", *i) for i in aux)


def listed(*records: bytes, names: tuple[bytes, ...] = ()) -> bytes:
    out = struct.pack("<QQQ", 0x112, 0, len(records)) + b"".join(records) + struct.pack("<Q", len(names))
    return out + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def refused(message: str, data: bytes, *, as_list: bool = False) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read_list(memoryview(data), file="f") if as_list else decode(data)
    assert str(caught.value).startswith("f: " if as_list else "f: index 3, slot [0]: ")
    assert "\n" not in str(caught.value)


# -- what is in the samples -----------------------------------------------------------------------


@pytest.mark.parametrize("sample", LISTS, ids=lambda sample: sample["id"])
def test_sample_lists(sample: dict[str, Any]) -> None:
    data = memoryview((DATA / sample["files"][0]).read_bytes())
    arrays = read_list(data, file="f")
    assert list(arrays) == [entry["param"] for entry in sample["weights"]]
    for entry in sample["weights"]:
        array = arrays[entry["param"]]
        assert (list(array.shape), array.dtype.name) == (entry["shape"], entry["dtype"]), entry["name"]
        assert sha256(array) == entry["sha256"], entry["name"]
        assert not array.flags.writeable and array.flags.aligned


def test_aligned_arrays_are_views() -> None:
    data = np.frombuffer((DATA / "v2_named.params").read_bytes(), np.uint8)
    arrays = read_list(memoryview(data), file="f")
    assert all(np.shares_memory(a, data) for n, a in arrays.items() if n.startswith("arg:"))


def test_scalars_and_empty_arrays_of_numpy_mode() -> None:
    arrays = read_list(memoryview((DATA / "v3_npshape.params").read_bytes()), file="f")
    assert arrays["scalar"].shape == () and arrays["scalar"] == np.float32(2.5)
    assert arrays["empty"].shape == (0, 3)


# -- records by hand ------------------------------------------------------------------------------


def test_old_records() -> None:
    body = np.arange(6, dtype="<f4").tobytes()
    v1 = struct.pack("<Iiqqiii", V1, 2, 2, 3, 1, 0, 0) + body
    v0 = struct.pack("<IIIiii", 2, 2, 3, 2, 1, 0) + body
    for data in (v1, v0):
        array, end = decode(data)
        assert array is not None and end == len(data)
        assert np.array_equal(array, np.arange(6, dtype="f4").reshape(2, 3))


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Iii", V2, 0, 0),
        struct.pack("<Iii", V2, -1, 0),
        struct.pack("<Iii", V3, 0, -1),
        struct.pack("<Ii", V1, 0),
        struct.pack("<I", 0),
    ],
    ids=["V2", "undefined", "unknown", "V1", "V0"],
)
def test_no_array(data: bytes) -> None:
    assert decode(data) == (None, len(data))


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.dtype.name)
@pytest.mark.parametrize("numpy_shape", [False, True])
def test_round_trip(array: np.ndarray, numpy_shape: bool) -> None:
    for layout in (array, array.T, array[::2, ::-1]):
        back, _ = decode(pack_record(layout, where="f", numpy_shape=numpy_shape))
        assert back is not None and back.dtype == array.dtype
        assert back.shape == layout.shape and back.tobytes() == layout.tobytes()


def test_big_endian_arrays_are_written_little() -> None:
    back, _ = decode(pack_record(np.arange(5, dtype=">f4"), where="f"))
    assert back is not None and back.dtype == np.dtype("<f4") and np.array_equal(back, np.arange(5))


def test_sparse_records() -> None:
    rows, _ = decode(sparse(1, (2, 3), (4, 3), [3, 1]))
    assert rows is not None
    assert np.array_equal(rows, np.array([[0, 0, 0], [4, 5, 6], [0, 0, 0], [1, 2, 3]], "f4"))
    csr, _ = decode(sparse(2, (3,), (3, 4), [0, 2, 2, 3], [3, 0, 1]))
    assert csr is not None
    assert np.array_equal(csr, np.array([[2, 0, 0, 1], [0, 0, 0, 0], [0, 3, 0, 0]], "f4"))
    for data in (
        sparse(1, (0, 3), (4, 3), []),
        sparse(2, (0,), (4, 3), [], []),
        sparse(2, (0,), (4, 3), [0] * 5, []),
    ):
        empty, _ = decode(data)
        assert empty is not None and empty.shape == (4, 3) and not empty.any()


# -- against MXNet --------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.dtype.name)
def test_mxnet_loads_what_we_write(mx: ModuleType, tmp_path: Path, array: np.ndarray) -> None:
    out = io.BytesIO()
    write_list(out, {"a": array, "b.ß": array[:1]}, where="f")
    (tmp_path / "x.params").write_bytes(out.getvalue())
    loaded = mx.nd.load(str(tmp_path / "x.params"))
    assert list(loaded) == ["a", "b.ß"]
    assert loaded["a"].asnumpy().tobytes() == array.tobytes() and loaded["a"].shape == array.shape
    mx.nd.save(str(tmp_path / "y.params"), loaded)
    assert (tmp_path / "y.params").read_bytes() == out.getvalue()


def test_mxnet_loads_numpy_mode_lists(mx: ModuleType, tmp_path: Path, numpy_mode: None) -> None:
    tensors = {"scalar": np.array(2.5, "f4"), "empty": np.zeros((0, 3), "f4"), "m": np.ones((2, 2), "f4")}
    with open(tmp_path / "x.params", "wb") as file:
        write_list(file, tensors, where="f", numpy_shape=True)
    loaded = mx.npx.load(str(tmp_path / "x.params"))
    for name, array in tensors.items():
        assert loaded[name].shape == array.shape and np.array_equal(loaded[name].asnumpy(), array)


def test_sparse_arrays_of_mxnet(mx: ModuleType, tmp_path: Path) -> None:
    dense = np.array([[0, 0, 1.5], [0, 0, 0], [2, 0, 3]], "f4")
    path = str(tmp_path / "x.params")
    arrays = {
        "rows": mx.nd.array(dense).tostype("row_sparse"),
        "csr": mx.nd.array(dense).tostype("csr"),
        "no_rows": mx.nd.sparse.zeros("row_sparse", (3, 3)),
        "no_csr": mx.nd.sparse.zeros("csr", (3, 3)),
    }
    mx.nd.waitall()  # MXNet writes the shape of a sparse array before it waits for its values
    mx.nd.save(path, arrays)
    back = read_list(memoryview(Path(path).read_bytes()), file="f")
    assert np.array_equal(back["rows"], dense) and np.array_equal(back["csr"], dense)
    assert back["no_rows"].shape == (3, 3) and not back["no_rows"].any() and not back["no_csr"].any()


# -- damage and lies ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(sample["files"][0] for sample in LISTS))
def test_truncation_anywhere(name: str) -> None:
    data = (DATA / name).read_bytes()
    message = r"^f: .*truncated: expected \d+ bytes of .* the file is incomplete or damaged$"
    for cut in {len(data) * i // 20 for i in range(20)} | {len(data) - 1}:
        with pytest.raises(CheckpointError, match=message):
            read_list(memoryview(data[:cut]), file="f")


def test_refused_records() -> None:
    f4 = b"\0" * 4
    refused("the array has the shape (-1, 3); expected no negative dimension", record((-1, 3), b""))
    refused("(4294967296, 4294967296), which no computer can hold", record((1 << 32, 1 << 32), f4))
    refused("(0, 4611686018427387904), which no computer can hold", record((0, 1 << 62), b"", magic=V3))
    refused("truncated: expected 4398046511104 bytes of data at byte 32, found 4", record((1 << 40,), f4))
    refused("the array has 33 dimensions; expected 0 to 32", record((1,) * 33, f4))
    refused("the array has -2 dimensions; expected 0 to 32", struct.pack("<Iii", V2, 0, -2))
    refused("the array has the type number 13; expected 0 to 12", record((1,), f4, flag=13))
    refused("storage type 3; expected 0 (dense), 1 (row_sparse) or 2 (csr)", record((1,), f4, storage=3))
    refused("starts with 0xdeadbeef, which is not an MXNet array", struct.pack("<Iii", 0xDEADBEEF, 0, 0))


@pytest.mark.parametrize(
    ("message", "data"),
    [
        ("row_sparse, shape (4, 3): rows 1 to 4 are named", sparse(1, (2, 3), (4, 3), [1, 4])),
        ("row_sparse, shape (4, 3): rows -1 to 1 are named", sparse(1, (2, 3), (4, 3), [-1, 1])),
        ("row_sparse, shape (4, 3): a row is named twice", sparse(1, (2, 3), (4, 3), [1, 1])),
        ("row_sparse, shape (4, 2): 2 rows with values of shape (2, 3)", sparse(1, (2, 3), (4, 2), [0, 1])),
        ("csr, shape (3, 4): columns 0 to 4 are named", sparse(2, (3,), (3, 4), [0, 1, 2, 3], [0, 4, 1])),
        ("csr, shape (3, 4): an element is named twice", sparse(2, (3,), (3, 4), [0, 2, 2, 3], [1, 1, 0])),
        ("csr, shape (3, 4): 2 columns with values of shape (3,)", sparse(2, (3,), (3, 4), [0, 1], [0, 1])),
        ("takes 6597069766656 bytes when dense; expected at most", sparse(1, (1, 3), (1 << 39, 3), [0])),
        ("a sparse array whose values have no shape", sparse(1, (), (4, 3), [])),
    ],
)
def test_refused_sparse_records(message: str, data: bytes) -> None:
    refused(message, data)


@pytest.mark.parametrize("starts", [[0, 2, 1, 3], [1, 2, 2, 3], [0, 1, 3], [0, (1 << 63) - 1, -2, 3]])
def test_refused_row_starts(starts: list[int]) -> None:
    refused("csr, shape (3, 4): the row starts do not fit it", sparse(2, (3,), (3, 4), starts, [0, 1, 2]))


def test_sparse_arrays_share_one_budget() -> None:
    one = sparse(1, (1, 3), (5 << 20, 3), [0])
    assert len(read_list(memoryview(listed(one)), file="f")) == 1
    refused("f: array 1: a sparse array that takes 62914560 bytes when dense", listed(one, one), as_list=True)


def test_refused_lists() -> None:
    one = record((1,), b"\0" * 4)
    refused("starts with 0x0; expected 0x112, an MXNet array list (.params, .nd)", b"\0" * 24, as_list=True)
    refused("1 bytes follow the end of the list", listed(one) + b"x", as_list=True)
    refused("2 names for 1 arrays; expected as many or none", listed(one, names=(b"a", b"b")), as_list=True)
    refused("the name 'a' occurs twice", listed(one, one, names=(b"a", b"a")), as_list=True)
    refused("name 0 is not UTF-8 text", listed(one, names=(b"\xff",)), as_list=True)
    refused("parameter 'a' has no value", listed(struct.pack("<Iii", V2, 0, 0), names=(b"a",)), as_list=True)
    long = listed(one)[:-8] + struct.pack("<QQ", 1, 1 << 60)
    refused("name 0 is 1152921504606846976 bytes long; expected at most 65536", long, as_list=True)
    many = struct.pack("<QQQ", 0x112, 0, 1 << 60) + one
    refused("declares 1152921504606846976 arrays; expected at most 100000", many, as_list=True)
    many = struct.pack("<QQQ", 0x112, 0, 100_000) + one
    refused(
        "array 1: truncated: expected 4 bytes of the magic number at byte 60, found 0", many, as_list=True
    )


def test_what_mxnet_cannot_hold() -> None:
    with pytest.raises(
        CheckpointError, match=r"^f: MXNet has no arrays of uint16; expected one of float32, .*cast it"
    ):
        pack_record(np.zeros(2, "u2"), where="f")
    for shape in ((), (0, 3)):
        with pytest.raises(CheckpointError, match=r"^f: shape \(.*\) exists in MXNet's NumPy mode only"):
            pack_record(np.zeros(shape, "f4"), where="f")
    with pytest.raises(CheckpointError, match=r"^f: a name is 65537 bytes long; expected at most 65536"):
        write_list(io.BytesIO(), {"n" * 65537: np.zeros(2, "f4")}, where="f")
