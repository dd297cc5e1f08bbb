"""MXNet's arrays and states that lie about their sizes."""

from __future__ import annotations

import struct
from pathlib import Path

from optexport.state.pickles import dumps
from tests.attacks.attack import attack, file

_V2, _V3 = 0xF993FAC9, 0xF993FACA


def shape(*dims: int) -> bytes:
    return struct.pack("<i", len(dims)) + struct.pack(f"<{len(dims)}q", *dims)


def dense(*dims: int, data: bytes = bytes(16), kind: int = 0) -> bytes:
    """A record of float32, whatever its bytes."""
    return struct.pack("<Ii", _V2, 0) + shape(*dims) + struct.pack("<iii", 1, 0, kind) + data


def rows(whole: tuple[int, ...], stored: tuple[int, ...], indices: bytes, data: bytes) -> bytes:
    """A row_sparse record."""
    head = struct.pack("<Ii", _V2, 1) + shape(*stored) + shape(*whole) + struct.pack("<iii", 1, 0, 0)
    return head + struct.pack("<i", 6) + shape(len(indices) // 8) + data + indices


def listed(*records: bytes, count: int | None = None, names: int = 0) -> bytes:
    count = len(records) if count is None else count
    return struct.pack("<QQQ", 0x112, 0, count) + b"".join(records) + struct.pack("<Q", names)


ONE_ROW = struct.pack("<q", 0)
# Records that lie, by themselves or in a list.
RECORDS: dict[str, tuple[bytes, str]] = {
    "dimensions_that_overflow": (dense(1 << 40, 1 << 40), "which no computer can hold"),
    "dimensions_that_overflow_to_zero": (dense(1 << 32, 1 << 32), "which no computer can hold"),
    "negative_dimension": (dense(-4), "expected no negative dimension"),
    "very_many_dimensions": (struct.pack("<Iii", _V2, 0, 1 << 30), "dimensions; expected 0 to 32"),
    "array_beyond_the_file": (dense(1 << 33), "truncated: expected 34359738368 bytes of data"),
    "unknown_type": (dense(4, kind=99), "type number 99"),
    "sparse_bomb": (rows((1 << 38, 1), (1, 1), ONE_ROW, bytes(4)), "when dense; expected at most"),
    "sparse_row_outside": (rows((4, 1), (1, 1), struct.pack("<q", 1 << 40), bytes(4)), "are named"),
    "sparse_row_below_zero": (rows((4, 1), (1, 1), struct.pack("<q", -1), bytes(4)), "are named"),
}
_BOMBS = [rows((15 << 20, 1), (1, 1), ONE_ROW, bytes(4))] * 60
PARAMS: dict[str, tuple[bytes, str]] = {
    **{name: (listed(record), says) for name, (record, says) in RECORDS.items()},
    "more_arrays_than_bytes": (listed(dense(4), count=1 << 60), "declares 1152921504606846976 arrays"),
    "more_arrays_than_there_are": (listed(dense(4), count=50_000), "truncated: expected 4 bytes of the magic number"),
    "more_names_than_arrays": (listed(dense(4), names=1 << 60), "names for 1 arrays"),
    "sparse_bombs_together": (listed(*_BOMBS), "when dense; expected at most"),
    "tail": (listed(dense(4)) + b"x", "follow the end of the list"),
}  # fmt: skip
for _name, (_data, _says) in PARAMS.items():

    def _params(folder: Path, data: bytes = _data) -> Path:
        return file(folder, "hostile.params", data)

    attack(_says, weights=True, name=f"mxnet_params_{_name}")(_params)

for _name, (_data, _says) in RECORDS.items():

    def _states(folder: Path, data: bytes = _data) -> Path:
        """The same record inside the pickle of a Trainer's states."""
        from optexport.state.pickles import Global, NewObj

        array = NewObj(Global("mxnet.ndarray.ndarray", "NDArray"),
                       state={"handle": bytearray(data), "context": None, "stype": 0})  # fmt: skip
        return file(folder, "hostile.states", dumps({0: array}, 2))

    attack(_says, format="mxnet", name=f"mxnet_states_{_name}")(_states)


@attack("declares 100001 arrays; expected at most 100000", weights=True, once=True)
def mxnet_params_very_many_arrays(folder: Path) -> Path:
    """Arrays of nothing, 32 bytes each."""
    count = 100_001
    record = struct.pack("<Ii", _V3, 0) + shape(0) + struct.pack("<iii", 1, 0, 0)
    return file(folder, "hostile.params", struct.pack("<QQQ", 0x112, 0, count) + record * count + bytes(8))
