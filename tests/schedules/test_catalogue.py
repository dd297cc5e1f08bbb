"""The schedules themselves: what they say, what they refuse, what their counting means."""

from __future__ import annotations

import math

import pytest

import optexport as ox
from optexport.errors import HyperparameterError, UnknownNameError
from optexport.ir import equations
from optexport.schedules import plans
from optexport.schedules.views import from_zero
from optexport.schedules.wire import schedule_from_message, schedule_to_message

# The least that each needs.
NEEDED = {
    "cosine_restarts": {"growth": "geometric"},
    "multi_step": {"milestones": [3, 7]},
    "one_cycle": {"anneal": "cosine", "phases": "two"},
    "one_cycle_momentum": {"anneal": "linear", "phases": "three"},
    "piecewise": {"boundaries": [3, 7], "values": [1.0, 0.5, 0.25]},
}
RISE = ox.schedule("linear", total=9)


@pytest.mark.parametrize("name", plans())
def test_every_plan_is_documented_and_complete(name: str) -> None:
    plan = plans()[name]
    assert plan.doc and plan.source
    schedule = ox.schedule(name, **NEEDED.get(name, {}))
    assert schedule.told().startswith(name)
    assert equations(schedule.program)[-1].startswith("value' = ")
    assert all(math.isfinite(schedule.at(k)) for k in (0, 1, 5, 10**6))
    assert {i.role for i in schedule.program.inputs()} <= {"step", "hyper"}


@pytest.mark.parametrize("name", plans())
def test_every_hyperparameter_matters(name: str) -> None:
    """Moved by 7 %, each of a schedule's numbers moves some value: none is declared in vain."""
    for schedule in _settings(name):
        for h, value in schedule.values.items():
            moved = plans()[name].schedule({**schedule.options, **schedule.values, h: value * 1.07 + 0.01})
            assert any(
                not math.isclose(schedule.at(k), moved.at(k), rel_tol=1e-9)
                for k in (*range(60), *range(60, 3000, 7))
            ), (h, schedule.told())


def _settings(name: str) -> list[ox.Schedule]:
    """A schedule at each choice of each of its options, every number away from its neutral value."""
    plan = plans()[name]
    numbers = {"begin": 5.0, "limit": 5e-4, "power": 1.3, "end": 2e-4, "start": 3e-4, "shrink": 0.9, "total": 300.0,
               "rise": 0.3, "gamma": 0.6, "rate": 0.3, "warmup": 30.0}  # fmt: skip
    out = []
    choices = {n: list(o.choices) for n, o in plan.options.items() if getattr(o, "choices", None)}
    base = {**{n: c[0] for n, c in choices.items()}, **NEEDED.get(name, {})}
    for option, values in [("", [None]), *choices.items()]:
        for value in values:
            told = {**base, **({option: value} if option else {})}
            if told.get("stop") == "above":
                told["limit"] = 5e-4
            made = plan.schedule({k: v for k, v in told.items() if k in plan.options})
            own = {h: numbers[h] for h in made.values if h in numbers}
            out.append(plan.schedule({**made.options, **own}))
    return out


def test_counting() -> None:
    """Each count of ``every`` updates has one value; ``first`` updates are done before the first."""
    plain = ox.schedule("exponential", base=1.0, gamma=0.5)
    slow = ox.schedule("exponential", base=1.0, gamma=0.5, every=3)
    late = ox.schedule("exponential", base=1.0, gamma=0.5, every=3, first=2)
    assert [plain.at(k) for k in range(4)] == [1.0, 0.5, 0.25, 0.125]
    assert [slow.at(k) for k in range(7)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    assert [late.at(k) for k in range(5)] == [1.0, 0.5, 0.5, 0.5, 0.25]
    assert plain.counted(every=3, first=2) == late


@pytest.mark.parametrize(
    "schedule",
    [
        ox.schedule("step", base=1.0, gamma=0.5, period=4, every=3, first=3),
        ox.schedule("multi_step", base=1.0, gamma=0.5, milestones=[1, 4, 9], every=2, first=6),
        ox.schedule("piecewise", boundaries=[2, 5], values=[1.0, 3.0, 2.0], every=5, first=10),
        ox.schedule("exponential", base=1.0, gamma=0.5, period=4, every=3),
        ox.schedule("linear", start=1.0, end=3.0, total=20, first=5),
        ox.schedule("linear", start=1.0, end=3.0, total=20, first=50),
        ox.schedule("polynomial", base=1.0, total=20, begin=9, first=5),
        ox.schedule("constant", base=2.0, every=9, first=4),
        ox.schedule("joined", parts=[RISE, ox.schedule("cosine", total=30)], boundaries=[9], first=4),
        ox.schedule("joined", parts=[RISE, ox.schedule("step")], boundaries=[9], first=12),
    ],
    ids=lambda s: s.told(),
)  # fmt: skip
def test_counts_from_zero_have_the_same_values(schedule: ox.Schedule) -> None:
    plain = from_zero(schedule)
    assert plain.every == 1
    for k in range(80):
        assert math.isclose(plain.at(k), schedule.at(k), rel_tol=1e-13), k


def test_restarts_begin_where_they_should() -> None:
    """The cycle's number is a logarithm; its rounding must not move a restart by one update."""
    for cycle, stretch in ((1, 2), (3, 2), (7, 3), (10, 10), (5, 1.1)):
        schedule = ox.schedule("cosine_restarts", growth="geometric", base=1.0, cycle=cycle, stretch=stretch)
        begin, length = 0.0, float(cycle)
        while begin < 10**6:
            begin, length = begin + length, length * stretch
            if begin.is_integer():
                assert schedule.at(int(begin)) > 1 - 1e-6, (cycle, stretch, begin)
                assert schedule.at(int(begin) - 1) < 0.9 or length < 20, (cycle, stretch, begin)


def test_bad_arguments() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'cosin'; .*nearest: cosine"):
        ox.schedule("cosin")
    with pytest.raises(
        HyperparameterError, match=r"schedule cosine: 'total' expected a number in \[1, inf\], found 0"
    ):
        ox.schedule("cosine", total=0)
    with pytest.raises(HyperparameterError, match=r"'gamma' expected a number in \[0, inf\], found -1"):
        ox.schedule("step", gamma=-1)
    with pytest.raises(
        HyperparameterError, match="schedule step: unknown argument 'sise'; expected one of base, gamma"
    ):
        ox.schedule("step", sise=3)
    with pytest.raises(
        HyperparameterError, match="multi_step: missing argument 'milestones': counts at which"
    ):
        ox.schedule("multi_step")
    with pytest.raises(
        HyperparameterError, match=r"'milestones' expected a list of rising whole numbers, found \[5, 3\]"
    ):
        ox.schedule("multi_step", milestones=[5, 3])
    with pytest.raises(HyperparameterError, match="expected 2 values around 1 boundaries, found 3"):
        ox.schedule("piecewise", boundaries=[1], values=[1, 2, 3])
    with pytest.raises(
        HyperparameterError, match="step: 'limit' has no effect with stop=\"none\"; leave it out"
    ):
        ox.schedule("step", limit=0.1)
    with pytest.raises(
        HyperparameterError, match=r"option 'every' expected a whole number in \[1, .*found 0"
    ):
        ox.schedule("step", every=0)
    with pytest.raises(HyperparameterError, match="expected 1 boundaries between 2 schedules, found 0"):
        ox.schedule("joined", parts=[ox.schedule("constant")] * 2, boundaries=[])
    with pytest.raises(
        HyperparameterError, match="schedule product: expected at least one schedule, found none"
    ):
        ox.schedule("product", parts=[])
    with pytest.raises(HyperparameterError, match="joined: missing argument 'parts'"):
        ox.schedule("joined", boundaries=[3])


def test_bad_native_arguments() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown schedule 'CosineAnealingLR' of torch.*CosineAnnealingLR"
    ):
        ox.native_schedule("torch:CosineAnealingLR")
    with pytest.raises(UnknownNameError, match="expected FRAMEWORK:SCHEDULE"):
        ox.native_schedule("StepLR")
    with pytest.raises(UnknownNameError, match=r"unknown argument 'stepsize'; .*did you mean step_size"):
        ox.native_schedule("torch:StepLR", lr=0.1, stepsize=3)
    with pytest.raises(
        HyperparameterError, match="torch:StepLR: missing argument 'step_size'; it has no default"
    ):
        ox.native_schedule("torch:StepLR", lr=0.1)
    with pytest.raises(HyperparameterError, match=r"'start_factor' expected a number in \(0, 1\], found 0"):
        ox.native_schedule("torch:LinearLR", lr=0.1, start_factor=0)
    with pytest.raises(
        HyperparameterError, match=r"'steps_per_epoch' expected a whole number in \[1, inf\), found 0"
    ):
        ox.native_schedule("torch:StepLR", lr=0.1, step_size=3, steps_per_epoch=0)
    with pytest.raises(HyperparameterError, match="ReduceLROnPlateau: depends on a metric"):
        ox.native_schedule("torch:ReduceLROnPlateau")
    with pytest.raises(HyperparameterError, match="LambdaLR: is the user's own Python function"):
        ox.native_schedule("torch:LambdaLR")
    with pytest.raises(
        HyperparameterError, match="CosineAnnealingLR inside a ChainedScheduler adds to the learning rate"
    ):
        ox.native_schedule("torch:ChainedScheduler", lr=0.1, schedulers=[("CosineAnnealingLR", {"T_max": 5})])
    with pytest.raises(HyperparameterError, match="expected total_steps, or both epochs and steps_per_epoch"):
        ox.native_schedule("torch:OneCycleLR", max_lr=0.1)
    with pytest.raises(HyperparameterError, match="cycle_momentum is False"):
        ox.native_schedule("torch:OneCycleLR", of="momentum", max_lr=0.1, total_steps=5, cycle_momentum=False)
    with pytest.raises(UnknownNameError, match="StepLR: does not schedule 'momentum'; expected one of lr"):
        ox.native_schedule("torch:StepLR", of="momentum", lr=0.1, step_size=3)
    with pytest.raises(
        HyperparameterError, match=r"'max_update' expected a whole number in \[11, inf\), found 10"
    ):
        ox.native_schedule("mxnet:CosineScheduler", max_update=10, warmup_steps=10)
    with pytest.raises(
        HyperparameterError, match=r"'warmup_begin_lr' expected a number in \(-inf, 0.01\], found 1"
    ):
        ox.native_schedule("mxnet:CosineScheduler", max_update=10, warmup_begin_lr=1)


def test_bad_schedules_in_specs() -> None:
    schedule = ox.schedule("constant", base=0.1)
    with pytest.raises(
        HyperparameterError, match=r"schedule of 'nothing': expected a hyperparameter among lr"
    ):
        ox.native("torch:SGD", schedule={"nothing": schedule})
    with pytest.raises(
        HyperparameterError, match=r"schedule of 'lr': expected optexport.schedule\(…\), found 'cosine'"
    ):
        ox.native("torch:SGD", schedule="cosine")
    with pytest.raises(HyperparameterError, match=r"'beta1' expected a number in \[0, 1\), found 1.5"):
        ox.spec("adam", beta1=ox.schedule("constant", base=1.5))
    rising = ox.spec("adam", beta1=ox.schedule("linear", start=0.5, end=1.5, total=10)).groups[0]
    assert rising.values(step=4)["beta1"] == 0.9
    with pytest.raises(
        HyperparameterError, match=r"linear\(.*\) after 5 updates: 'beta1' expected a number in \[0, 1\)"
    ):
        rising.values(step=5)
    with pytest.raises(HyperparameterError, match="argument 'betas' expected a number, found a schedule"):
        ox.native("torch:AdamW", betas=schedule)


def test_a_damaged_message_is_refused() -> None:
    from optexport.errors import CheckpointError

    m = schedule_to_message(ox.schedule("cosine", base=0.1))
    assert schedule_from_message(m, "x") == ox.schedule("cosine", base=0.1)
    m.values["base"] = 0.2
    with pytest.raises(CheckpointError, match="not those of its digest; damaged"):
        schedule_from_message(m, "x")
    del m.values["base"]
    with pytest.raises(CheckpointError, match="hyperparameter 'base' has no value"):
        schedule_from_message(m, "x")
    m = schedule_to_message(ox.schedule("cosine", base=0.1))
    for node in m.program.nodes:
        if node.input.role == "step":
            node.input.role, node.type = "grad", "tensor"
    with pytest.raises(CheckpointError, match="x: "):
        schedule_from_message(m, "x")


def test_a_schedule_of_a_later_release_keeps_its_program() -> None:
    """A name that is not known here: the file's program speaks for itself."""
    known = ox.schedule("cosine", base=0.1, total=50)
    m = schedule_to_message(known)
    m.name = "cosine_of_tomorrow"
    again = schedule_from_message(m, "x")
    assert again.name == "cosine_of_tomorrow"
    assert [again.at(k) for k in range(60)] == [known.at(k) for k in range(60)]
