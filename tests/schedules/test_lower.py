"""One framework's schedule as another's: the real target has the source's values, or says why not."""

from __future__ import annotations

import math
import re

import pytest

import optexport as ox
from optexport.errors import UnknownNameError, VerdictError
from optexport.schedules.natives import find_schedule, native_schedules

from .real import STEPS, VALUES
from .table import KERAS, MXNET, OPTAX, TORCH, Row, name_of

FRAMEWORKS = ("torch", "mxnet", "optax", "keras")
ROWS = [*TORCH, *MXNET, *OPTAX, *KERAS]
# How many of the rows each framework can express, so that a reason does not quietly replace a map.
EXPRESSIBLE = {"torch": 49, "mxnet": 35, "optax": 64, "keras": 47}


def _until(call: ox.NativeCall) -> float:
    """Updates for which a conditional call's text promises equality."""
    found = [re.search(r"for (\d+)", c) for c in call.conditions]
    return min((float(f.group(1)) * call.every for f in found if f), default=0.0)


@pytest.mark.parametrize("to", FRAMEWORKS)
@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_the_target_has_the_sources_values(row: Row, to: str) -> None:
    schedule = ox.native_schedule(row[0], **row[1])
    try:
        call = ox.lower_schedule(schedule, to)
    except VerdictError as e:
        assert re.match(rf"{row[0]} to {to}: none; \w+: .{{10,}}", str(e))
        return
    assert call.native.startswith(f"{to}:")
    arguments = dict(call.arguments)
    if call.every != 1:
        arguments["steps_per_epoch"] = call.every
    real = VALUES[to](call.native.partition(":")[2], arguments)
    ends = STEPS if call.verdict == "exact" else int(min(STEPS, _until(call)))
    if row[0] == call.native == "torch:OneCycleLR":
        ends = min(ends, int(schedule.values["total"]) + 1)
    assert call.verdict in ("exact", "conditional") and bool(call.conditions) == (
        call.verdict == "conditional"
    )
    largest = max(map(abs, real))
    # Another formula for the same numbers: 1e-10 is far below one count of any of them; Keras' cosine
    # is float32.
    bound = 3e-7 if to == "keras" else 1e-10
    for k in range(ends):
        assert math.isclose(schedule.at(k), real[k], rel_tol=bound, abs_tol=bound * largest), (k, call)


@pytest.mark.parametrize("to", FRAMEWORKS)
def test_as_many_are_expressible_as_before(to: str) -> None:
    def able(row: Row) -> bool:
        try:
            ox.lower_schedule(ox.native_schedule(row[0], **row[1]), to)
        except VerdictError:
            return False
        return True

    assert sum(map(able, ROWS)) == EXPRESSIBLE[to]


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_to_its_own_framework_is_itself(row: Row) -> None:
    call = ox.lower_schedule(ox.native_schedule(row[0], **row[1]), row[0].partition(":")[0])
    assert call.native == row[0] and call.verdict == "exact"
    again = ox.native_schedule(
        call.native, **call.arguments, **({"steps_per_epoch": call.every} if call.every > 1 else {})
    )
    assert again == ox.native_schedule(row[0], **row[1])


@pytest.mark.parametrize(
    ("name", "to", "arguments", "native", "expected"),
    [
        (
            "torch:StepLR",
            "optax",
            {"lr": 0.1, "step_size": 30, "steps_per_epoch": 100},
            "optax:exponential_decay",
            {"init_value": 0.1, "transition_steps": 3000, "decay_rate": 0.1, "staircase": True},
        ),
        # A warm-up of one update moves MXNet's count, which begins at 1, to where PyTorch's is.
        (
            "torch:PolynomialLR",
            "mxnet",
            {"lr": 0.1, "total_iters": 50},
            "mxnet:PolyScheduler",
            {"base_lr": 0.1, "max_update": 51, "warmup_steps": 1, "pwr": 1.0},
        ),
        # Keras' boundary belongs to the value before it.
        (
            "torch:MultiStepLR",
            "keras",
            {"lr": 0.1, "milestones": [30, 80]},
            "keras:PiecewiseConstantDecay",
            {"boundaries": [29, 79]},
        ),
        (
            "mxnet:FactorScheduler",
            "torch",
            {"step": 20, "factor": 0.5, "base_lr": 0.3, "stop_factor_lr": 0},
            "torch:StepLR",
            {"lr": 0.3, "step_size": 20, "gamma": 0.5},
        ),
        (
            "optax:warmup_cosine_decay_schedule",
            "keras",
            {"init_value": 0.01, "peak_value": 0.1, "warmup_steps": 10, "decay_steps": 100},
            "keras:CosineDecay",
            {"decay_steps": 90, "warmup_steps": 10, "warmup_target": 0.1},
        ),
    ],
)
def test_what_people_ask_for(name: str, to: str, arguments: dict, native: str, expected: dict) -> None:
    call = ox.translate_schedule(name, to, **arguments)
    assert (call.native, call.verdict) == (native, "exact")
    assert {k: call.arguments[k] for k in expected} == expected


def test_a_cosine_that_rises_again_is_conditional() -> None:
    call = ox.translate_schedule("torch:CosineAnnealingLR", "optax", lr=0.1, T_max=50)
    assert call.verdict == "conditional"
    assert call.conditions == (
        "holds for 50 counts: then PyTorch's cosine rises again and the other stays at its end",
    )


@pytest.mark.parametrize(
    ("name", "to", "arguments", "reason"),
    [
        (
            "torch:CosineAnnealingLR",
            "optax",
            {"lr": 0.1, "T_max": 5, "steps_per_epoch": 7},
            "once in 7 updates",
        ),
        (
            "optax:linear_schedule",
            "torch:LinearLR",
            {"init_value": 0.0, "end_value": 0.1, "transition_steps": 5},
            r"factor in \(0, 1\]",
        ),
        ("mxnet:CosineScheduler", "torch", {"max_update": 50}, "counts do not begin at 0"),
        (
            "keras:InverseTimeDecay",
            "mxnet",
            {"initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 1.0},
            "inverse_time",
        ),
        ("torch:StepLR", "torch:LambdaLR", {"lr": 0.1, "step_size": 5}, "user's own Python function"),
    ],
)
def test_refusals_say_why(name: str, to: str, arguments: dict, reason: str) -> None:
    with pytest.raises(VerdictError, match=reason):
        ox.translate_schedule(name, to, **arguments)


def test_a_wrong_table_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that a table gets wrong are caught by their values."""
    row = find_schedule("optax:cosine_decay_schedule")
    lower = row.lower
    assert lower is not None

    def wrong(s: ox.Schedule) -> object:
        arguments, conditions, every = lower(s)
        return {**arguments, "decay_steps": arguments["decay_steps"] + 1}, conditions, every

    from dataclasses import replace

    table = native_schedules()["optax"]
    monkeypatch.setitem(table, "cosine_decay_schedule", replace(row, lower=wrong))  # type: ignore[arg-type, index]
    with pytest.raises(VerdictError, match=r"its value after \d+ updates would be"):
        ox.lower_schedule(ox.schedule("cosine", base=0.1, total=50), "optax:cosine_decay_schedule")


def test_unknown_targets() -> None:
    schedule = ox.schedule("constant", base=0.1)
    with pytest.raises(UnknownNameError, match="unknown framework 'tensorflow'; expected one of"):
        ox.lower_schedule(schedule, "tensorflow")
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'StepRL' of torch.*StepLR"):
        ox.lower_schedule(schedule, "torch:StepRL")
