"""Messages on pipes: what was sent comes back; all else is said."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from optexport.parity.frames import ClosedError, LateError, RubbishError, read_frame, write_frame


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_message_comes_back_bit_for_bit(pipe: tuple[int, int]) -> None:
    arrays = {
        "a": np.array([[1.0, np.nan], [-0.0, 5e-324]]),
        "scalar": np.float32(3.5),
        "none": np.zeros((0, 4), np.float16),
        "count": np.array([1, -2], np.int64),
        "large": np.random.default_rng(0).standard_normal((300, 300)),
    }
    writer = threading.Thread(target=write_frame, args=(pipe[1], {"x": "ü", "n": [1, None]}, arrays))
    writer.start()
    message, got = read_frame(pipe[0], 10)
    writer.join()
    assert message == {"x": "ü", "n": [1, None]}
    for name, value in arrays.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape
        assert got[name].tobytes() == value.tobytes()


def test_what_is_no_frame_is_shown(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"Loading model...\n")
    with pytest.raises(RubbishError, match=r"'Loading model\.\.\.\\n'"):
        read_frame(pipe[0], 5)


def test_rubbish_is_seen_at_its_first_byte(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"!")  # fewer bytes than a frame's head, and no more to come
    with pytest.raises(RubbishError, match="'!'"):
        read_frame(pipe[0], 5)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (struct.pack(">4sIQ", b"OXP1", 1 << 31, 0), "a frame of 2147483648 bytes"),
        (struct.pack(">4sIQ", b"OXP1", 2, 0) + b"{}", "header does not fit its arrays: 'arrays'"),
        (struct.pack(">4sIQ", b"OXP1", 2, 0) + b"[]", "header does not fit its arrays"),
        (
            struct.pack(">4sIQ", b"OXP1", 34, 0) + b'{"arrays": [["a", "object", [2]]]}',
            r"array 'a' of object \[2\]",
        ),
        (
            struct.pack(">4sIQ", b"OXP1", 35, 4) + b'{"arrays": [["a", "float32", [9]]]}abcd',
            "array 'a' ends after the frame",
        ),
        (struct.pack(">4sIQ", b"OXP1", 14, 3) + b'{"arrays": []}abc', "3 bytes belong to no array"),
    ],
)
def test_a_damaged_frame_is_rubbish(pipe: tuple[int, int], head: bytes, said: str) -> None:
    os.write(pipe[1], head)
    with pytest.raises(RubbishError, match=said):
        read_frame(pipe[0], 5)


def test_half_a_frame_is_late(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"OXP1\0\0")
    with pytest.raises(LateError, match="no answer in time"):
        read_frame(pipe[0], 0.2)


def test_an_ended_pipe_is_closed(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"OXP1\0\0")
    os.close(pipe[1])
    with pytest.raises(ClosedError, match="the pipe ended"):
        read_frame(pipe[0], 5)


def test_writing_to_nobody_is_closed(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with pytest.raises(ClosedError, match="the other process closed its pipe"):
        write_frame(pipe[1], {})


def test_an_object_array_is_refused(pipe: tuple[int, int]) -> None:
    with pytest.raises(RubbishError, match=r"array 'a': expected one of .*, found object"):
        write_frame(pipe[1], {}, {"a": np.array([{}], object)})
