"""Errors, units in the last place, and sentences about optimizers that are wrong apart from their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from optexport.parity.measures import BUCKETS, histogram, measure, relative_errors, ulps
from optexport.parity.series import Series, collect, parted

UPDATES = 4


def series(**slots: Any) -> Series:
    return {("w", s): np.asarray(v) for s, v in slots.items()}


BOUNDS = {"w": [1e-6, 2e-6, 3e-6, 4e-6]}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_ulps_count_the_numbers_between(dtype: str) -> None:
    one = np.array(1, dtype)
    for x, steps in ((one, 3), (-one, 3), (np.array(0, dtype), 5)):
        there = x
        for _ in range(steps):
            there = np.nextafter(there, np.array(np.inf, dtype))
        assert ulps(x[None], there[None].astype(np.float64)).tolist() == [steps]
    tiny = np.finfo(dtype).smallest_subnormal
    assert ulps(np.array([-tiny]), np.array([tiny])).tolist() == [2]
    assert ulps(np.array([0.0], dtype), np.array([-0.0])).tolist() == [0]


def test_ulps_of_the_farthest_numbers_and_of_nan() -> None:
    far = ulps(np.array([-np.inf]), np.array([np.inf]))
    assert far.tolist() == [2 * 0x7FF0000000000000]
    assert ulps(np.array([np.nan, np.nan, 1.0]), np.array([np.nan, 1.0, np.nan])).tolist() == [
        0,
        2**64 - 1,
        2**64 - 1,
    ]


def test_the_histogram_counts_every_element_once() -> None:
    distance = np.array([0, 0, 1, 2, 3, 4, 5, 65536, 65537, 2**64 - 1], np.uint64)
    got = dict(zip((*BUCKETS, "more"), histogram(distance), strict=True))
    assert got == {0: 2, 1: 1, 2: 1, 4: 2, 8: 1, 16: 0, 64: 0, 256: 0, 4096: 0, 65536: 1, "more": 2}


def test_relative_errors_are_of_each_update() -> None:
    want = np.array([[1.0, 2.0], [0.0, 0.0], [4.0, np.nan]])
    got = np.array([[1.0, 2.5], [0.0, 0.0], [4.0, np.nan]])
    assert relative_errors(got, want) == [0.25, 0.0, 0.0]
    assert relative_errors(np.array([[1.0]]), np.array([[0.0]])) == [float("inf")]


def test_the_slot_that_left_first_is_named() -> None:
    want = series(param=np.ones((UPDATES, 3)), m=np.ones((UPDATES, 3)))
    got = {k: v.copy() for k, v in want.items()}
    got["w", "m"][1, 2] += 1e-3
    got["w", "param"][2:] += 1e-2
    made = measure(got, want, BOUNDS)
    assert made.first == {"update": 2, "param": "w", "slot": "m", "error": pytest.approx(1e-3), "bound": 2e-6}
    assert made.sentence == "update 2, parameter 'w', m: relative error 0.001, bound 2e-06"
    assert not made.within
    assert [s.first for s in made.slots] == [3, 2]


def test_of_two_slots_at_one_update_the_farther_is_named() -> None:
    want = series(param=np.ones((UPDATES, 3)), m=np.ones((UPDATES, 3)))
    got = {("w", "param"): want["w", "param"] + 1e-4, ("w", "m"): want["w", "m"] + 1e-2}
    first = measure(got, want, BOUNDS).first
    assert first is not None and first["slot"] == "m"


def test_equal_runs_are_within() -> None:
    want = series(param=np.ones((UPDATES, 3)))
    made = measure(want, want, BOUNDS)
    assert (
        made.within and made.sentence == "" and made.error == 0 and made.ulp_max == 0 and made.first is None
    )


def test_nan_is_said() -> None:
    want = series(param=np.ones((UPDATES, 3)), m=np.ones((UPDATES, 3)))
    got = {k: v.copy() for k, v in want.items()}
    got["w", "m"][2, 1] = np.nan
    assert measure(got, want, BOUNDS).sentence == (
        "the optimizer returns NaN where the referee has numbers, from update 3 on: parameter 'w', m"
    )
    got["w", "m"][2, 1] = np.inf
    assert "returns an infinity where the referee has numbers" in measure(got, want, BOUNDS).sentence


def test_a_missing_slot_and_another_shape_are_said() -> None:
    want = series(param=np.ones((UPDATES, 3)), m=np.ones((UPDATES, 3)))
    got = series(param=np.ones((UPDATES, 3)))
    assert measure(got, want, BOUNDS).sentence == "parameter 'w': expected the slot m, found none"
    got["w", "m"] = np.ones((UPDATES, 3, 1))
    said = "the optimizer changes a shape: parameter 'w', m: expected shape (3,), found (3, 1)"
    assert measure(got, want, BOUNDS).sentence == said


def run(*values: Any, then: Exception | None = None) -> Iterator[Any]:
    for value in values:
        yield {"w": np.asarray(value)}, {"w": {}}
    if then is not None:
        raise then


def test_an_optimizer_that_raises_keeps_what_it_did() -> None:
    got, fault = collect(run([1.0], [2.0], then=ValueError("no such\nthing")))
    assert got["w", "param"].tolist() == [[1.0], [2.0]]
    assert fault is not None and fault.kind == "raises"
    assert str(fault) == "the optimizer raised at update 3: ValueError: no such thing"


def test_an_optimizer_that_needs_a_closure_is_told_apart() -> None:
    _, fault = collect(run(then=TypeError("step() missing 1 required positional argument: 'closure'")))
    assert fault is not None and fault.kind == "closure"
    assert str(fault).startswith("the optimizer needs a closure that computes the loss again")


def test_a_changed_shape_is_said() -> None:
    _, fault = collect(run([1.0], [[1.0]]))
    assert str(fault) == (
        "the optimizer changes a shape: update 2, parameter 'w', param: expected shape (1,) as before, found (1, 1)"
    )


def test_slots_that_come_and_go_are_said() -> None:
    def steps(*slots: dict[str, Any]) -> Iterator[Any]:
        for s in slots:
            yield {"w": np.ones(2)}, {"w": s}

    _, fault = collect(steps({"m": np.ones(2)}, {}))
    assert str(fault) == "update 2, parameter 'w', m: expected the value, found none any more"
    _, fault = collect(steps({}, {"m": np.ones(2)}))
    assert str(fault) == (
        "the optimizer changes its slots: update 2, parameter 'w': slot m was not there before"
    )


def test_two_runs_that_part_are_not_deterministic() -> None:
    a = series(param=np.ones((UPDATES, 3)), m=np.ones((UPDATES, 3)))
    b = {k: v.copy() for k, v in a.items()}
    assert parted(a, b) is None
    b["w", "param"][3] += 1e-16
    assert parted(a, b) is None  # 1 + 1e-16 is 1
    b["w", "param"][3] += 1e-15
    b["w", "m"][1] = -1
    assert str(parted(a, b)) == (
        "the optimizer is not deterministic: two runs on the same gradients differ from update 2 on, parameter 'w', m"
    )
