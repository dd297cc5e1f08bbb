"""How far two correct implementations of one rule may lie apart, derived once.

Each arithmetic operation rounds its result by at most u (half a unit in the last place: 2⁻²⁴ in
float32, 2⁻⁵³ in float64). Rounding errors behave like independent random variables of mean 0, so
over n operations in sequence the relative error stays below λ·√n·u with a probability that tends to
1 quickly in λ (Higham & Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis",
SIAM J. Sci. Comput. 41). An update of a rule is a chain of as many operations as its program has
operations on tensors and on numbers made of them, and t updates are t such chains.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..ir import Program
from ..ir.analysis import scalars

__all__ = ["LAMBDA", "rounding_bound", "unit_roundoff"]

# Both sides of a comparison in float32 round; the referee of a float64 comparison does too.
LAMBDA = 3.0


def unit_roundoff(dtype: Any) -> float:
    """u of a floating-point dtype, bfloat16 and float16 included."""
    import ml_dtypes

    return float(ml_dtypes.finfo(np.dtype(dtype)).eps) / 2  # type: ignore[no-untyped-call]


def rounding_bound(program: Program, updates: int, dtype: Any, amplification: float = 1.0) -> float:
    """Largest relative difference, max|a − b| / max|b|, that rounding explains after ``updates``.

    amplification: condition number of a step that subtracts nearly equal numbers (centered RMSprop's
        n − a²), 1 for rules without one.
    """
    # Scalars of the step and hyperparameters are double on every side; those made of data are not.
    live = program.used() - set(scalars(program))
    operations = sum(program.nodes[i].op not in ("input", "const") for i in live)
    return amplification * LAMBDA * math.sqrt(max(operations, 1) * updates) * unit_roundoff(dtype)
