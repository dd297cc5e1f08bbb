"""Verdicts between the frameworks' relatives of Adam, and what the AMSGrad maps promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.translation import explain

VERDICTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("torch:Adam", {"amsgrad": True}, "keras:Adam", "bounded"),
    ("torch:Adam", {"amsgrad": True, "eps": 0.0}, "keras:Adam", "exact"),
    ("torch:Adam", {"amsgrad": True}, "optax:amsgrad", "bounded"),
    ("optax:amsgrad", {}, "torch:Adam", "bounded"),
    ("optax:amsgrad", {"bias_correction_mu": False, "bias_correction_nu": False}, "torch:Adam", "bounded"),
    ("optax:adam", {"eps_root": 1e-3}, "torch:Adam", "bounded"),
    ("torch:SparseAdam", {}, "mxnet:adam", "exact"),
    ("torch:SparseAdam", {}, "torch:Adam", "bounded"),
    ("torch:Adamax", {}, "optax:adamax", "exact"),
    ("torch:Adamax", {"eps": 0.0}, "keras:Adamax", "exact"),
    ("torch:Adamax", {}, "keras:Adamax", "bounded"),
    ("torch:Adamax", {"eps": 0.0}, "mxnet:adamax", "exact"),
    ("mxnet:adamax", {}, "torch:Adamax", "exact"),
    ("mxnet:adamax", {}, "keras:Adamax", "exact"),
    ("keras:Adamax", {}, "mxnet:adamax", "bounded"),
    ("torch:NAdam", {"momentum_decay": 1.0}, "keras:Nadam", "exact"),
    ("torch:NAdam", {}, "keras:Nadam", "none"),
    ("keras:Nadam", {}, "torch:NAdam", "exact"),
    ("torch:NAdam", {}, "mxnet:nadam", "conditional"),
    ("mxnet:nadam", {}, "torch:NAdam", "conditional"),
    ("torch:NAdam", {}, "optax:nadam", "none"),
    ("optax:nadam", {}, "keras:Nadam", "none"),
    ("torch:RAdam", {}, "optax:radam", "bounded"),
    ("torch:RAdam", {"eps": 0.0}, "optax:radam", "exact"),
    ("optax:radam", {"eps": 0.0}, "torch:RAdam", "exact"),
    ("optax:radam", {"eps": 0.0, "threshold": 4.0}, "torch:RAdam", "none"),
    ("optax:radam", {"eps": 0.0, "nesterov": True}, "torch:RAdam", "none"),
    # β2 = 2/3: ρ tends to 5 from below and never is; β2 = 0.5: ρ stays below 3.
    ("optax:radam", {"eps": 0.0, "b2": 0.5}, "torch:RAdam", "exact"),
    ("optax:lion", {"weight_decay": 0.1}, "keras:Lion", "exact"),
    ("keras:Lion", {"weight_decay": 0.1}, "optax:lion", "exact"),
    ("optax:yogi", {}, "torch:Adam", "none"),
]


@pytest.mark.parametrize(("source", "arguments", "target", "verdict"), VERDICTS)
def test_verdict(source: str, arguments: dict[str, Any], target: str, verdict: str) -> None:
    assert explain(source, target, arguments).verdict == verdict


def test_why_nadam_has_no_map_to_optax() -> None:
    (why,) = explain("torch:NAdam", "optax:nadam").notes
    assert "schedule: μ_t rises to β1" in why and "β1 at every update (Optax)" in why


@pytest.mark.parametrize(
    ("source", "target"), [("torch:Adam", "optax:amsgrad"), ("optax:amsgrad", "torch:Adam")]
)
def test_amsgrad_stays_within_its_bound_at_every_later_update(source: str, target: str) -> None:
    """The bound is of every update to come, on the same state otherwise; the next one is the same."""
    rng = np.random.default_rng(3)
    arguments = {"amsgrad": True} if source == "torch:Adam" else {}
    lr = {"lr": 0.1} if source == "torch:Adam" else {"learning_rate": 0.1}
    state = ox.init(ox.native(source, **arguments, **lr), {"w": rng.standard_normal(50)})
    for t in range(4):
        state = ox.step(state, {"w": rng.standard_normal(50) * 3.0 ** (2 - t)})
    moved, report = ox.translate(state, target, allow="bounded")
    assert report.bound is not None
    for t in range(200):
        g = {"w": rng.standard_normal(50) * 0.1}
        before, other = state, moved
        state, moved = ox.step(state, g), ox.step(moved, g)
        change = state.params["w"] - before.params["w"], moved.params["w"] - other.params["w"]
        gap = np.abs(change[1] - change[0]) / np.abs(change[0])
        assert gap.max() <= (1e-12 if t == 0 else report.bound * (1 + 1e-9))
