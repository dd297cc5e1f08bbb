"""Transforms: what happens around a rule. One file a transform, each a function on traced values, so that
a rule whose framework applies it inside the update (MXNet) and one that stands before any rule share
one definition.

Every family has all of them as options. They compose in one order; ``rules/wrapped.py`` states it.
"""

from .accumulate import accumulate
from .average import ema, running_mean
from .centralize import centralize
from .clip import clip_value
from .clip_norm import clip_norm
from .counting import multiple
from .lookahead import lookahead
from .loss_scale import adapt, all_finite, count_bad
from .rescale import rescale

__all__ = [
    "accumulate",
    "adapt",
    "all_finite",
    "centralize",
    "clip_norm",
    "clip_value",
    "count_bad",
    "ema",
    "lookahead",
    "multiple",
    "rescale",
    "running_mean",
]
