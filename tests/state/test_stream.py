"""Arrays go from a mapped file to a written one in blocks, and memory stays flat."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from optexport.converters.torch.checkpoint import write
from optexport.errors import CheckpointError
from optexport.state.files import map_file, whole_or_nothing
from optexport.state.lazy import LazyArray, gathered, lazy
from optexport.state.native import NativeGroup, NativeState
from optexport.state.pickles import Bulk, dumps
from optexport.state.stream import byte_blocks, write_summed

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((40, 6, 10)).astype(np.float32)


@pytest.mark.parametrize(
    "array",
    [
        BASE,
        BASE.T,
        BASE[:, ::2],
        BASE.transpose(1, 0, 2),
        BASE[::-1],
        BASE.astype(">f8"),
        BASE.astype(">f2").T,
        BASE[0, 0, 0],
        BASE[:0],
        np.asfortranarray(BASE[0]),
    ],
    ids=["c", "t", "strided", "swapped", "backwards", "big", "big-t", "scalar", "empty", "fortran"],
)
@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_blocks_are_the_little_endian_bytes_in_c_order(array, size):
    blocks = [bytes(b) for b in byte_blocks(array, size)]
    assert b"".join(blocks) == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert max(map(len, blocks), default=0) <= max(size, array.itemsize)


def test_pages_given_back_are_read_again(tmp_path):
    data = RNG.bytes(3 << 20)
    (tmp_path / "a").write_bytes(data)
    view = np.frombuffer(map_file(tmp_path / "a"), np.uint8)
    for part in (view, view[5:-77], view[4096:8192]):
        assert b"".join(bytes(b) for b in byte_blocks(part, 1 << 16)) == part.tobytes()
    assert view.tobytes() == data


def test_pieces_are_taken_one_by_one_and_never_joined():
    def never() -> np.ndarray:
        raise AssertionError("was joined")

    flat = BASE.reshape(-1)
    whole = LazyArray(BASE.shape, BASE.dtype, never, [flat[:7], flat[7:1000], flat[1000:]])
    assert b"".join(bytes(b) for b in byte_blocks(whole)) == BASE.tobytes()
    assert b"".join(bytes(b) for b in byte_blocks(whole.reshape(6, -1 + 401))) == BASE.tobytes()
    assert (whole.ndim, whole.size, whole.nbytes, len(whole)) == (3, 2400, 9600, 40)


def test_a_lazy_array_is_made_each_time_and_stands_for_an_array():
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        return BASE

    array = lazy(BASE.shape, BASE.dtype, make)
    assert array.shape == BASE.shape and array.reshape(-1 + 2400 + 1).shape == (2400,) and not made
    assert np.array_equal(np.asarray(array, np.float64), BASE) and np.array_equal(array, BASE)
    assert array[3].tobytes() == BASE[3].tobytes() and array.sum() == BASE.sum()
    assert len(made) == 4
    assert gathered([BASE.reshape(-1)], BASE.shape).base is not None  # one piece stays a view


@pytest.mark.parametrize("count", [1, 2, 9])
def test_arrays_are_written_at_their_places_with_their_sums_and_told_in_order(tmp_path, count):
    arrays = [RNG.integers(0, 255, (1 << 20) + i, np.uint8) for i in range(count)]
    told: list[int] = []
    with whole_or_nothing(tmp_path / "a") as file:
        file.write(b"head")
        places = np.cumsum([file.tell(), *(a.nbytes for a in arrays)]).tolist()
        made = write_summed(file, list(zip(places, arrays, strict=False)), hashlib.sha256, told.append)
        file.seek(places[-1])
        file.write(b"tail")
    assert (tmp_path / "a").read_bytes() == b"head" + b"".join(a.tobytes() for a in arrays) + b"tail"
    assert [m.digest() for m in made] == [hashlib.sha256(a).digest() for a in arrays]
    assert told == [a.nbytes for a in arrays]


def test_an_error_in_one_array_leaves_no_file(tmp_path):
    def broken() -> np.ndarray:
        raise OSError(5, "input/output error")

    arrays = [(0, BASE), (BASE.nbytes, lazy((4,), np.float32, broken)), (BASE.nbytes + 16, BASE)]
    refused = pytest.raises(CheckpointError, match=r"a: cannot be written: input/output error")
    with refused, whole_or_nothing(tmp_path / "a") as file:
        write_summed(file, arrays, hashlib.sha256)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 255, 256, 70_000])
def test_bulk_data_is_pickled_as_bytes_are(size):
    data = RNG.bytes(size)
    bulk = Bulk(size, lambda: (data[i : i + 100] for i in range(0, size, 100)))
    assert dumps({"a": bulk, "b": (bulk, 1)}, 4) == dumps({"a": data, "b": (data, 1)}, 4)


def test_bulk_data_of_another_size_is_refused():
    with pytest.raises(ValueError, match="bulk data of 3 bytes came in 2"):
        dumps(Bulk(3, lambda: (b"ab",)), 4)
    with pytest.raises(ValueError, match="needs pickle protocol 3 or later"):
        dumps(Bulk(3, lambda: (b"abc",)), 2)


MEASURE = """
import re, sys
from optexport.convert import convert
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
small, large, target = sys.argv[1:4]
options = {"emit_optimizer": target.replace(".states", "_optimizer.py")} if target.endswith(".states") else {}
form = "torch-dcp" if target.endswith(".dcp") else None
convert(small, target.replace("new", "first"), to_format=form, **options)
before = peak()
convert(large, target, to_format=form, **options)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A small file of PyTorch's optimizer state, and one of 128 MiB."""
    folder = tmp_path_factory.mktemp("sources")
    arguments = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    arguments |= {"maximize": False, "decoupled_weight_decay": True}
    names = [f"p{i}" for i in range(4)]
    for name, rows in (("small.pt", 1), ("large.pt", 4096)):
        zeros = np.zeros((rows, 1024), np.float32)
        state = NativeState("torch", "", "AdamW", named=True, groups=[NativeGroup(arguments, names)])
        state.slots = {n: {"exp_avg": zeros, "exp_avg_sq": zeros} for n in names}
        state.steps = dict.fromkeys(names, 3)
        write(state, folder / name)
    return folder


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux' account of memory")
@pytest.mark.parametrize("target", ["new.safetensors", "new.pt", "new.states", "new.dcp"])
def test_memory_stays_flat_while_files_grow(tmp_path, sources, target):
    """Even the pages of mapped files: 128 MiB are converted in the room of a few blocks."""
    paths = [str(p) for p in (sources / "small.pt", sources / "large.pt", tmp_path / target)]
    ran = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    # Eight blocks of a megabyte for each of at most four workers, and what faults bring in around them.
    assert int(ran.stdout) < 64
