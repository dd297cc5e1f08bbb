"""A map found from two weights files: by values, then names, then shapes; never by a guess."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optexport.errors import NamingError
from optexport.state.matching import LAYOUTS, derive_map
from optexport.state.native import Weights


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def found(
    source: dict[str, np.ndarray], target: dict[str, np.ndarray], **given: Any
) -> dict[str, tuple[str, Any]]:
    names, _ = derive_map(Weights(source, True), Weights(target, True), "t.h5", **given)
    return {
        e.sources[0]: (
            e.targets[0] if e.targets else "",
            None if e.axes is None else e.axes.order or e.axes.text,
        )
        for e in names.entries
    }


def refused(*args: Any, **given: Any) -> str:
    with pytest.raises(NamingError) as caught:
        found(*args, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_decide_whatever_names_and_shapes():
    a, b, conv = random(4, 4), random(4, 4, seed=1), random(3, 3, 3, 3)
    source = {"a": a, "b": b, "conv": conv, "bias": random(4)}
    target = {"b": a.T.copy(), "x": b, "y": conv.transpose(2, 3, 1, 0).copy(), "z": random(4)}
    assert found(source, target) == {
        "a": ("b", (1, 0)),
        "b": ("x", None),
        "conv": ("y", (2, 3, 1, 0)),
        "bias": ("z", None),
    }


def test_a_layer_behind_a_flattened_image():
    w = random(5, 24)
    image = w.reshape(5, 4, 6)
    assert found({"w": w}, {"k": image.transpose(2, 1, 0).reshape(24, 5)})["w"] == ("k", "o (c s) -> (s c) o")
    assert found({"w": w}, {"k": image.transpose(0, 2, 1).reshape(5, 24)})["w"] == ("k", "o (c s) -> o (s c)")
    back = found({"w": image.transpose(2, 1, 0).reshape(24, 5)}, {"k": w})["w"]
    assert back == ("k", "(c s) o -> o (s c)")


@given(st.permutations(range(3)), st.integers(0, 99))
def test_any_order_of_axes_is_found(order, seed):
    w = random(3, 3, 3, seed=seed)
    want = None if list(order) == [0, 1, 2] else tuple(order)
    assert found({"w": w}, {"v": np.ascontiguousarray(w.transpose(order))}) == {"w": ("v", want)}


def test_zeros_go_by_shape_or_by_name():
    source = {"w": random(4, 3), "w.bias": np.zeros(4), "v.bias": np.zeros(3), "same": np.ones(9)}
    target = {"k": random(4, 3), "b1": np.zeros(3), "b0": np.zeros(4), "same": np.ones(9)}
    got = found(source, target)
    assert got == {"w": ("k", None), "w.bias": ("b0", None), "v.bias": ("b1", None), "same": ("same", None)}


def test_where_values_are_found_other_values_are_another_tensor():
    source = {"w": random(4, 3), "head": random(2, 4)}
    target = {"w": random(4, 3), "head": random(2, 4, seed=5)}
    message = refused(source, target)
    assert "'head' [2, 4] has no counterpart: its values are nowhere in the target model" in message
    assert "left there: head [2, 4]" in message
    assert found(source, target, partial=True)["head"] == ("", None)


def test_two_candidates_are_an_error_that_lists_them():
    message = refused({"a": random(4, 3)}, {"x": random(4, 3, seed=1), "y": random(3, 4, seed=2)})
    assert "'a' [4, 3] may be x or y; neither values nor shapes tell" in message
    message = refused({"a": random(4, 3), "b": random(3, 4)}, {"x": random(4, 3, seed=1)})
    assert "'a' [4, 3] may be x, as may 'b'" in message
    message = refused({"a": random(4)}, {"x": random(4), "y": random(4)})
    assert "'a' and x and y of the target have equal values; only a map tells them apart" in message
    message = refused({"a": random(4), "b": random(4)}, {"x": random(4)})
    assert "'a' and 'b' of the source have equal values" in message
    # Equal names tell equal values apart.
    assert found({"a": random(4), "b": random(4)}, {"b": random(4), "a": random(4)}) == {
        "a": ("a", None),
        "b": ("b", None),
    }


def test_a_square_matrix_needs_values_or_a_convention():
    source, target = {"a": random(4, 4)}, {"x": random(4, 4, seed=1)}
    message = refused(source, target)
    assert "'a' [4, 4] is 'x' with its axes as they are or 'a0 a1 -> a1 a0'" in message
    assert "--layout torch-to-keras" in message
    names, told = derive_map(Weights(source, True), Weights(target, True), "t", layout="torch-to-keras")
    assert names.entries[0].axes.order == (1, 0)
    assert "either order of the axes fits; taken as torch-to-keras has it" in told[0]
    assert found(source, target, layout="same") == {"a": ("x", None)}
    symmetric = {"a": np.eye(4, dtype=np.float32)}
    assert "is 'x' with its axes as" in refused(symmetric, {"x": np.eye(4, dtype=np.float32)})


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((4, 3), (1, 0)),
        ((8, 3, 5), (2, 1, 0)),
        ((8, 3, 5, 5), (2, 3, 1, 0)),
        ((8, 1, 5, 5), (2, 3, 0, 1)),
        ((8, 3, 5, 5, 5), (2, 3, 4, 1, 0)),
    ],
)
def test_conventions(shape, order):
    w = random(*shape)
    other = random(*shape, seed=1).transpose(order).copy()
    assert found({"w": w}, {"v": other}, layout="torch-to-keras") == {"w": ("v", order)}
    back = found({"w": other}, {"v": w}, layout="keras-to-torch")["w"][1]
    assert np.array_equal(other.transpose(back), other.transpose(np.argsort(order)))
    # A table of embeddings stands the same way in both.
    assert found({"w": random(9, 2)}, {"v": random(9, 2, seed=1)}, layout="torch-to-keras") == {
        "w": ("v", None)
    }


def test_what_is_matched_by_shape_alone_is_said():
    _, told = derive_map(Weights({"w": random(4, 3)}, True), Weights({"v": random(3, 4, seed=2)}, True), "t")
    assert (
        "w: matched by shape alone, which does not tell the order of elements behind a flattened image"
        in told[0]
    )
    _, told = derive_map(Weights({"w": random(4)}, True), Weights({"v": random(4, seed=2)}, True), "t")
    assert told == []


def test_only_the_optimizers_parameters_need_a_counterpart():
    source = {"w": random(4, 3), "frozen": random(2, 2), "running": random(4)}
    target = {"v": random(4, 3), "mean": random(4)}
    assert found(source, target, names=["w"]) == {"w": ("v", None), "running": ("mean", None)}
    assert "'frozen' [2, 2] has no counterpart" in refused(source, target)


def test_dtypes_and_conventions_are_named():
    assert "layout 'x': expected one of torch-to-keras" in refused({}, {}, layout="x")
    assert all(
        sorted(o) == list(range(r)) for c in LAYOUTS.values() for r, orders in c.items() for o in orders
    )


def test_a_large_model_takes_no_time():
    source = {f"layers.{i}.weight": random(2, 3, seed=i) for i in range(3000)}
    target = {n.replace(".", "/"): a.T.copy() for n, a in source.items()}
    names, _ = derive_map(Weights(source, True), Weights(target, True), "t")
    assert [p.targets[0] for p in names.ports(source)] == list(target)


def test_a_name_with_a_star_is_refused():
    assert "'a*' has a '*', which is a wildcard in a map; rename it" in refused(
        {"a*": random(2)}, {"x": random(2)}
    )
