"""The pickle reader refuses what it should and agrees with the standard library where it should not."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optexport.errors import CheckpointError
from optexport.state.pickles import (
    BASICS,
    NUMPY,
    Constant,
    Global,
    GlobalRef,
    Limits,
    NewObj,
    Persistent,
    Record,
    Reduce,
    dumps,
    load_at,
    loads,
    record,
)


def read(data: bytes, **kwargs):
    return loads(data, file="x.pt", **{"constructors": BASICS, **kwargs})


def refused(data: bytes, **kwargs) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(data, **kwargs)
    message = str(caught.value)
    assert message.startswith("x.pt: ") and "\n" not in message
    return message


ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.integers() | st.text() | st.booleans() | st.tuples(st.text(), st.integers())
VALUES = st.recursive(
    ATOMS | st.builds(bytearray, st.binary()) | st.frozensets(KEYS, max_size=4) | st.sets(KEYS, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(max_examples=60, deadline=None)
@given(value=VALUES, protocol=st.integers(2, 5))
def test_written_pickles_mean_the_same_to_the_standard_library_and_to_the_reader(value, protocol):
    data = dumps(value, protocol)
    assert pickle.loads(data) == value
    assert read(data) == value


@settings(max_examples=60, deadline=None)
@given(value=VALUES, protocol=st.integers(2, 5))
def test_standard_pickles_are_read(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [0, 1])
def test_text_protocols_are_read(protocol):
    value = {"a": [1, -5, 2**70, 1.5, True, None, "é\n"], "t": (1, (2,)), "e": ()}
    assert read(pickle.dumps(value, protocol)) == value


def test_bytes_written_depend_on_values_not_on_identity():
    first, second = "".join(["mo", "mentum"]), "".join(["mom", "entum"])
    assert dumps([first, second]) == dumps([first, first])
    assert dumps({3, 1, 2}, 4) == dumps({1, 2, 3}, 4)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("value", [{"a": {"b": [1]}}, list(range(2500)), -(2**63), 255, (1, 2, 3, 4), [[]]])
def test_plain_values_are_written_as_the_standard_pickler_writes_them(value, protocol):
    assert dumps(value, protocol) == pickle._dumps(value, protocol)  # type: ignore[attr-defined]


def test_shared_containers_stay_shared():
    inner = [1]
    result = read(dumps([inner, inner]))
    assert result[0] is result[1]


def test_other_values_are_a_type_error():
    with pytest.raises(TypeError, match="type float64 cannot be pickled"):
        dumps(np.float64(1))
    with pytest.raises(ValueError, match="protocol 1"):
        dumps(1, 1)


@pytest.mark.parametrize("protocol", [2, 4])
def test_markers_round_trip(protocol):
    value = [
        Reduce(Global("collections", "OrderedDict"), items={"a": 1}),
        NewObj(Global("lib", "Thing"), (1,), state={"lr": 0.5}),
        Persistent(("storage", "0")),
    ]
    table = {**BASICS, ("lib", "Thing"): record("lib", "Thing")}
    first, second, third = read(
        dumps(value, protocol), constructors=table, persistent_load=lambda i: ("got", i)
    )
    assert first == {"a": 1}
    assert (second.module, second.name, second.args, second.state) == ("lib", "Thing", (1,), {"lr": 0.5})
    assert third == ("got", ("storage", "0"))
    only = dumps(value[0], protocol)
    assert pickle.loads(only) == collections.OrderedDict(a=1)


# -- globals --------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.system, ("echo no",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_function_that_is_not_listed_is_named_and_not_run(protocol):
    message = refused(pickle.dumps(Evil(), protocol))
    assert f"{os.system.__module__}.system, which is not on the closed list; nothing was executed" in message


def test_global_and_stack_global():
    assert "os.system" in refused(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    assert "os.system" in refused(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.")


@pytest.mark.parametrize("unknown", ["refuse", "inert"])
def test_dotted_names_are_refused_always(unknown):
    data = b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93."
    assert "dotted or empty name torch.serialization.os.system" in refused(data, unknown=unknown)


def test_pairs_are_exact():
    assert "collections.namedtuple" in refused(b"\x80\x02ccollections\nnamedtuple\n.")
    assert "OrderedDict.OrderedDict" in refused(b"\x80\x02cOrderedDict\nOrderedDict\n.")


def test_the_name_of_a_global_cannot_break_the_message():
    assert "a\\nb" in refused(b"\x80\x04\x8c\x03a\nb\x8c\x01c\x93.")


def test_inert_reading_makes_placeholders_and_calls_nothing():
    result = read(pickle.dumps({"x": Evil()}), unknown="inert")["x"]
    assert isinstance(result, Record)
    assert (result.name, result.args) == ("system", ("echo no",))
    assert read(b"\x80\x02cmy.app\nConfig\n.", unknown="inert") == GlobalRef("my.app", "Config")


def test_constants_are_values_and_are_not_called():
    table = {("t", "f"): Constant(5)}
    assert read(b"\x80\x02ct\nf\n.", constructors=table) == 5
    assert "calls 5" in refused(b"\x80\x02ct\nf\n)R.", constructors=table)


def test_only_listed_globals_are_called_and_only_with_tuples():
    assert "only globals on the closed list are called" in refused(b"\x80\x02X\x01\x00\x00\x00a)R.")
    assert "instead of a tuple" in refused(b"\x80\x02ccollections\nOrderedDict\n]R.")


@pytest.mark.parametrize(
    "data, why", [(b"]}b.", "placeholder"), (b"ccollections\nOrderedDict\n)R]b.", "dict or a tuple")]
)
def test_build_is_for_placeholders_with_a_dict_or_a_tuple(data, why):
    assert why in refused(b"\x80\x02" + data)


@pytest.mark.parametrize("argument", [b"J\xff\xff\xff\x7f", b"]K\x01a"])
def test_bytearray_is_never_built_from_a_length_or_a_list(argument):
    assert "never from a length" in refused(b"\x80\x02c__builtin__\nbytearray\n" + argument + b"\x85R.")


@pytest.mark.parametrize(
    "code, name",
    [(b"(ios\nsystem\n", "INST"), (b"(o", "OBJ"), (b"Pid\n", "PERSID"), (b"\x82\x01", "EXT1"),
     (b"\x83\x01\x00", "EXT2"), (b"\x84\x01\x00\x00\x00", "EXT4"), (b"\x92", "NEWOBJ_EX"),
     (b"\x97", "NEXT_BUFFER"), (b"\x98", "READONLY_BUFFER")],
)  # fmt: skip
def test_opcodes_that_no_checkpoint_needs_are_refused(code, name):
    assert f"opcode {name} is not needed" in refused(b"\x80\x04" + code + b".")


def test_unknown_opcodes_and_protocols():
    assert "0xff is not a pickle opcode" in refused(b"\x80\x02\xff.")
    assert "protocol 6 is newer than 5" in refused(b"\x80\x06N.")


# -- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x8c\xff", b"B\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8,
     b"C\xff", b"T\xff\xff\xff\xff", b"\x96" + b"\xff" * 8, b"\x95" + b"\xff" * 8],
)  # fmt: skip
def test_a_length_beyond_the_file_is_a_truncation(code):
    data = b"\x80\x04" + code + b"ab."
    assert f"truncated at byte {len(data)}" in refused(data)


def test_huge_integers_memo_indexes_and_lines_are_refused():
    assert "an integer of 2147483647 bytes" in refused(b"\x80\x02\x8b\xff\xff\xff\x7f" + b"a" * 9)
    assert "memo index 4294967295 is beyond" in refused(b"\x80\x02Nr\xff\xff\xff\xff.")
    assert "memo index" in refused(b"Np999999\n.")
    assert "text number" in refused(b"I" + b"9" * 5000 + b"\n.")
    assert "text line is longer" in refused(b"V" + b"a" * 100_000 + b"\n.")


def test_stack_and_memo_errors():
    assert "empty stack" in refused(b"\x80\x020.")
    assert "needs a mark and there is none" in refused(b"\x80\x02e.")
    assert "never stored" in refused(b"\x80\x02h\x05.")
    assert "2 values on its stack" in refused(b"\x80\x02NN.")
    assert "0 values on its stack" in refused(b"\x80\x02.")
    assert "list elements are put into" in refused(b"\x80\x02}K\x01a.")
    assert "dictionary entries are put into" in refused(b"\x80\x02]K\x01K\x01s.")
    assert "a key and no value" in refused(b"\x80\x02}(K\x01u.")


@pytest.mark.parametrize("key", [b"]", b"}", b"\x8f", b"]\x85", b"]\x85\x85"])
def test_keys_that_cannot_be_keys(key):
    assert "cannot be a key" in refused(b"\x80\x04}" + key + b"Ns.")
    assert "cannot be a key" in refused(b"\x80\x04\x8f(" + key + b"\x90.")
    assert "cannot be a key" in refused(b"\x80\x04(" + key + b"\x91.")


def test_a_key_that_would_take_for_ever_to_hash():
    doubling = b"\x80\x04K\x01" + b"2\x86" * 60
    assert "a key has more than" in refused(b"\x80\x04}" + doubling[2:] + b"Ns.")


def test_deep_nesting_is_refused_before_anybody_recurses():
    data = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    assert "nested more than 100 levels" in refused(data)
    assert "nested more than 100 levels" in refused(b"\x80\x02)" + b"\x85" * 100_000 + b".")
    assert "marks are open" in refused(b"(" * 100_000 + b".")
    assert read(b"\x80\x02" + b"]" * 99 + b"a" * 98 + b".") is not None


def test_nesting_through_shared_references_counts():
    # Every list is also in the root, so a breadth-first look would see two levels.
    body = b"\x80\x02(" + b"]q\x00"
    for index in range(1, 150):
        body += b"]h" + bytes([index - 1]) + b"aq" + bytes([index])
    assert "nested more than 100" in refused(body + b"l.")


def test_memo_bombs_are_refused():
    layers = b"".join(b"](" + (b"h" + bytes([i])) * 20 + b"eq" + bytes([i + 1]) + b"0" for i in range(30))
    assert "unfold to more than 1000000 values" in refused(b"\x80\x02]q\x000" + layers + b"h\x1e.")


def test_a_container_in_itself_is_refused():
    endless: list[object] = []
    endless.append(endless)
    assert "contains itself" in refused(pickle.dumps(endless))


def test_limits_are_the_callers():
    assert "more than 5 pickle opcodes" in refused(pickle.dumps(list(range(50))), limits=Limits(opcodes=5))


def test_truncation_anywhere_is_a_checkpoint_error():
    data = pickle.dumps(
        {"a": [1, 2.5, "text", b"bytes", (1, 2)], "b": {"c": collections.OrderedDict(x=1)}}, 2
    )
    for end in range(len(data)):
        assert "truncated" in refused(data[:end])


def test_trailing_bytes_are_named_and_load_at_goes_on():
    data = pickle.dumps(1, 2) + pickle.dumps([2], 2)
    assert "follow the end of the pickle at byte 5" in refused(data)
    one, at = load_at(data, 0, file="x.pt", constructors={})
    two, end = load_at(data, at, file="x.pt", constructors={})
    assert (one, two, end) == (1, [2], len(data))


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_checkpoint_error(data):
    with contextlib.suppress(CheckpointError):
        read(data, unknown="inert", persistent_load=lambda identity: identity)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_flipped_byte_gives_a_value_or_a_checkpoint_error(place, byte):
    data = bytearray(pickle.dumps([{"a": (1, 2.0), "b": {1, 2}}, "text" * 20, b"raw", [1] * 40], 4))
    data[place % len(data)] = byte
    with contextlib.suppress(CheckpointError):
        read(bytes(data))


def test_persistent_ids_need_a_format_that_has_them():
    assert "refers to data outside itself" in refused(b"\x80\x02K\x01Q.")


def test_errors_of_constructors_become_checkpoint_errors():
    table = {("t", "f"): lambda: 1 / 0, ("t", "g"): lambda a: a}
    assert "t.f cannot be built: division by zero" in refused(b"\x80\x02ct\nf\n)R.", constructors=table)
    assert "t.g cannot be built" in refused(b"\x80\x02ct\ng\n)R.", constructors=table)


def test_views_share_the_bytes_of_the_file():
    raw = bytes(range(256)) * 8
    data = pickle.dumps([raw, b"short"], 4)
    long, short = read(data, views=True)
    assert isinstance(long, memoryview) and long.readonly and long == raw and short == b"short"
    assert np.shares_memory(np.frombuffer(long, np.uint8), np.frombuffer(data, np.uint8))


# -- numpy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_and_scalars(protocol):
    value = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "rng": np.random.RandomState(0).get_state(),
        "best": np.float32(2.5),
        "python": random.Random(1).getstate(),
    }
    result = read(pickle.dumps(value, protocol), constructors={**BASICS, **NUMPY})
    assert np.array_equal(result["f"].array, value["f"]) and not result["f"].array.flags.writeable
    assert result["big"].array.tolist() == [0, 1, 2]
    assert np.array_equal(result["rng"][1].array, value["rng"][1])
    assert result["best"] == 2.5 and type(result["best"]) is float
    assert result["python"] == value["python"]


def test_object_arrays_are_refused():
    data = pickle.dumps(np.array([{}], dtype=object), 2)
    assert "not a plain number type" in refused(data, constructors={**BASICS, **NUMPY})


def test_nan_and_infinities_survive():
    result = read(dumps([math.nan, math.inf, -0.0]))
    assert math.isnan(result[0]) and result[1] == math.inf and math.copysign(1, result[2]) == -1
