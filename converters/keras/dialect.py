"""Keras 3's optimizers as rules (Keras 3.15, ``keras/src/optimizers``).

One file a family in ``optimizers/``, collected here; ``optimizers/common.py`` says what all of them
share, and what is refused. An optimizer has one set of arguments for all parameters; its step count
``iteration`` is shared too. Files know parameters by position alone.
"""

from __future__ import annotations

from .optimizers import adagrad, adam, rmsprop, sgd
from .optimizers.common import KerasNative

__all__ = ["OPTIMIZERS"]

OPTIMIZERS: tuple[KerasNative, ...] = (
    *sgd.ROWS,
    *adam.ROWS,
    *rmsprop.ROWS,
    *adagrad.ROWS,
)
