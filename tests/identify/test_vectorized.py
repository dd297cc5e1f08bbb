"""Programs over many settings at once compute what the referee computes, for every rule."""

from __future__ import annotations

import numpy as np
import pytest

from optexport.identify.hypothesis import _lockstep
from optexport.identify.vectorized import compiled
from optexport.reference.interpreter import run
from optexport.rules import families
from tests.every import FAMILIES, every_option, inputs, shape_of


@pytest.mark.parametrize("family", FAMILIES)
def test_same_as_the_referee(family: str) -> None:
    for options in every_option(family):
        rule = families()[family].rule(**options)
        shape = shape_of(family, options)
        assert shape is not None
        given = inputs(rule, shape=shape)
        want = run(rule.program, given)
        one = len(shape)

        def lifted(value: object, one: int = one) -> np.ndarray:
            a = np.asarray(value, np.float64)
            return a[None] if a.ndim else a.reshape((1,) * (one + 1))

        with np.errstate(all="ignore"):
            (got,) = _lockstep([compiled(rule.program)({k: lifted(v) for k, v in given.items()})])
        for name, value in want.items():
            mine = np.broadcast_to(np.asarray(got[name])[0], np.shape(value) or (1,) * one)
            np.testing.assert_allclose(
                mine.reshape(np.shape(value)), value, rtol=1e-9, atol=1e-12, err_msg=f"{options} {name}"
            )
