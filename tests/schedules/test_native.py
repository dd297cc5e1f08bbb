"""Every native schedule, value by value, against the real framework."""

from __future__ import annotations

import math

import pytest

import optexport as ox

from .real import STEPS, VALUES, torch_values
from .table import KERAS, MXNET, OPTAX, TORCH, Row, name_of

# PyTorch's chained forms round a few times a step, everyone else's formula a few times a value: 16
# roundings a count stay below 1e-12 for the counts here, and no test may ask for more.
BOUND = 1e-12


# Keras' ops.cos computes in float32 whatever its operand's dtype: the angle, up to π, and the cosine are
# rounded, and half of the cosine is in the value.
FLOAT32_COSINE = (math.pi + 1) / 2 * 2.0**-24


def tolerance(k: int, row: Row) -> float:
    """Relative to the value, and to the schedule's largest one where the formula subtracts from it."""
    if row[0].startswith("keras:Cosine"):
        return FLOAT32_COSINE
    return min(BOUND, 16 * 2.0**-53 * (k + 16))


@pytest.mark.parametrize("row", [*TORCH, *MXNET, *OPTAX, *KERAS], ids=name_of)
def test_values_are_the_frameworks(row: Row) -> None:
    framework, _, name = row[0].partition(":")
    real = VALUES[framework](name, row[1])
    schedule = ox.native_schedule(row[0], **row[1])
    ours = [schedule.at(k) for k in range(STEPS)]
    if name == "OneCycleLR":
        # PyTorch has a value up to the count total_steps, and refuses the next.
        total = int(schedule.values["total"])
        real, ours = real[: total + 1], ours[: total + 1]
    largest = max(map(abs, real))
    assert largest > 0 and (
        len(set(real)) > 1 or "onstant" in name or 0 in row[1].values() or len(row[1]) == 1
    )
    for k, (a, b) in enumerate(zip(ours, real, strict=True)):
        bound = tolerance(k, row)
        assert math.isclose(a, b, rel_tol=bound, abs_tol=bound * largest), (k, a, b)


@pytest.mark.parametrize("row", [r for r in TORCH if r[0] == "torch:OneCycleLR"], ids=name_of)
def test_momentum_of_one_cycle(row: Row) -> None:
    schedule = ox.native_schedule(row[0], of="momentum", **row[1])
    total = int(schedule.values["total"])
    real = torch_values("OneCycleLR", row[1], "momentum")[: total + 1]
    assert len(set(real)) > 10
    for k, b in enumerate(real):
        assert math.isclose(schedule.at(k), b, rel_tol=1e-13), k


@pytest.mark.parametrize(
    ("row", "k"), [(TORCH[2], 30), (MXNET[0], 20), (OPTAX[11], 20), (KERAS[4], 11)], ids=lambda x: str(x)
)
def test_a_break_falls_on_its_update(row: Row, k: int) -> None:
    """The break belongs to the update after ``k`` completed ones, in every framework; one off is noticed."""
    framework, _, name = row[0].partition(":")
    schedule = ox.native_schedule(row[0], **row[1])
    real = VALUES[framework](name, row[1], steps=k + 1)
    assert real[k] < 0.9 * real[k - 1]
    assert schedule.at(k) == pytest.approx(real[k], rel=1e-6)
    assert schedule.at(k - 1) == pytest.approx(real[k - 1], rel=1e-6)
