"""Which state goes where: the verdict between native optimizers, one row a claim.

The commuting squares prove each move; these rows hold the paths that the search makes of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.errors import CheckpointError
from optexport.state import TrainingState
from optexport.translation import explain

MOMENTUM = {"momentum": 0.9}
# (from, its arguments, to, verdict, words of the condition, bound or reason)
PAIRS: list[tuple[str, dict[str, Any], str, str, str]] = [
    # SGD, momentum, Nesterov
    ("torch:SGD", MOMENTUM, "optax:sgd", "exact", ""),
    ("optax:sgd", MOMENTUM, "torch:SGD", "exact", ""),
    ("torch:SGD", {**MOMENTUM, "weight_decay": 0.1}, "onnx:Momentum", "exact", ""),
    ("torch:SGD", MOMENTUM, "mxnet:sgd", "conditional", "learning rate stays"),
    ("torch:SGD", {**MOMENTUM, "weight_decay": 0.1}, "mxnet:sgd", "conditional", "learning rate stays"),
    ("torch:SGD", MOMENTUM, "keras:SGD", "conditional", "learning rate stays"),
    ("optax:sgd", MOMENTUM, "keras:SGD", "conditional", "learning rate stays"),
    ("mxnet:sgd", MOMENTUM, "keras:SGD", "exact", ""),
    ("torch:SGD", {**MOMENTUM, "dampening": 0.5, "weight_decay": 0.1}, "mxnet:sgd", "conditional", ""),
    ("torch:SGD", {**MOMENTUM, "weight_decay": 0.1}, "keras:SGD", "lossy", "weight_decay"),
    ("torch:SGD", {**MOMENTUM, "nesterov": True}, "mxnet:nag", "conditional", "learning rate stays"),
    ("torch:SGD", {**MOMENTUM, "nesterov": True, "weight_decay": 0.1}, "mxnet:nag", "bounded", ""),
    ("torch:SGD", {**MOMENTUM, "nesterov": True}, "optax:sgd", "exact", ""),
    # Adam
    ("torch:Adam", {}, "optax:adam", "exact", ""),
    ("torch:AdamW", {}, "optax:adamw", "exact", ""),
    ("optax:adamw", {}, "torch:AdamW", "exact", ""),
    ("torch:AdamW", {}, "onnxruntime:AdamWOptimizer", "exact", ""),
    ("mxnet:adam", {}, "keras:Adam", "exact", ""),
    ("keras:Adam", {}, "mxnet:adam", "exact", ""),
    ("mxnet:adam", {"wd": 0.1}, "onnx:Adam", "exact", ""),
    ("torch:Adam", {}, "mxnet:adam", "bounded", "√c2"),
    ("torch:Adam", {}, "keras:Adam", "bounded", "√c2"),
    ("torch:Adam", {"eps": 0.0}, "keras:Adam", "exact", ""),
    ("torch:AdamW", {}, "keras:AdamW", "bounded", "√c2"),
    ("torch:AdamW", {}, "mxnet:adamw_update", "bounded", "√c2"),
    (
        "onnxruntime:AdamWOptimizer",
        {"adam_mode": 1, "weight_decay": 0.1},
        "onnx:Adam",
        "conditional",
        "rate stays",
    ),
    ("torch:Adam", {"amsgrad": True}, "keras:Adam", "bounded", "√c2"),
    ("torch:Adam", {"amsgrad": True, "eps": 0.0}, "keras:Adam", "exact", ""),
    ("torch:Adam", {"amsgrad": True}, "optax:amsgrad", "bounded", ""),
    ("torch:Adam", {"amsgrad": True}, "mxnet:adam", "lossy", "max_exp_avg_sq"),
    # Adamax, NAdam, RAdam, Lion
    ("torch:Adamax", {}, "optax:adamax", "exact", ""),
    ("torch:Adamax", {}, "keras:Adamax", "bounded", ""),
    ("torch:Adamax", {"eps": 0.0}, "keras:Adamax", "exact", ""),
    ("torch:Adamax", {"eps": 0.0}, "mxnet:adamax", "exact", ""),
    ("torch:NAdam", {"momentum_decay": 1.0, "eps": 0.0}, "keras:Nadam", "exact", ""),
    ("torch:NAdam", {}, "mxnet:nadam", "conditional", "one"),
    ("torch:NAdam", {}, "optax:nadam", "none", ""),
    ("torch:RAdam", {}, "optax:radam", "bounded", ""),
    ("optax:lion", {}, "keras:Lion", "exact", ""),
    ("keras:Lion", {"weight_decay": 0.1}, "optax:lion", "exact", ""),
    # Adagrad, Adadelta, RMSprop
    ("torch:Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1}, "onnx:Adagrad", "exact", ""),
    ("mxnet:adagrad", {"wd": 0.1}, "keras:Adagrad", "exact", ""),
    ("keras:Adagrad", {}, "optax:adagrad", "exact", ""),
    ("optax:adagrad", {}, "mxnet:adagrad", "exact", ""),
    ("torch:Adagrad", {}, "keras:Adagrad", "bounded", "√2"),
    ("torch:Adadelta", {}, "optax:adadelta", "exact", ""),
    ("torch:Adadelta", {}, "keras:Adadelta", "exact", ""),
    ("mxnet:adadelta", {"wd": 0.1}, "keras:Adadelta", "exact", ""),
    ("torch:RMSprop", {"momentum": 0.0}, "optax:rmsprop", "exact", ""),
    ("torch:RMSprop", MOMENTUM, "optax:rmsprop", "conditional", "learning rate stays"),
    ("keras:RMSprop", MOMENTUM, "optax:rmsprop", "exact", ""),
    ("optax:rmsprop", {}, "mxnet:rmsprop", "exact", ""),
    ("keras:RMSprop", {"momentum": 0.9, "centered": True}, "mxnet:rmsprop", "exact", ""),
    ("torch:RMSprop", {}, "mxnet:rmsprop", "bounded", ""),
    # Layer-wise, factored, matrix
    ("mxnet:lamb", {"wd": 0.1}, "optax:lamb", "exact", ""),
    ("optax:lamb", {}, "keras:Lamb", "exact", ""),
    ("mxnet:lars", MOMENTUM, "optax:lars", "exact", ""),
    ("torch:Adafactor", {"weight_decay": 0.0}, "keras:Adafactor", "conditional", ""),
    ("keras:Adafactor", {}, "optax:adafactor", "conditional", ""),
    ("torch:Muon", {}, "keras:Muon", "bounded", ""),
    ("optax:schedule_free_adamw", {}, "keras:ScheduleFreeAdamW", "conditional", ""),
    # Sign, proximal, others
    ("mxnet:ftrl", {}, "keras:Ftrl", "exact", ""),
    ("keras:Ftrl", {}, "mxnet:ftrl", "exact", ""),
    ("mxnet:signum", {}, "optax:signum", "exact", ""),
    ("torch:LBFGS", {}, "optax:lbfgs", "conditional", ""),
    # Transitive: MXNet's buffer unfolds, ONNX's holds the gradients.
    ("mxnet:sgd", MOMENTUM, "onnx:Momentum", "conditional", "learning rate stays"),
    ("keras:SGD", MOMENTUM, "torch:SGD", "conditional", "learning rate stays"),
]


@pytest.mark.parametrize(("source", "arguments", "target", "verdict", "words"), PAIRS)
def test_the_verdict(source: str, arguments: dict[str, Any], target: str, verdict: str, words: str) -> None:
    found = explain(source, target, arguments)
    text = " ".join((*found.conditions, found.bound or "", *found.dropped, *found.notes))
    assert found.verdict == verdict, text
    assert words in text


def _half_started(**fields: Any) -> TrainingState:
    """A Keras run of which one parameter was updated, the other never."""
    state = ox.init(ox.native("keras:Adagrad", learning_rate=0.1), {"w": np.ones(3), "b": np.ones(2)})
    state = ox.step(state, {"w": np.ones(3)})
    return replace(state, slots={"w": state.slots["w"]}, **fields)


def test_a_parameter_never_updated_keeps_its_start() -> None:
    """Keras' accumulator starts at 0.1, MXNet's at 0: what a port has not updated yet starts where it was."""
    state = _half_started()
    moved, _ = ox.translate(state, to="mxnet:adagrad")
    assert moved.slots["b"]["sum"].tolist() == [0.1, 0.1]
    grads = {"w": np.ones(3), "b": np.ones(2)}
    after, before = ox.step(moved, grads), ox.step(state, grads)
    np.testing.assert_allclose(after.params["b"], before.params["b"], rtol=1e-12)


def test_a_start_that_is_not_known_is_asked_for() -> None:
    with pytest.raises(CheckpointError, match="parameter 'b', slot 'sum': expected a tensor, found none"):
        ox.translate(_half_started(params={}), to="mxnet:adagrad")
