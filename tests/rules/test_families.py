"""Families: every combination of options is a rule, and nothing is chosen behind the caller's back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optexport.errors import HyperparameterError, UnknownNameError
from optexport.ir import Reach, check, dead_slots, reach
from optexport.reference import run
from optexport.rules import Family, Hyper, families, lookup
from optexport.rules.base import Count, Update, register
from optexport.rules.common import GRADIENT_OPTIONS, SHARED_SLOTS
from tests.every import FAMILIES, every_option, every_rule, inputs, problems

ELEMENTWISE = {"sgd", "adam", "rmsprop", "adagrad"}
OBSERVED = {"weight_average", "ax", "mu"}


def _adds(rule):
    """Whether an addition that every family has is in use."""
    return any(rule.options[o.name] != o.default for o in GRADIENT_OPTIONS if o.default is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_of_options_is_a_rule(family):
    fam = families()[family]
    for rule in every_rule(family):
        check(rule.program)
        assert rule.family == family and list(rule.options) == list(fam.options)
        assert set(rule.slot_names) == set(rule.program.outputs) - {"param"} <= set(fam.slots)
        read = {i.name for i in rule.program.inputs("hyper")}
        starts = {s.init for s in rule.slots} & set(fam.hyperparameters)
        assert {h.name for h in rule.hyperparameters} >= read | starts
        # An average of the parameter is written for the one who reads it.
        kept = {"variance"} if rule.options.get("keeps") == "factors_and_product" else set()
        assert dead_slots(rule.program) <= OBSERVED | kept, rule.options
        if family in ELEMENTWISE and not _adds(rule):
            assert reach(rule.program) is Reach.ELEMENTWISE


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule_moves_the_parameter_by_finite_numbers(family):
    for rule in every_rule(family, shared=False):
        for step in (0, 1, 1000):
            given = inputs(rule, step=step)
            new = run(rule.program, given)
            own = given["param"].shape
            shapes = {"param": own} | {s.name: s.shape_for(own) for s in rule.slots}
            assert all(np.isfinite(v).all() and np.shape(v) == shapes[o] for o, v in new.items()), (
                rule.options
            )
            # Rprop leaves elements whose sign turned, LBSGD everything while it gathers.
            if family not in ("rprop", "lbsgd"):
                assert (new["param"] != given["param"]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_option_has_a_silent_default(family):
    fam = families()[family]
    options = next(every_option(family))
    needed = [o for o in options if fam.options[o].default is None]
    assert {"maximize", "rescale", "clip", "scalars"} <= set(needed)
    for left_out in needed:
        given = {k: v for k, v in options.items() if k != left_out}
        with pytest.raises(HyperparameterError) as caught:
            fam.rule(**given)
        assert str(caught.value) == (
            f"{family}: expected a value for each of the options {', '.join(fam.options)}; missing {left_out}"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_option_that_the_family_lacks(family):
    options = next(every_option(family))
    with pytest.raises(HyperparameterError) as caught:
        families()[family].rule(**options, sideways="none")
    assert str(caught.value).endswith("; unknown sideways")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_that_an_option_lacks(family):
    fam = families()[family]
    options = next(every_option(family))
    for name, option in fam.options.items():
        counts = isinstance(option, Count)
        # 0 and 1 are no truth values, and 'True' is no True.
        for wrong in ("sometimes", *((option.low - 1, True) if counts else (0, 1)), None, 1.0, "True"):
            with pytest.raises(HyperparameterError) as caught:
                fam.rule(**{**options, name: wrong})
            message = str(caught.value)
            expected = f"a whole number in [{option.low}, {option.high}]" if counts else "one of "
            assert message.startswith(f"{family}: option {name!r} expected {expected}")
            assert message.endswith(f", found {wrong!r}")
            # Some values are texts with a comma.
            assert counts or sum(1 + str(c).count(",") for c in option.choices) == message.count(",")


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_a_family_declares_is_read_by_some_rule(family):
    fam = families()[family]
    slots: set[str] = set()
    hypers: set[str] = set()
    for rule in (*every_rule(family, shared=False), *every_rule(family, own=False)):
        slots |= set(rule.slot_names)
        hypers |= {h.name for h in rule.hyperparameters}
    # Calls that were not skipped are counted only where a rule reads the step.
    assert set(fam.slots) - {"updates"} <= slots <= set(fam.slots)
    assert hypers == set(fam.hyperparameters) and {s.name for s in SHARED_SLOTS} <= set(fam.slots)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_a_family_declares_is_described(family):
    fam = families()[family]
    assert fam.doc and fam.source
    for option in fam.options.values():
        if isinstance(option, Count):
            assert option.doc and option.low <= option.high
            continue
        assert len(option.choices) > 1 and all(option.choices.values())
    assert all(row.doc for row in (*fam.hyperparameters.values(), *fam.slots.values()))


@pytest.mark.parametrize("family", FAMILIES)
def test_neutral_values_are_neutral(family):
    """At its neutral value a hyperparameter does nothing, and away from there it does something, in one
    problem at least; one that stands for another shape of parameter does nothing anywhere."""
    for rule in every_rule(family, shared=False):
        read = {i.name for i in rule.program.inputs("hyper")}
        starts = {s.init for s in rule.slots}
        for h in rule.hyperparameters:
            if h.neutral is None or h.name == "eps":
                continue  # ε is in the denominator of every rule that has it
            differs = False
            for name, given in problems(rule).items():
                away = run(rule.program, given)
                at = run(rule.program, given | {f"hyper:{h.name}": h.neutral})
                assert name == "empty" or all(np.isfinite(v).all() for v in at.values())
                differs |= any(np.any(at[o] != away[o]) for o in at)
            assert differs is (h.name in read) and (h.name in read | starts or rule_of_shapes(family)), (
                rule.options,
                h.name,
            )


def rule_of_shapes(family):
    return families()[family].fit is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_in_range(family):
    for h in families()[family].hyperparameters.values():
        assert h.check(family, h.default) == h.default
        if h.neutral is not None:
            assert h.check(family, h.neutral) == h.neutral


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("lr", [0.0, -1.0, 1e300, math.inf], []),
        ("eps", [0.0, 1e-30, math.inf], [-1e-30, -math.inf]),
        ("beta1", [0.0, 0.5, math.nextafter(1.0, 0.0)], [1.0, 1.5, -0.1]),
        ("beta2", [0.0, 0.999], [1.0, math.inf]),
        ("weight_decay", [0.0, -0.1, 10.0], []),
    ],
)
def test_ranges(name, good, bad):
    h = families()["adam"].hyperparameters[name]
    for value in good:
        assert h.check("adam", value) == value
    for value in [*bad, math.nan, "0.1", None, True, 1j, [0.1]]:
        with pytest.raises(HyperparameterError) as caught:
            h.check("adam", value)
        assert str(caught.value) == f"adam: {name!r} expected a number in {h.range}, found {value!r}"


def test_a_closed_range_has_its_ends():
    assert Hyper("x", 0.5, 0.0, 1.0, "").range == "[0, 1]"
    assert Hyper("x", 0.5, 0.0, 1.0, "", below=True).range == "[0, 1)"
    assert Hyper("x", 0.5, 0.0, 1.0, "").check("f", 1) == 1.0


def test_numbers_of_any_kind_are_numbers():
    h = families()["adam"].hyperparameters["lr"]
    for value in (np.float32(0.5), np.float64(0.5), np.int64(2), 2):
        assert h.check("adam", value) == float(value) and type(h.check("adam", value)) is float


def test_a_number_beyond_float64_is_out_of_range():
    with pytest.raises(HyperparameterError, match="'lr' expected a number in"):
        families()["adam"].hyperparameters["lr"].check("adam", 10**400)


def test_rules_are_made_once():
    assert lookup("adam").rule() is lookup("Adam").rule()
    assert hash(lookup("adam").rule()) == hash(lookup("adam").rule())
    assert lookup("adam").rule() != lookup("adamw").rule()


def test_a_rule_reads_only_what_its_family_declares():
    u = Update(families()["sgd"], next(every_option("sgd")))
    with pytest.raises(UnknownNameError, match="sgd: hyperparameter 'beta1' is not declared"):
        u.hyper("beta1")
    with pytest.raises(UnknownNameError, match="sgd: slot 'exp_avg' is not declared"):
        u.slot("exp_avg")


def test_a_family_is_registered_once():
    fam = families()["sgd"]
    with pytest.raises(UnknownNameError, match="family 'sgd' is registered twice; choose another name"):
        register(Family("sgd", fam.function, {}, {}, {}, "", ""))
