"""PyTorch's optimizers as rules (torch 2.13, ``torch/optim``).

Conventions: ``maximize`` negates the gradient before decay joins it; state is kept per tensor, with
a ``step`` that is a float32 scalar; SGD keeps none, and has no buffer before the first update.
Parameter groups are the caller's. One file a family in ``optimizers/``.
"""

from __future__ import annotations

from optexport.dialects import Native

from ._flat import arrange
from .optimizers import (
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    asgd,
    lbfgs,
    muon,
    nadam,
    radam,
    rmsprop,
    rprop,
    sgd,
)

__all__ = ["OPTIMIZERS", "arrange"]

OPTIMIZERS: tuple[Native, ...] = (
    *sgd.ROWS,
    *adam.ROWS,
    *adamax.ROWS,
    *nadam.ROWS,
    *radam.ROWS,
    *rmsprop.ROWS,
    *adagrad.ROWS,
    *adadelta.ROWS,
    *rprop.ROWS,
    *asgd.ROWS,
    *adafactor.ROWS,
    *muon.ROWS,
    *lbfgs.ROWS,
)
