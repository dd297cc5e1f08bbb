"""The catalogue: names, nearest names, and the name of a rule at its values."""

from __future__ import annotations

import numpy as np
import pytest

from optexport.errors import UnknownNameError
from optexport.reference import run
from optexport.rules import CATALOGUE, families, lookup, name_of
from tests.every import inputs, shape_of

RULES = sorted(CATALOGUE)


@pytest.mark.parametrize("name", RULES)
def test_an_entry_states_every_option(name):
    entry = CATALOGUE[name]
    needed = {o.name for o in entry.family.options.values() if o.default is None}
    assert entry.name == name and needed <= set(entry.options) <= set(entry.family.options)
    rule = entry.rule()
    assert set(entry.defaults) <= {h.name for h in rule.hyperparameters}


def test_entries_are_different_rules():
    digests = {CATALOGUE[n].rule().digest for n in RULES}
    assert len(digests) == len(RULES)


@pytest.mark.parametrize("name", RULES)
def test_names_do_not_depend_on_case(name):
    assert lookup(name.upper()) is CATALOGUE[name]


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("adamm", "adam"),
        ("adamww", "adamw"),
        ("rms_prop", "rmsprop"),
        ("adgrad", "adagrad"),
        ("nesterow", "nesterov"),
    ],
)
def test_an_unknown_name_brings_the_nearest(asked, nearest):
    with pytest.raises(UnknownNameError) as caught:
        lookup(asked)
    message = str(caught.value)
    assert message.startswith(f"unknown rule {asked!r}; expected a name of the catalogue, nearest: ")
    assert message.partition("nearest: ")[2].split(", ")[0] == nearest


def test_a_name_like_no_other_brings_all():
    with pytest.raises(UnknownNameError) as caught:
        lookup("zzzz")
    assert all(n in str(caught.value) for n in RULES)


def values(name):
    entry = CATALOGUE[name]
    return {h.name: entry.defaults.get(h.name, h.default) for h in entry.rule().hyperparameters}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_the_catalogue_has_its_name(name):
    in_use = {**values(name), "momentum": 0.9, "weight_decay": 0.01, "lr_decay": 0.1, "dampening": 0.1}
    rule = CATALOGUE[name].rule()
    assert name_of(rule, {h.name: in_use[h.name] for h in rule.hyperparameters}) == name


@pytest.mark.parametrize(
    ("rule", "at", "name"),
    [
        (lookup("adamw").rule(), {"weight_decay": 0.0}, "adam"),
        (lookup("adam").rule(decay="none"), {}, "adam"),
        (lookup("momentum").rule(), {"momentum": 0.0}, "sgd"),
        (lookup("nesterov").rule(), {"momentum": 0.0}, "sgd"),
        (lookup("sgd").rule(rescale=True), {"rescale_grad": 1.0}, "sgd"),
        (lookup("adam").rule(scalars="float32"), {"weight_decay": 0.1}, "adam"),
        # Nothing in the catalogue: the family's name.
        (lookup("sgd").rule(maximize=True), {}, "sgd"),
        (lookup("adam").rule(decay="independent"), {"weight_decay": 0.1}, "adam"),
        (lookup("adamw").rule(amsgrad="raw"), {"weight_decay": 0.1}, "adam"),
    ],
)
def test_values_that_make_terms_vanish_count(rule, at, name):
    at = {h.name: at.get(h.name, h.default) for h in rule.hyperparameters}
    assert name_of(rule, at) == name


@pytest.mark.parametrize("name", RULES)
def test_a_name_means_the_same_numbers(name):
    """Without decay, whatever else is changed: a rule that gets a name of the catalogue computes what
    that name computes, but for the families' own names, which stand in where there is no other."""
    entry = CATALOGUE[name]
    for option, choices in entry.family.options.items():
        for choice in choices.choices if option != "scalars" else ():  # precision, not meaning
            rule = entry.rule(**{option: choice})
            if shape_of(rule.family, rule.options) is None:
                continue  # no parameter has this rule
            given = inputs(rule)
            given |= {
                k: 0.0 for k in given if k in ("hyper:weight_decay", "hyper:post_decay", "hyper:lr_decay")
            }
            called = name_of(rule, {k[6:]: v for k, v in given.items() if k.startswith("hyper:")})
            if called == rule.family:
                continue
            other = lookup(called).rule()
            neutral = {f"hyper:{h.name}": h.neutral for h in other.hyperparameters}
            expected = run(other.program, inputs(other) | neutral | given)["param"]
            np.testing.assert_allclose(run(rule.program, given)["param"], expected, rtol=1e-12)


def test_families_of_the_catalogue_are_all_families():
    assert {e.family_name for e in CATALOGUE.values()} == set(families())
