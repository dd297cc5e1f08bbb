"""Rows of the lbfgs family."""

from tests.parity.record import optax, torch

# yᵀs of nearly orthogonal vectors: its condition number is ‖y‖‖s‖ / yᵀs, at most this for a pair that is
# kept in the standard problem (whose gradients are random, of no function).
ORTHOGONAL = 32.0

# Some gradients are small in one parameter, some in both.
COARSE = 1.7
# Optax has the last step as a difference of two parameters, which float32 loses where the gradients of the
# standard problem are tiny. Its other forms are run on a convex function in test_lbfgs.py.
LOST = "the standard problem's tiny steps are lost in float32; see test_lbfgs.py"
# Ascending pairs, too, count there: ‖y‖‖s‖ / |yᵀs| of the standard problem stays below this.
ASCENDING = 128.0
F64 = ("float64",)

ROWS = [
    torch("LBFGS", "coarse tolerance", lr=0.1, history_size=3, max_iter=1, tolerance_grad=COARSE,
          amplification=ORTHOGONAL),
    torch("LBFGS", "history of 2", lr=0.1, history_size=2, max_iter=1, amplification=ORTHOGONAL),
    torch("LBFGS", "ascent along a direction", lr=0.1, history_size=2, max_iter=1, tolerance_change=30.0,
          tolerance_grad=COARSE, amplification=ORTHOGONAL),
    # Every pair counts, ascending ones too.
    optax("lbfgs", "history of 3", learning_rate=0.01, memory_size=3, dtypes=F64, reason=LOST,
          amplification=ASCENDING),
]  # fmt: skip
