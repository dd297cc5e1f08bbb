"""Optax' optimizers as rules (Optax 0.2.8, ``optax/_src/alias.py``, ``transform.py``).

One file a family in ``optimizers/``, collected here; ``optimizers/common.py`` says what all of them
share, and what is refused. An optimizer has one set of arguments for all parameters (groups are
`optax.multi_transform`'s); the step count is one number for all of them.
"""

from __future__ import annotations

from .optimizers import (
    adadelta,
    adagrad,
    adam,
    adamax,
    adaptive,
    factored,
    layerwise,
    lion,
    muon,
    nadam,
    others,
    radam,
    rmsprop,
    rprop,
    schedule_free,
    sgd,
    signum,
)
from .optimizers.common import OptaxNative

__all__ = ["OPTIMIZERS"]

OPTIMIZERS: tuple[OptaxNative, ...] = (
    *sgd.ROWS,
    *adam.ROWS,
    *adamax.ROWS,
    *nadam.ROWS,
    *radam.ROWS,
    *adaptive.ROWS,
    *lion.ROWS,
    *rmsprop.ROWS,
    *adagrad.ROWS,
    *adadelta.ROWS,
    *signum.ROWS,
    *rprop.ROWS,
    *layerwise.ROWS,
    *factored.ROWS,
    *muon.ROWS,
    *schedule_free.ROWS,
    *others.ROWS,
)
