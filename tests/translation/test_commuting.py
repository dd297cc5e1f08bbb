"""Commuting squares: translate-then-update equals update-then-translate, over random states.

Every move is tried from random options, hyperparameters and state at which it exists. Exact and
conditional moves must commute to float64 rounding, with the caller doing what the condition says;
a bounded move's update may differ by its bound and no more.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from optexport.errors import HyperparameterError
from optexport.ir.analysis import dead_slots
from optexport.reference import run
from optexport.rules import Family, families
from optexport.rules.base import Count
from optexport.rules.common import GRADIENT_OPTIONS
from optexport.translation.moves import Move, Situation, moves
from optexport.translation.search import _valid

SHAPE = (3, 4)
# Where a parameter's shape decides options: a wide and a tall matrix, a vector, axes in any order.
SHAPES = {
    "adafactor": (SHAPE, (4, 3), (5,), (2, 3, 4), (4, 2, 3)),
    "muon": (SHAPE, (4, 3), (5,)),
}
POSITIVE = (
    "square_avg",
    "sum",
    "exp_inf",
    "exp_avg_var",
    "row_var",
    "col_var",
    "largest_var",
    "second_var",
    "variance",
)
FAMILIES = (
    *("sgd", "adam", "rmsprop", "adagrad"),
    *("adadelta", "ftrl", "ftml", "signum", "rprop", "asgd", "dcasgd"),
    *("lamb", "lars", "adafactor", "muon", "schedule_free"),
    *("lbfgs",),
    *("adamax", "nadam", "radam", "yogi", "adabelief", "novograd", "lion"),
)
AROUND = {o.name for o in GRADIENT_OPTIONS if o.default is not None}


def _has_its_own(family: str, general: Move) -> bool:
    """Whether a family does with a move of its own what every other does with this one."""
    return general.family == "*" and any(
        m.family == family and (m.name, m.change) == (general.name, general.change) for m in moves(family)
    )


# What stands around a rule is the same around any; two rules show it, one that reads the step.
CASES = [
    (f, m)
    for f in FAMILIES
    for m in moves(f)
    if not _has_its_own(f, m)
    if (f in ("sgd", "adam") or not set(m.change) <= AROUND)
    and (f == "sgd" or m.maps.__name__ != "drop_uncounted_overflow")  # hardly an Adam does not read the step
]


def _id(value: Any) -> str:
    if isinstance(value, Move):
        change = ",".join(f"{o}:{to}" for o, (_, to) in value.change.items())
        return f"{value.maps.__name__ if value.maps else 'none'}[{change}]"
    return str(value)


@st.composite
def situations(draw: st.DrawFn, family: str, move: Move) -> tuple[Situation, tuple[int, ...]]:
    """Options, hyperparameters and a parameter's shape from which the move starts."""
    fam = families()[family]
    options = {}
    for name, option in fam.options.items():
        choices = list(option.choices)
        if name in move.change:
            start, to = move.change[name]
            choices = [c for c in choices if c == start and type(c) is type(start)] or [
                c for c in choices if c != to
            ]
            if isinstance(option, Count):
                choices = [2]
        elif name == "scalars":
            choices = ["float64"]  # rounding to float32 is no part of a map over the reals
        elif name in AROUND:
            choices = [option.default]  # what stands around the rule is the same on both sides
        elif family == "lbfgs" and name in ("maximize", "rescale", "clip"):
            choices = choices[:1]  # the pairs are of the gradient as it is
        elif isinstance(option, Count):
            choices = [option.default or 3]
        if not choices:
            assume(False)
        options[name] = draw(st.sampled_from(choices))
    shapes = [s for s in SHAPES.get(family, (SHAPE,)) if _fits(fam, move, options, s)]
    assume(shapes)
    shape = draw(st.sampled_from(shapes))
    options = options if fam.fit is None else fam.fit(options, shape)
    rule = fam.rule(**options)
    values = {}
    for h in rule.hyperparameters:
        low, high = max(h.low, 0.0), min(h.high, 2.0)
        number = st.floats(max(low, 0.01), min(high, 0.95) if h.below else min(high, 1.5))
        special = [h.neutral] if h.neutral is not None else []
        special += [-1.0] if h.name == "rescale_grad" else []
        special += [1.0] if h.name == "momentum_decay" else []
        if h.name == "threshold":
            number = st.sampled_from([5.0, 4.2])
        elif h.whole and h.numbers:
            number = st.sampled_from([0.0, 1.0, 3.0])
        elif h.whole:
            number = st.sampled_from([1.0, 2.0, 3.0])
        values[h.name] = draw(st.one_of(number, *(st.just(s) for s in special)))
    # Adadelta's own learning rate is 1.
    values["lr"] = draw(st.one_of(st.floats(0.01, 0.3), *([st.just(1.0)] if family == "adadelta" else [])))
    if "lr_decay" in values:
        values["lr_decay"] = min(values["lr_decay"], 0.5)
    if "place" in values:
        values["place"] = min(values["tensors"], 2.0)
    for name, numbers in CONSTANTS.get(family, {}).items():
        if name in values:
            values[name] = draw(st.sampled_from(numbers))
    tensors = draw(st.sampled_from([None, 1, 3]))
    return Situation(family, options, values, draw(st.integers(1, 50)), tensors), shape


# Hyperparameters whose maps hold in a corner of their range alone, and what keeps a rule in bounds.
CONSTANTS = {
    "lbfgs": {"tolerance_grad": (1e-7, 1e-3), "tolerance_change": (1e-9,), "least_curvature": (1e-10, 0.3)},
    "adafactor": {"eps1": (0.0, 1e-24, 1e-9, 0.3), "beta1": (0.0, 0.7)},
    "muon": {"eps": (0.0, 1e-15, 0.3), "ns_a": (3.4445,), "ns_b": (-4.775,), "ns_c": (2.0315,)},
}


# Their condition makes ε small, not nothing: Newton–Schulz magnifies 10⁻⁷ of a norm of at least 0.1 by a⁵.
FAR_ABOVE = dict.fromkeys(
    (
        "ε beside the norm",
        "a factor on the direction is the norm's to remove",
        "M = B/(1−μ): a mean becomes a sum",
        "B = (1−μ)M: a sum becomes a mean",
    ),
    3.4445**5 * 1e-7 / 0.1,
)


def _fits(fam: Family, move: Move, options: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether a parameter of this shape can be where the move starts."""
    if fam.fit is None:
        return True
    try:
        fitted = fam.fit(options, shape)
    except HyperparameterError:
        return False
    return all(fitted[o] == options[o] for o in move.change if o in options)


def _state(
    rng: np.random.Generator, at: Situation, shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A state that a run could have: squares positive, the maximum above them, n > a²."""
    slots = {}
    for s in families()[at.family].rule(**at.options).slots:
        values = rng.standard_normal(s.shape_for(shape))
        slots[s.name] = values**2 + 2.0 if "sq" in s.name or s.name in POSITIVE else values
    # Factors of one tensor: their means agree.
    squares = rng.standard_normal(shape) ** 2 + 2.0
    for s in families()[at.family].rule(**at.options).slots:
        if s.shape.startswith("without"):
            (axis,) = [i for i, n in enumerate(s.shape_for(shape)) if n != shape[i]]
            slots[s.name] = squares.mean(axis=axis, keepdims=True)
    if "mu_product" in slots:
        slots["mu_product"] = np.asarray(rng.uniform(0.05, 0.6))
    if "max_exp_avg_sq" in slots:
        slots["max_exp_avg_sq"] = slots["exp_avg_sq"] + 0.5
    if "grad_avg" in slots:
        slots["grad_avg"] = slots["grad_avg"] * 0.3
    if "weight_total" in slots:  # as one learning rate has left them
        lr, power = at.values["lr"], at.values["weight_lr_power"]
        slots |= {"weight_total": np.asarray((at.step or 0) * lr**power), "max_lr": np.asarray(lr)}
    counters = {
        "updates": at.step,
        "iterations": at.step,
        "bad_updates": 0,
        "loss_scale": 4,
        "growth_tracker": 0,
    }
    slots |= {k: np.asarray(float(v or 0)) for k, v in counters.items() if k in slots}
    if "accumulated_grad" in slots and (at.step or 0) % at.values["accumulation_steps"] == 0:
        slots["accumulated_grad"] = np.zeros(shape)
    if "gradient_differences" in slots:  # of a convex function
        slots["gradient_differences"] = slots["parameter_differences"] * rng.uniform(0.5, 2.0, shape)
    return rng.standard_normal(shape), slots


def _gradient(rng: np.random.Generator, w: np.ndarray, slots: dict[str, np.ndarray]) -> np.ndarray:
    """A gradient that the state could meet; L-BFGS' differs from its last along the last step."""
    if "last_grad" not in slots or "gradient_differences" not in slots:
        return rng.standard_normal(w.shape)
    step = slots["last_step"] if "last_step" in slots else w - slots["last_param"]
    return slots["last_grad"] + step * rng.uniform(0.5, 2.0, w.shape)


def _update(
    family: str, options: Any, values: Any, step: int, w: Any, slots: Any, g: Any
) -> dict[str, np.ndarray]:
    program = families()[family].rule(**options).program
    inputs = {"param": w, "grad": g, "step": step}
    inputs |= {f"hyper:{k}": v for k, v in values.items()} | {f"slot:{k}": v for k, v in slots.items()}
    return run(program, inputs)


def _as_the_condition_says(
    move: Move, at: Situation, g: np.ndarray, step: int
) -> tuple[np.ndarray, dict[str, float]]:
    """The gradient and the hyperparameters that the caller of the new rule must use."""
    values = move.values(at)
    if move.name == "the gradient's factor moves to the caller":
        g = g * at.values["rescale_grad"]
    if move.name == "the fall of the learning rate moves to the caller":
        values["lr"] = at.values["lr"] / (1 + step * at.values["lr_decay"])
    return g, values


@pytest.mark.parametrize(("family", "move"), CASES, ids=_id)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_square(family: str, move: Move, data: st.DataObject) -> None:
    fam = families()[family]
    if not _valid(family, {o: to for o, (_, to) in move.change.items()}):
        pytest.skip("the family has no such option")
    at, shape = data.draw(situations(family, move))
    assume(move.applies(at) and _valid(family, move.options(at.options)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    w, slots = _state(rng, at, shape)
    g, step = _gradient(rng, w, slots), at.step or 0
    new_options = move.options(at.options)

    # translate, then update
    moved, moved_step = move.state(at, step, slots, w, shape, np.float64)
    expected = set(fam.rule(**new_options).slot_names)
    assert set(moved) == expected, "the move must give the new rule exactly its slots"
    if fam.fit is not None:
        assert fam.fit(new_options, shape) == new_options, (
            "what the shape decides must be as the new rule has it"
        )
    new_g, values = _as_the_condition_says(move, at, g, step)
    if "overflow" in move.change and at.options["overflow"] in ("static", "dynamic"):
        new_g = g / (at.values["loss_scale"] if at.options["overflow"] == "static" else slots["loss_scale"])
    left = _update(family, new_options, _counted(move, at, values), moved_step, w, moved, new_g)
    # update, then translate
    right = _update(family, at.options, _counted(move, at, at.values), step, w, slots, g)
    new_w = right.pop("param")
    after = Situation(family, at.options, at.values, step + 1)
    after_slots, after_step = move.state(after, step + 1, right, new_w, shape, np.float64)

    if move.level == "lossy":
        assert move.dropped, "a lossy move names what it drops"
        return
    assert after_step == moved_step + 1
    if move.level == "bounded":
        bound = move.bound(at, step, slots, w)
        assert bound is not None
        change = np.abs(left["param"] - new_w).max()
        length = max(np.abs(left["param"] - w).max(), np.abs(new_w - w).max())
        history = np.abs(slots["momentum_buffer"]).max() if "momentum_buffer" in slots else 0.0
        if family == "muon":
            history = 0.0  # its length is another than the update's
        if family == "nadam":
            history = _terms(at, step, slots, right)
        # An update with decay in it is longer than the step that the bound is relative to.
        steps = (_step_length(at, w, new_w), _step_length(at, w, left["param"]))
        assert change <= bound * (1 + 1e-9) * max(length, history, *steps) + 1e-12
        return
    # What is rounded to float32 is the same over the reals.
    rounded = "scalars" in move.change or {"float32", "folded_param"} & {
        s for c in move.change.values() for s in c
    }
    rtol = 1e-4 if rounded else FAR_ABOVE.get(move.name, 1e-11)
    dead = dead_slots(fam.rule(**new_options).program)
    np.testing.assert_allclose(left.pop("param"), new_w, rtol=rtol, atol=rtol)
    for slot, value in left.items():
        # A slot that cannot reach the parameter (momentum 0) holds whatever the rule writes there.
        forgets = {"momentum_buffer": "momentum", "step_avg": "beta1"}.get(slot, "")
        if slot not in dead and values.get(forgets) != 0:
            np.testing.assert_allclose(value, after_slots[slot], rtol=rtol, atol=rtol, err_msg=slot)


def _step_length(at: Situation, w: np.ndarray, new_w: np.ndarray) -> float:
    """Length of the update less its decay: at most |Δw| + δ|w|, undone where decay came last."""
    rate = 1.0 if at.options["decay"] == "independent" else at.values["lr"]
    decay = abs(rate * at.values.get("weight_decay", 0.0)) + abs(at.values.get("post_decay", 0.0))
    decay += abs(rate * at.values.get("adam_weight_decay", 0.0))
    return float((np.abs(new_w - w) + decay * np.abs(w)).max() / max(1 - decay, 0.1))


def _terms(at: Situation, step: int, slots: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> float:
    """The largest that NAdam's two terms add up to, before the factor 1/(1 − P) that a bound is about.

    They may cancel in the update itself. The gradient is had from the mean before and after.
    """
    beta1, beta2 = at.values["beta1"], at.values["beta2"]
    g = (new["exp_avg"] - beta1 * slots["exp_avg"]) / (1 - beta1)
    v = new["exp_avg_sq"] / (1 - beta2 ** (step + 1))
    root = np.sqrt(v + at.values.get("eps_root", 0.0)) + at.values["eps"]
    return float(at.values["lr"] * ((np.abs(g) + np.abs(new["exp_avg"])) / root).max())


def _counted(move: Move, at: Situation, values: Any) -> Any:
    """The values of a run. One whose tensors are not counted yet has as many as the condition says, or
    as the situation has."""
    if values.get("tensors") != 0:
        return values
    tensors = 1 if move.level == "conditional" else at.tensors or 1
    return {**values, "tensors": float(tensors), "place": float(min(tensors, 2))}
