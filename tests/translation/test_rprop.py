"""Rprop at once and late: the same lengths and signs, not the same steps."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from optexport.errors import VerdictError
from optexport.parity import problem

PAIRS = [("torch:Rprop", "optax:rprop"), ("optax:rprop", "torch:Rprop")]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_lengths_and_signs_go_on_and_the_parameter_does_not(source: str, target: str) -> None:
    p = problem(steps=20)
    state = ox.init(ox.native(source, lr=0.01), p.params)
    for g in p.grads[:10]:
        state = ox.step(state, g)
    port, report = ox.translate(state, target, allow="lossy")
    assert report.verdict == "lossy" and "step lengths and signs are carried" in report.dropped[0]
    for g in p.grads[10:]:
        state, port = ox.step(state, g), ox.step(port, g)
        for name in p.params:
            own, others = state.slots[name], port.slots[name]
            np.testing.assert_array_equal(others["step_length"], own["step_length"])
            np.testing.assert_array_equal(np.sign(others["prev"]), np.sign(own["prev"]))
            assert (port.params[name] != state.params[name]).any()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_delay_needs_consent(source: str, target: str) -> None:
    state = ox.init(ox.native(source, lr=0.01), problem().params)
    with pytest.raises(VerdictError) as caught:
        ox.translate(state, target)
    assert f"{source} to {target}: verdict lossy: drops the " in str(caught.value)
    assert "accept it with --allow lossy" in str(caught.value)
