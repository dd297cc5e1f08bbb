"""Names: told by the file, by a list or by shapes; never guessed."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optexport.errors import NamingError
from optexport.state.names import check_shapes, match_by_shape, names_from_list, parameters, read_names
from optexport.state.native import Weights

MODEL = {"fc1.weight": (16, 8), "fc1.bias": (16,), "fc2.weight": (4, 16), "fc2.bias": (4,)}


def refused(call, *args) -> str:
    with pytest.raises(NamingError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Lists.


@pytest.mark.parametrize(
    "text",
    [
        '["fc1.weight", "fc1.bias"]',
        '  [["fc1.weight"], ["fc1.bias"]]\n',
        '["fc1.weight", ["fc1.bias"]]',
        "fc1.weight\nfc1.bias\n",
        "\n fc1.weight \r\n\r\nfc1.bias",
        "\ufefffc1.weight\nfc1.bias",
        '\ufeff["fc1.weight", "fc1.bias"]',
    ],
)
def test_a_list_of_names(tmp_path, text):
    path = tmp_path / "names"
    path.write_text(text, encoding="utf-8")
    assert read_names(str(path)) == ["fc1.weight", "fc1.bias"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe\x00", "expected a JSON list of names or one name a line, found no readable text"),
        (b'["a", ', "expected a JSON list of names: "),
        (b'["a", 1]', "expected names, found 1"),
        (b'[["a"], [["b"]]]', "expected names, found ['b']"),
        (b'[{"a": 1}]', "expected names, found {'a': 1}"),
        (b'["a", "b", "a"]', "'a' occurs twice; expected each parameter once"),
        (b"a\nb\nb\n", "'b' occurs twice; expected each parameter once"),
        (b"[" * 100_000, "expected a JSON list of names: "),
        (b"[" + b"1" * 10_000 + b"]", "expected "),
    ],
)
def test_what_is_no_list_of_names(tmp_path, data, message):
    path = tmp_path / "names"
    path.write_bytes(data)
    assert refused(read_names, str(path)).startswith(f"{path}: {message}")


def test_a_list_that_is_not_there(tmp_path):
    path = str(tmp_path / "none")
    assert refused(read_names, path) == f"{path}: no such file; expected a list of parameter names"
    assert "found no readable text" in refused(read_names, str(tmp_path))


def test_a_list_states_the_order():
    assert names_from_list(["0", "1"], ["b", "a"], "f.pt") == {"0": "b", "1": "a"}
    assert refused(names_from_list, ["0", "1", "2"], ["a", "b"], "f.pt") == (
        "f.pt: holds 3 parameters, the list of names has 2; list every parameter the optimizer was given, in that order"
    )


# Shapes.


def test_shapes_that_are_all_different_tell_the_names():
    keys = {"0": (4,), "1": (16, 8), "2": (16,), "3": (4, 16)}
    assert match_by_shape(keys, MODEL, "f") == {
        "0": "fc2.bias",
        "1": "fc1.weight",
        "2": "fc1.bias",
        "3": "fc2.weight",
    }


def test_one_parameter_that_was_never_updated_is_the_one_left():
    keys = {"0": (16, 8), "1": None, "2": (4, 16), "3": (4,)}
    assert match_by_shape(keys, MODEL, "f")["1"] == "fc1.bias"


def test_two_parameters_that_only_order_tells_apart():
    model = {"a.weight": (8, 8), "b.weight": (8, 8), "bias": (8,)}
    message = refused(match_by_shape, {"0": (8, 8), "1": (8, 8), "2": (8,)}, model, "f.pt")
    assert message == (
        "f.pt: parameter '0' of shape [8, 8] may be a.weight or b.weight; only order tells them apart: state it with "
        "--names (a list in the order the optimizer was given them)"
    )


def test_a_model_of_another_size():
    message = refused(match_by_shape, {"0": (8,)}, MODEL, "f.pt")
    assert message == (
        "f.pt: holds 1 parameters, the model has 4 (fc1.weight, fc1.bias, fc2.weight, fc2.bias); pass the names of "
        "those that the optimizer has with --names"
    )


def test_a_shape_that_the_model_lacks():
    keys = {"0": (16, 8), "1": (16,), "2": (4, 17), "3": (4,)}
    message = refused(match_by_shape, keys, MODEL, "f.pt")
    assert message == (
        "f.pt: parameter '2': expected a shape of the model, found [4, 17]; the model has fc1.weight [16, 8], "
        "fc1.bias [16], fc2.weight [4, 16], fc2.bias [4]; is it the right model?"
    )


def test_two_of_one_shape_and_a_model_with_one():
    keys = {"0": (16,), "1": (16,), "2": (4, 16), "3": (4,)}
    message = refused(match_by_shape, keys, MODEL, "f.pt")
    assert message == "f.pt: two parameters of shape [16] match 'fc1.bias'; is it the right model?"


def test_two_that_were_never_updated():
    keys = {"0": None, "1": (16,), "2": None, "3": (4,)}
    message = refused(match_by_shape, keys, MODEL, "f.pt")
    assert message == (
        "f.pt: parameters 0, 2 were never updated and have no shape; they may be fc1.weight or fc2.weight: state the "
        "order with --names"
    )


def test_without_any_state_order_does_no_harm_in_one_group():
    keys = dict.fromkeys("0123")
    assert list(match_by_shape(keys, MODEL, "f").values()) == list(MODEL)


def test_without_any_state_order_would_choose_the_group():
    message = refused(match_by_shape, dict.fromkeys("0123"), MODEL, "f.pt", 2)
    assert message == (
        "f.pt: holds no state that could tell which of its 2 groups a parameter is in; state the order with --names"
    )


def test_a_long_model_is_not_listed_whole():
    model = {f"layer{i}.weight": (i + 1,) for i in range(500)}
    message = refused(match_by_shape, {"0": (1,)}, model, "f")
    assert "layer5.weight, … 500 in all" in message and "layer6." not in message


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
       st.permutations(range(6)), st.sets(st.integers(0, 5)))  # fmt: skip
def test_what_is_matched_is_the_only_way_to_match(model, order, stateless):
    """Whenever an answer comes, no other assignment of names fits the shapes."""
    names = [list(model)[i] for i in order if i < len(model)]
    keys = {str(i): None if i in stateless else model[n] for i, n in enumerate(names)}
    try:
        found = match_by_shape(keys, model, "f")
    except NamingError:
        return
    assert sorted(found.values()) == sorted(model)
    if any(s is not None for s in keys.values()) or len(keys) < 2:
        assert found == {str(i): n for i, n in enumerate(names)}


def test_names_of_the_file_are_compared_with_the_model():
    check_shapes({"fc1.weight": (16, 8), "fc2.bias": None}, MODEL, "f")
    assert refused(check_shapes, {"fc1.wieght": (16, 8)}, MODEL, "f.pt") == (
        "f.pt: parameter 'fc1.wieght': expected a parameter of the model (fc1.weight, fc1.bias, fc2.weight, fc2.bias)"
    )
    assert refused(check_shapes, {"fc1.weight": (8, 16)}, MODEL, "f.pt") == (
        "f.pt: parameter 'fc1.weight': state has shape [8, 16], the model [16, 8]; is it the right model?"
    )


def test_running_statistics_and_integers_are_no_parameters():
    tensors = {
        "bn.weight": np.ones(2, np.float32),
        "bn.running_mean": np.ones(2, np.float32),
        "bn.running_var": np.ones(2, np.float32),
        "bn.num_batches_tracked": np.array(1),
        "ids": np.arange(3),
        "half": np.ones(1, np.float16),
        "brain": np.ones(1, ml_dtypes.bfloat16),
    }
    assert parameters(Weights(tensors, True)) == {"bn.weight": (2,), "half": (1,), "brain": (1,)}


def test_many_names_are_read_quickly(tmp_path):
    names = [f"layers.{i}.weight" for i in range(50_000)]
    (tmp_path / "names").write_text(json.dumps(names))
    assert read_names(str(tmp_path / "names")) == names
