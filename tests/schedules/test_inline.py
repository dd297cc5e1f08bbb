"""A schedule inside a rule, on every backend, is the referee's schedule outside it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import optexport as ox
from optexport.dialects import converter
from optexport.errors import HyperparameterError
from optexport.ir import equations
from optexport.parity import compare_runs, problem, referee
from optexport.reference import init, step
from optexport.schedules.inline import inline
from optexport.state.manifest import spec_from_text, spec_text
from tests.parity.backends import require_backend

STEPS = 40
SCHEDULES = {
    "constant": ox.schedule("constant", base=0.05),
    "step": ox.schedule("step", base=0.1, gamma=0.5, period=7, stop="below", limit=0.02),
    "multi_step": ox.schedule("multi_step", base=0.1, gamma=0.3, milestones=[5, 5, 21]),
    "exponential": ox.schedule("exponential", base=0.1, gamma=0.7, period=5, begin=3),
    "polynomial": ox.schedule("polynomial", base=0.1, end=0.01, power=1.7, total=13, after="cycle"),
    "cosine": ox.schedule("cosine", base=0.1, end=0.02, total=20, after="mirror"),
    "restarts": ox.schedule("cosine_restarts", base=0.1, cycle=4, growth="geometric", stretch=2, shrink=0.9),
    "one_cycle": ox.schedule("one_cycle", base=0.1, total=35, anneal="cosine", phases="three"),
    "inverse_sqrt": ox.schedule("inverse_sqrt", base=0.1, warmup=6),
    "inverse_time": ox.schedule("inverse_time", base=0.1, rate=0.4, period=3, staircase=True),
    "piecewise": ox.schedule(
        "piecewise", boundaries=[4, 9, 30], values=[0.1, 0.05, 0.2, 0.01], between="linear"
    ),
    "mxnet": ox.native_schedule("mxnet:CosineScheduler", max_update=30, warmup_steps=5, base_lr=0.2),
    "epochs": ox.native_schedule("torch:ExponentialLR", lr=0.1, gamma=0.6, steps_per_epoch=6),
    "product": ox.native_schedule(
        "torch:ChainedScheduler",
        lr=0.1,
        schedulers=[("LinearLR", {"total_iters": 8}), ("StepLR", {"step_size": 9, "gamma": 0.4})],
    ),
}


@pytest.mark.parametrize("backend", ["onnx", "torch", "mxnet", "optax", "keras"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_backend_runs_the_schedule(name: str, backend: str) -> None:
    require_backend(backend)
    p = problem(np.float64, steps=STEPS)
    schedule = SCHEDULES[name]
    spec = ox.spec("adamw", lr=schedule, weight_decay=0.1)
    lrs = [schedule.at(k) for k in range(STEPS)]
    assert name == "constant" or len(set(lrs)) > 2
    states = referee(ox.spec("adamw", lr=1.0, weight_decay=0.1), p.params, p.grads, lrs)
    inside = inline(spec) if backend == "optax" else spec
    snapshots = converter(backend, "run").snapshots(inside, p.params, p.grads, None, dtype="float64")
    mismatch, _ = compare_runs(states, snapshots, "float64")
    assert mismatch is None, str(mismatch)


def test_the_referee_follows_the_schedule() -> None:
    p = problem(np.float64, steps=STEPS)
    schedule = SCHEDULES["cosine"]
    follows, given, inside = (
        init(s, p.params)
        for s in (
            ox.spec("momentum", lr=schedule, momentum=0.9),
            ox.spec("momentum", lr=0.5, momentum=0.9),
            inline(ox.spec("momentum", lr=schedule, momentum=0.9)),
        )
    )
    for k, gradients in enumerate(p.grads):
        follows = step(follows, gradients)
        given = step(given, gradients, lr=schedule.at(k))
        inside = step(inside, gradients)
        for n in p.params:
            assert np.array_equal(follows.params[n], given.params[n])
            assert np.array_equal(follows.params[n], inside.params[n])
    overruled = step(follows, p.grads[0], lr=0.0)
    assert np.array_equal(overruled.params["w"], follows.params["w"])


def test_momentum_and_decay_may_be_scheduled_too() -> None:
    require_backend("torch")
    p = problem(np.float64, steps=20)
    one = {"max_lr": 0.1, "total_steps": 20}
    schedules = {
        "lr": ox.native_schedule("torch:OneCycleLR", **one),
        "beta1": ox.native_schedule("torch:OneCycleLR", of="momentum", **one),
        "weight_decay": ox.schedule("linear", start=0.1, end=0.0, total=10),
    }
    spec = ox.native("torch:AdamW", schedule=schedules)
    state = init(spec, p.params)
    plain = ox.native("torch:AdamW").groups[0]
    for k, gradients in enumerate(p.grads):
        values = {**plain.hyperparameters, **{h: s.at(k) for h, s in schedules.items()}}
        by_hand = step(
            ox.TrainingState(
                ox.Spec((_settled(plain, values, p.params),)), state.params, state.slots, state.steps
            ),
            gradients,
        )
        state = step(state, gradients)
        assert np.array_equal(by_hand.params["w"], state.params["w"])
    snapshots = converter("torch", "run").snapshots(spec, p.params, p.grads, None, dtype="float64")
    mismatch, _ = compare_runs([state], itertools.islice(snapshots, 19, 20), "float64", amplification=20)
    assert mismatch is None, str(mismatch)


def _settled(group: ox.Group, values: dict[str, float], params: dict[str, np.ndarray]) -> ox.Group:
    from dataclasses import replace

    return replace(group, hyperparameters=values, params=tuple(params))


def test_factors_of_a_group_multiply_the_scheduled_value() -> None:
    """A cosine with an end is not proportional to its base: the factor is on the value."""
    from dataclasses import replace

    schedule = SCHEDULES["cosine"]
    spec = ox.spec("sgd", lr=schedule)
    spec = ox.Spec(tuple(replace(g, lr_mult=0.5) for g in spec.groups))
    p = problem(np.float64, steps=3)
    outside, inside = init(spec, p.params), init(inline(spec), p.params)
    for gradients in p.grads:
        outside, inside = step(outside, gradients), step(inside, gradients)
    assert np.array_equal(outside.params["w"], inside.params["w"])
    moved = p.params["w"] - 0.5 * sum(schedule.at(k) * g["w"] for k, g in enumerate(p.grads))
    assert np.allclose(outside.params["w"], moved, rtol=1e-14)


def test_a_slot_that_starts_at_a_scheduled_value() -> None:
    """The inlined rule has no hyperparameter left to start it from."""
    from dataclasses import replace

    from optexport.schedules.inline import scheduled_rule

    rule = ox.spec("momentum", lr=0.1).groups[0].rule
    slots = tuple(replace(s, init="lr") for s in rule.slots)
    made = scheduled_rule(replace(rule, slots=slots), {"lr": SCHEDULES["piecewise"]}, first_step=6)
    assert float(made.slots[0].init) == SCHEDULES["piecewise"].at(6)


def test_a_group_does_not_lose_its_schedule_silently() -> None:
    group = ox.spec("sgd", lr=SCHEDULES["cosine"]).groups[0]
    with pytest.raises(
        HyperparameterError, match=r"'lr' follows the schedule cosine\(base=0\.1.*expected the step"
    ):
        group.values()
    assert group.values(step=20)["lr"] == 0.02
    assert group.values(lr=0.7)["lr"] == 0.7
    assert group.at(20).hyperparameters["lr"] == 0.02 and not group.at(20).schedules


def test_onnx_metadata_states_the_schedule() -> None:
    require_backend("onnx")
    spec = ox.spec("adam", lr=SCHEDULES["mxnet"])
    model = ox.emit(spec, "onnx", params={"w": (3,)})
    assert "lr" not in [i.name for i in model.graph.input]
    text = next(p.value for p in model.metadata_props if p.key == "optexport.spec")
    held = spec_from_text(text).groups[0]
    assert held.schedules == spec.groups[0].schedules
    assert held.rule == spec.groups[0].rule
    assert held.schedules["lr"].native == "mxnet:CosineScheduler"


def test_a_runtime_input_keeps_the_schedule_outside() -> None:
    require_backend("onnx")
    spec = ox.spec("adam", lr=SCHEDULES["cosine"])
    model = ox.emit(spec, "onnx", params={"w": (3,)}, runtime=("lr",))
    assert "lr" in [i.name for i in model.graph.input]
    with pytest.raises(HyperparameterError, match="follows each parameter's own step"):
        ox.emit(spec, "onnx", params={"w": (3,), "b": (2,)}, steps={"w": 3, "b": 4})


@pytest.mark.parametrize("name", SCHEDULES)
def test_specs_carry_schedules(name: str) -> None:
    spec = ox.spec("adam", lr=SCHEDULES[name])
    text = spec_text(spec)
    again = spec_from_text(text)
    assert again.groups[0].schedules == spec.groups[0].schedules
    assert spec_text(again) == text
    assert [again.groups[0].schedules["lr"].at(k) for k in range(50)] == [
        SCHEDULES[name].at(k) for k in range(50)
    ]


def test_the_rule_reads_with_its_schedule() -> None:
    lines = equations(
        inline(ox.spec("sgd", lr=ox.schedule("exponential", base=0.1, gamma=0.9))).groups[0].rule.program
    )
    assert lines[1].startswith("η = lr_base·lr_gamma^") and lines[-1] == "w' = w − η·ĝ"


def test_mxnet_class_refuses_another_rate() -> None:
    require_backend("mxnet")
    from optexport import source
    from optexport.converters.mxnet._import import import_mxnet

    import_mxnet()
    spec = ox.spec("sgd", lr=SCHEDULES["cosine"])
    text = ox.emit(spec, "mxnet")
    kind = getattr(source.execute(text), source.class_name(inline(spec), None))
    assert kind().lr_base == 0.1
    with pytest.raises(ValueError, match="follows the schedule inside this class"):
        kind(learning_rate=0.3)


def keras_optimizer(spec: ox.Spec, **arguments: object) -> object:
    """The class that is emitted for Keras, as its user makes it."""
    from optexport import source

    converter("keras", "run")  # (chooses the backend)
    made = source.execute(ox.emit(spec, "keras"))
    return getattr(made, source.class_name(inline(spec), None))(**arguments)


def test_keras_class_refuses_another_rate() -> None:
    require_backend("keras")
    spec = ox.spec("momentum", lr=SCHEDULES["cosine"], momentum=0.9)
    with pytest.raises(ValueError, match="follows the schedule inside this class: pass no learning_rate"):
        keras_optimizer(spec, learning_rate=0.3)
    made = keras_optimizer(spec, lr_base=0.2)
    with pytest.raises(ValueError, match="follows the schedule inside this class; it cannot be set"):
        made.learning_rate = 0.3
    assert np.isnan(made.learning_rate)
    # Nothing that a file would have to hold, and nothing that a configuration would have to say.
    assert [v.name for v in made.variables] == ["iteration"]
    config = made.get_config()
    assert "learning_rate" not in config and config["lr_base"] == 0.2
    assert type(made).from_config(config).get_config() == config


def test_keras_groups_of_which_one_follows_a_schedule() -> None:
    """A learning rate drives the group that has one, and leaves the other alone."""
    from dataclasses import replace

    require_backend("keras")
    p = problem(np.float64, steps=12)
    w, *rest = p.params
    scheduled = replace(ox.spec("sgd", lr=SCHEDULES["step"]).groups[0], params=(w,))
    driven = replace(ox.spec("sgd", lr=0.03).groups[0], params=tuple(rest), lr_mult=0.5)
    spec = ox.Spec((scheduled, driven))
    state, states = init(spec, p.params), []
    for gradients in p.grads:
        state = step(state, gradients)
        states.append(state)
    snapshots = converter("keras", "run").snapshots(spec, p.params, p.grads, None, dtype="float64")
    mismatch, _ = compare_runs(states, snapshots, "float64")
    assert mismatch is None, str(mismatch)
