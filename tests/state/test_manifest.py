"""Specs as text: golden files of every rule, and how arguments come back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import optexport as ox
from optexport.errors import CheckpointError
from optexport.rules import CATALOGUE
from optexport.specs import Spec
from optexport.state.manifest import spec_from_text, spec_text
from tests.every import shape_of
from tests.make_golden import GOLDEN, specs

FILES = sorted(GOLDEN.glob("spec_*_v1.json"))


def test_every_rule_has_its_golden_file():
    assert {f.name for f in FILES} == {f"{name}_v1.json" for name in specs()}
    assert {f"spec_{name}" for name in CATALOGUE} < set(specs())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_golden_spec_is_the_rule_of_today(path: Path):
    """For ever: the digest in the file, the file's own program and today's rule are one."""
    text = path.read_text(encoding="utf-8")
    expected = specs()[path.stem.removesuffix("_v1")]
    found = spec_from_text(text, path.name)
    assert found == expected
    for group, written in zip(expected.groups, json.loads(text)["groups"], strict=True):
        assert written["rule"]["digest"] == group.rule.digest


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_golden_spec_is_what_is_written_today(path: Path):
    assert spec_text(specs()[path.stem.removesuffix("_v1")]) + "\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_golden_program_is_read_without_its_family(path: Path):
    """The program in the file says all: renamed, so that no family of today is asked."""
    message = json.loads(path.read_text(encoding="utf-8"))
    for group in message["groups"]:
        group["rule"]["family"] = "forgotten"
    found = spec_from_text(json.dumps(message))
    for group, expected in zip(found.groups, specs()[path.stem.removesuffix("_v1")].groups, strict=True):
        assert group.rule.digest == expected.rule.digest
        assert group.rule.slot_names == expected.rule.slot_names
    spec = specs()[path.stem.removesuffix("_v1")]
    rule = spec.groups[0].rule  # without its family a program fits no shape, so it gets one of its own
    shape = shape_of(rule.family, rule.options)
    assert shape is not None
    params = {n: np.ones(shape) for n in ("w", "b")}
    grads = {n: np.full(shape, 0.5) for n in params}
    new, known = (ox.step(ox.init(s, params), grads, noise=params, hessian=params) for s in (found, spec))
    for name in params:
        np.testing.assert_array_equal(new.params[name], known.params[name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "spec: expected a Spec in optexport's JSON, found "),
        ("7", "spec: expected a Spec in optexport's JSON, found "),
        ("[]", "spec: expected a Spec"),
        ("{}", "spec: expected a Spec with a format version, found none"),
        ('{"version":2}', "spec: format version 2; this optexport reads up to 1, install a newer one"),
        (
            '{"version":9,"unheard":1}',
            "spec: format version 9; this optexport reads up to 1, install a newer one",
        ),
        ('{"version":1,"unheard":1}', "spec: expected a Spec in optexport's JSON, found "),
        ('{"version":1,"version":1}', "spec: expected a Spec in optexport's JSON, found "),
        ('{"a":' * 3000, "spec: expected a Spec in optexport's JSON, found "),
        ("\ud800", "spec: expected a Spec in optexport's JSON, found "),
    ],
)
def test_what_is_no_spec(text, message):
    with pytest.raises(CheckpointError) as caught:
        spec_from_text(text)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


ARGUMENTS = [
    {"betas": (0.9, 0.99)},
    {"nested": ((1, 2), [3, (4,)])},
    {"indexes": {0: "a", 1: (2.0,)}},
    {"nothing": None, "yes": True, "count": 3, "word": "é"},
    {"empty": (), "lists": [], "maps": {}},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_of_any_shape_come_back(arguments):
    from dataclasses import replace

    group = replace(ox.native("torch:SGD").groups[0], arguments=arguments)
    assert dict(spec_from_text(spec_text(Spec((group,)))).groups[0].arguments) == arguments


def test_numbers_of_numpy_become_numbers():
    from dataclasses import replace

    group = replace(ox.native("torch:SGD").groups[0], arguments={"lr": np.float64(0.1), "n": np.array(3)})
    assert dict(spec_from_text(spec_text(Spec((group,)))).groups[0].arguments) == {"lr": 0.1, "n": 3}


def test_text_is_canonical():
    text = spec_text(ox.spec("adamw", weight_decay=0.0))
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert spec_text(ox.spec("adamw", weight_decay=0.0)) == text
