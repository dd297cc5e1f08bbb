"""Chains: what is a rule, and what is refused, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.errors import HyperparameterError, UnknownNameError

RATE = ("scale_by_learning_rate", {"learning_rate": 0.1})
DECAY = ("add_decayed_weights", {"weight_decay": 0.1})
CLIP = ("clip", {"max_delta": 0.5})
NORM = ("clip_by_global_norm", {"max_norm": 1.0})


def group(*links: Any) -> Any:
    return ox.native("optax:chain", links=list(links)).groups[-1]


def test_a_chain_is_the_alias_with_options() -> None:
    found = group(DECAY, ("nadam", {"learning_rate": 1e-3}))
    alone = ox.native("optax:nadam", learning_rate=1e-3).groups[-1]
    assert found.rule.options == {**alone.rule.options, "decay": "l2"}
    assert found.hyperparameters == {**alone.hyperparameters, "weight_decay": 0.1}
    assert found.native == "optax:nadam"


def test_aliases_spelled_out_are_the_aliases() -> None:
    for name, arguments, links in (
        ("adamw", {"learning_rate": 0.1, "weight_decay": 0.1}, ["scale_by_adam", DECAY, RATE]),
        ("adam", {"learning_rate": 0.1, "b1": 0.5}, [("scale_by_adam", {"b1": 0.5}), RATE]),
        ("nadam", {"learning_rate": 0.1}, [("scale_by_adam", {"nesterov": True}), RATE]),
        ("sgd", {"learning_rate": 0.1, "momentum": 0.9}, [("trace", {"decay": 0.9}), RATE]),
        ("sgd", {"learning_rate": 0.1}, [RATE]),
        ("sgd", {"learning_rate": 0.1}, [("scale", {"step_size": -0.1})]),
        ("rmsprop", {"learning_rate": 0.1, "centered": True}, ["scale_by_stddev", RATE]),
    ):
        chained, alone = group(*links), ox.native(f"optax:{name}", **arguments).groups[-1]
        assert chained.rule == alone.rule and chained.hyperparameters == alone.hyperparameters, name


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([DECAY, NORM, "scale_by_adam", RATE], "link 2, 'clip_by_global_norm': after 'add_decayed_weights' no rule"),
        ([CLIP, DECAY, CLIP, RATE], "link 3, 'clip': after 'add_decayed_weights' no rule has it"),
        ([DECAY, "scale_by_adam", DECAY, RATE], "link 3, 'add_decayed_weights': the chain has another weight decay"),
        ([DECAY, ("adamw", {"learning_rate": 0.1})], "the chain has another weight decay"),
        (["scale_by_adam", RATE, DECAY], "link 3, 'add_decayed_weights': the learning rate stands before it"),
        (["scale_by_adam", CLIP, RATE], "link 2, 'clip': expected before the preconditioner 'scale_by_adam'"),
        ([("adam", {"learning_rate": 0.1}), CLIP], "the alias before it has its learning rate inside"),
        (["scale_by_adam"], "expected a learning rate after 'scale_by_adam', found none"),
        ([DECAY], "expected a learning rate, found no link that has one"),
        ([NORM, "centralize", "scale_by_adam", RATE], "link 2, 'centralize': after 'clip_by_global_norm' no rule"),
        ([("scale_by_adam", {"learning_rate": 1}), RATE], "has no argument 'learning_rate'"),
        ([("clip", {"max_delta": "x"}), RATE], "argument 'max_delta' expected a number, found 'x'"),
        ([("clip", {"bound": 1}), RATE], "expected the argument 'max_delta' alone, found bound"),
        ([], r"expected a list of \(name, arguments\)"),
        ([3], r"link 1: expected \(name, arguments\), found 3"),
    ],
)  # fmt: skip
def test_what_no_rule_has_is_refused_with_the_reason(links: list[Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        ox.native("optax:chain", links=links)


def test_an_unknown_link_is_named() -> None:
    with pytest.raises(UnknownNameError, match="link 1: 'scale_by_magic' is no alias and no transformation"):
        group("scale_by_magic", RATE)


def test_a_chain_goes_through_a_bundle(tmp_path: Any) -> None:
    spec = ox.native("optax:chain", links=[NORM, DECAY, ("adam", {"learning_rate": 0.1})])
    state = ox.step(ox.init(spec, {"w": np.ones(3)}), {"w": np.arange(3.0)})
    ox.save(state, tmp_path / "b.safetensors", format="bundle")
    again = ox.load(tmp_path / "b.safetensors")
    assert again.spec.groups[0].rule.digest == spec.groups[0].rule.digest
    ox.save(again, tmp_path / "s.msgpack", format="optax")
    from optexport.converters.optax import checkpoint

    tree = checkpoint.read(tmp_path / "s.msgpack").extras["tree"]
    assert list(tree) == ["0", "1", "2"] and list(tree["2"]["0"]) == ["count", "mu", "nu"]
