"""Rows of the asgd family."""

from ..record import torch

__all__ = ["ROWS"]

ROWS = [
    torch("ASGD", "average from the tenth update", lr=0.01, t0=10.0),
    torch(
        "ASGD", "averaging and decay", lr=0.1, lambd=0.1, alpha=0.6, t0=5.0, weight_decay=0.1, maximize=True
    ),
]
