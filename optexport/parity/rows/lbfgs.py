"""Rows of the lbfgs family. Optax' is run on a convex function in test_lbfgs.py: it has the last step as a
difference of two parameters, which float32 loses where the standard problem's gradients are tiny."""

from ..record import torch

__all__ = ["ROWS"]

# yᵀs of nearly orthogonal vectors has the condition number ‖y‖‖s‖ / |yᵀs|. The gradients are random, of no function; the
# largest over each row's own pairs, as the referee has them, is 19.4, 36.7 and 5.4.
ORTHOGONAL = (19.5, 32.0, 5.5)

# Some gradients are small in one parameter, some in both.
COARSE = 1.7
ROWS = [
    torch("LBFGS", "coarse tolerance", lr=0.1, history_size=3, max_iter=1, tolerance_grad=COARSE,
          amplification=ORTHOGONAL[0]),
    torch("LBFGS", "history of 2", lr=0.1, history_size=2, max_iter=1, amplification=ORTHOGONAL[1]),
    torch("LBFGS", "ascent along a direction", lr=0.1, history_size=2, max_iter=1, tolerance_change=30.0,
          tolerance_grad=COARSE, amplification=ORTHOGONAL[2]),
]  # fmt: skip
