"""Maps of names: patterns, axes, the file and its schema; applied to tensors, and gone back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optexport.errors import NamingError
from optexport.state.axes import Axes
from optexport.state.name_map import NameMap, parse_map, read_map, write_map
from optexport.state.patterns import fill, match, wildcards
from optexport.state.schema import KEYWORDS, check, schema


def refused(call, *args) -> str:
    with pytest.raises(NamingError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def a_map(entries: list[dict], **more) -> NameMap:
    return parse_map({"version": 1, "entries": entries, **more}, "m.json")


# Patterns.


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("a.b", "a.b", ()),
        ("a.b", "a.bc", None),
        ("a.b", "axb", None),
        ("*.weight", "fc.weight", ("fc",)),
        ("*.weight", "a.fc.weight", None),
        ("*.weight", ".weight", None),
        ("**.weight", "a.fc.weight", ("a.fc",)),
        ("**", "", ("",)),
        ("layers.*.*", "layers.3.w", ("3", "w")),
        ("layers/dense_*/vars/0", "layers/dense_12/vars/0", ("12",)),
        ("**x", "axbx", ("axb",)),
        ("*a*", "bacad", ("b", "cad")),
        ("***", "abc", ("", "abc")),
    ],
)
def test_patterns(pattern, name, found):
    assert match(pattern, name) == found
    if found is not None:
        assert wildcards(pattern) == len(found)
        assert fill(pattern, found) == name


def test_a_hostile_pattern_takes_no_time():
    assert match("*a" * 60 + "b", "a" * 3000) is None


@given(st.lists(st.sampled_from(["*", "**", "a", ".", "/"]), max_size=6), st.text("ab./", max_size=8))
def test_what_matches_fills_back(parts, name):
    pattern = "".join(parts)
    found = match(pattern, name)
    if found is not None:
        assert fill(pattern, found) == name


# Axes.


@pytest.mark.parametrize(
    ("text", "sizes", "shape", "after"),
    [
        ("out in -> in out", {}, (3, 2), (2, 3)),
        ("o i h w -> h w i o", {}, (2, 3, 4, 5), (4, 5, 3, 2)),
        ("o (c h w) -> (h w c) o", {"c": 2, "h": 3}, (5, 24), (24, 5)),
        ("(c m) 1 h w -> h w c m", {"m": 2}, (6, 1, 4, 5), (4, 5, 3, 2)),
        ("a -> a 1", {}, (3,), (3, 1)),
        ("->", {}, (), ()),
    ],
)
def test_axes_and_the_way_back(text, sizes, shape, after):
    axes = Axes.parse(text, sizes)
    array = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    moved = axes.apply(array, "x")
    assert moved.shape == axes.shape(shape, "x") == after
    back = Axes(axes.right, axes.left, axes.named_sizes(shape, "x"))
    assert np.array_equal(back.apply(moved, "x"), array)
    assert Axes.parse(axes.text, sizes) == axes
    stacked = np.stack([array, array + 1])
    assert np.array_equal(axes.apply(stacked, "x", 1)[1], moved + 1)


def test_axes_are_numpys_own():
    a = np.arange(120).reshape(2, 3, 4, 5)
    assert np.array_equal(Axes.permuted([2, 3, 1, 0]).apply(a, ""), a.transpose(2, 3, 1, 0))
    flat = a.reshape(2, 60)
    want = flat.reshape(2, 3, 20).transpose(2, 1, 0).reshape(60, 2)
    assert np.array_equal(Axes.parse("o (c s) -> (s c) o", {"c": 3}).apply(flat, ""), want)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b", "expected two sides"),
        ("a b -> a", "expected the same axes on both sides, each once"),
        ("a a -> a a", "expected the same axes on both sides, each once"),
        ("(a b -> a b", "expected closed parentheses"),
        ("((a) b) -> a b", "expected names, '1' and pairs of parentheses"),
        ("a) -> a", "expected names, '1' and pairs of parentheses"),
        ("a-b -> b", "expected names, '1' and pairs of parentheses"),
        (" ".join(f"x{i}" for i in range(40)) + "->a", "at most 32 axes"),
    ],
)
def test_axes_that_are_none(text, message):
    assert message in refused(Axes.parse, text)


@pytest.mark.parametrize(
    ("text", "sizes", "shape", "message"),
    [
        ("a b -> b a", {}, (3,), "expected 2 axes, found shape [3]"),
        ("(a b) -> b a", {}, (6,), "the sizes of a and b are not known; give all but one in 'sizes'"),
        ("(a b) -> b a", {"a": 4}, (6,), "expected a · b elements, found 6"),
        ("1 a -> a", {}, (2, 3), "expected 1 elements, found 2"),
    ],
)
def test_shapes_that_do_not_fit_axes(text, sizes, shape, message):
    assert message in refused(Axes.parse(text, sizes).apply, np.zeros(shape), "w")
    assert message in refused(Axes.parse(text, sizes).shape, shape, "w")


# The file.


GOOD = {
    "version": 1,
    "about": "x",
    "prefixes": ["module.", "_orig_mod."],
    "entries": [
        {"from": "a", "to": "b", "transpose": [1, 0], "why": "equal values"},
        {"from": "**.qkv", "to": ["**.q", "**.k", "**.v"], "axis": 0, "sizes": [4, 2, 2]},
        {
            "from": ["*.q", "*.k"],
            "to": "*.qk",
            "axis": 1,
            "axes": "a (b c) -> (c b) a",
            "axis_sizes": {"b": 2},
        },
        {"from": "old.**", "to": None},
    ],
    "fresh": [{"name": "head.*", "group": 1}, {"name": "x"}],
    "frozen": ["embed"],
}


def test_a_map_is_written_as_it_is_read(tmp_path):
    names = parse_map(GOOD, "m")
    path = str(tmp_path / "map.json")
    write_map(names, path, "x")
    assert json.loads(Path(path).read_text()) == GOOD
    again = read_map(path)
    assert again.entries == names.entries and again.fresh == names.fresh and again.frozen == names.frozen


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"from": "a"}, "m.json.entries[0]: expected 'to', found none"),
        ({"from": "a", "to": 3}, "m.json.entries[0].to: expected string or array or null, found 3"),
        ({"from": "a", "to": ["b"]}, "m.json.entries[0].to: expected at least 2 and at most 1000 items, found 1"),
        ({"from": "", "to": "b"}, "m.json.entries[0].from: expected at least 1 characters, found 0"),
        ({"from": "a", "to": "b", "too": 1}, "unknown 'too'; expected one of from, to, axis"),
        ({"from": "a", "to": "b", "transpose": [0, True]}, "transpose[1]: expected integer, found true"),
        ({"from": "a", "to": "b", "transpose": [0, 2]}, "expected each axis from 0 to 1 once"),
        ({"from": "a", "to": "b", "transpose": [0], "axes": "a -> a"}, "expected 'transpose' or 'axes', found both"),
        ({"from": "a", "to": "b", "axis": 0}, "'axis' and 'sizes' are of a split or a join"),
        ({"from": "a", "to": ["b", "c"]}, "expected 'axis', along which it is split"),
        ({"from": ["a", "b"], "to": "c"}, "expected 'axis', along which it is joined"),
        ({"from": ["a", "b"], "to": ["c", "d"], "axis": 0}, "a join has one 'to', found 2"),
        ({"from": "a", "to": ["b", "c"], "axis": 0, "sizes": [1, 2, 3]}, "expected 2 sizes, found 3"),
        ({"from": "a.*", "to": "b"}, "expected as many wildcards in each name of 'to' as in 'from'"),
        ({"from": "a", "to": None, "transpose": [0]}, "what is left out has no axes to move"),
        ({"from": "a", "to": "b", "axis_sizes": {"a": 2}}, "'axis_sizes' are of the names in 'axes', found none"),
        ({"from": "a", "to": "b", "axes": "a -> b"}, "m.json: entries[0]: axes 'a -> b': expected the same axes"),
    ],
)  # fmt: skip
def test_entries_that_are_none(entry, message):
    assert message in refused(a_map, [entry])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "expected object, found []"),
        (b'{"version": 2, "entries": []}', ".version: expected 1, found 2"),
        (b'{"version": true, "entries": []}', ".version: expected 1, found true"),
        (b'{"entries": []}', "expected 'version', found none"),
        (b'{"version": 1, "version": 1, "entries": []}', "a key occurs twice in one object"),
        (b"\xff", "expected a map of names in JSON"),
        (b"[" * 100_000, "expected a map of names in JSON"),
    ],
)
def test_files_that_are_no_maps(tmp_path, data, message):
    path = tmp_path / "map.json"
    path.write_bytes(data)
    assert message in refused(read_map, str(path))
    assert str(path) in refused(read_map, str(path))


def test_a_file_that_is_not_there(tmp_path):
    assert "no such file; expected a map of names" in refused(read_map, str(tmp_path / "map.json"))


def test_the_schema_has_only_what_our_check_knows():
    def walk(rules: dict) -> None:
        assert set(rules) <= KEYWORDS
        for part in (*rules.get("properties", {}).values(), *rules.get("$defs", {}).values()):
            walk(part)
        for key in ("items", "additionalProperties"):
            if isinstance(rules.get(key), dict):
                walk(rules[key])

    walk(schema("map"))
    check(GOOD, schema("map"), "m")


def test_the_schema_says_the_same_to_a_library():
    library = pytest.importorskip("jsonschema", reason="needs jsonschema, which is not in this environment")
    judge = library.Draft202012Validator(schema("map"))
    assert judge.is_valid(GOOD)
    for bad in ({}, {**GOOD, "version": 2}, {**GOOD, "entries": [{"from": "a"}]}, {**GOOD, "x": 1}):
        assert not judge.is_valid(bad)
        refused(check, bad, schema("map"), "m")


# Names.


def renamed(names: NameMap, have: list[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(p.sources, p.targets) for p in names.ports(have)]


def test_the_first_entry_that_matches_counts_and_others_stay():
    names = a_map([{"from": "fc1.*", "to": "first.*"}, {"from": "fc*.*", "to": "l*.*"}])
    assert renamed(names, ["fc1.w", "fc2.w", "b"]) == [
        (("fc1.w",), ("first.w",)), (("fc2.w",), ("l2.w",)), (("b",), ("b",)),
    ]  # fmt: skip


def test_prefixes_go_as_often_as_they_are_there():
    names = a_map([{"from": "w", "to": "v"}], prefixes=["module.", "_orig_mod."])
    assert renamed(names, ["_orig_mod.module._orig_mod.w"]) == [(("_orig_mod.module._orig_mod.w",), ("v",))]
    assert "without their prefixes two parameters have one name" in refused(names.ports, ["module.w", "w"])


def test_a_join_takes_its_tensors_layer_by_layer():
    names = a_map([{"from": ["*.q", "*.k"], "to": "*.qk", "axis": 0}])
    assert renamed(names, ["0.q", "1.k", "0.k", "1.q"]) == [
        (("0.q", "0.k"), ("0.qk",)), (("1.q", "1.k"), ("1.qk",)),
    ]  # fmt: skip
    assert "joins '0.q' with '0.k', which the optimizer does not have" in refused(names.ports, ["0.q"])


def test_two_names_never_become_one():
    names = a_map([{"from": "a", "to": "b"}])
    assert "both 'a' and 'b' become 'b'" in refused(names.ports, ["a", "b"])


@given(st.permutations([0, 1, 2]), st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 2))
def test_split_and_join_are_each_others_way_back(order, sizes, axis):
    pieces = [f"p{i}" for i in range(len(sizes))]
    names = a_map([{"from": "w", "to": pieces, "axis": axis, "sizes": sizes, "transpose": list(order)}])
    shape = [2, 3, 4]
    shape[axis] = sum(sizes)
    w = np.arange(np.prod(shape)).reshape(shape)
    (there,) = names.ports(["w"])
    parts = there.apply([w])
    assert all(np.shares_memory(p, w) for p in parts)
    (back,) = names.reversed().ports(pieces)
    assert np.array_equal(back.apply(parts)[0], w)


@pytest.mark.parametrize(
    ("entry", "shapes", "message"),
    [
        (
            {"from": "w", "to": ["a", "b"], "axis": 0},
            [(3, 2)],
            "expected 2 equal pieces along axis 0, found 3 elements",
        ),
        (
            {"from": "w", "to": ["a", "b"], "axis": 0, "sizes": [1, 1]},
            [(3, 2)],
            "expected pieces of 1, 1 along axis 0, found 3",
        ),
        (
            {"from": "w", "to": ["a", "b"], "axis": 2},
            [(3, 2)],
            "expected an axis 2 to split, found shape [3, 2]",
        ),
        (
            {"from": ["a", "b"], "to": "w", "axis": 0},
            [(3, 2), (3, 4)],
            "tensors of one dtype that differ along axis 0 alone",
        ),
        (
            {"from": ["a", "b"], "to": "w", "axis": 2},
            [(3, 2), (3, 2)],
            "tensors of one dtype that differ along axis 2 alone",
        ),
        (
            {"from": ["a", "b"], "to": "w", "axis": 0, "sizes": [3, 2]},
            [(3, 2), (3, 2)],
            "expected pieces of 3, 2 along axis 0, found 3, 3",
        ),
    ],
)
def test_shapes_that_do_not_fit(entry, shapes, message):
    names = a_map([entry])
    (port,) = names.ports(entry["from"] if isinstance(entry["from"], list) else [entry["from"]])
    assert message in refused(port.apply, [np.zeros(s) for s in shapes])


def test_joined_tensors_have_one_dtype():
    (port,) = a_map([{"from": ["a", "b"], "to": "w", "axis": 0}]).ports(["a", "b"])
    assert "found a float32 [1], b float64 [1]" in refused(port.apply, [np.zeros(1, np.float32), np.zeros(1)])


@pytest.mark.parametrize(
    ("entries", "more", "message"),
    [
        ([], {"prefixes": ["module."]}, "prefixes, fresh and frozen have no way back"),
        ([{"from": "a", "to": None}], {}, "what is left out does not come back"),
        ([{"from": ["a", "b"], "to": "c", "axis": 0}], {}, "to split it again the join needs 'sizes'"),
    ],
)
def test_what_has_no_way_back(entries, more, message):
    assert message in refused(a_map(entries, **more).reversed)


def test_the_maps_of_the_documentation_are_maps():
    page = Path(__file__).parents[2] / "docs" / "names-and-layouts.md"
    if not page.exists():
        pytest.skip("needs the checkout's docs folder")
    maps = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(maps) == 2
    for text in maps:
        names = parse_map(json.loads(text), "docs")
        assert names.entries
    worked = parse_map(json.loads(maps[0]), "docs")
    image = np.arange(10 * 288).reshape(10, 8, 6, 6)
    (port,) = worked.ports(["3.weight"])
    (got,) = port.apply([image.reshape(10, 288)])
    assert np.array_equal(got, image.transpose(2, 3, 1, 0).reshape(288, 10))
