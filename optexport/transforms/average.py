"""Averages of the parameter over the updates, kept beside it.

    ema              a ← ρa + (1−ρ)w, the first average being the first new parameter itself
    ema_from_start   the same, the parameter before the first update counting as the first average
    mean             a ← a + (w − a)/(n+1): every new parameter weighs the same

Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"; Izmailov et al. 2018,
"Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv:1803.05407), for the mean.
"""

from ..ir import Value, where

__all__ = ["ema", "running_mean"]


def ema(average: Value, w: Value, decay: Value, first: Value | None) -> Value:
    """The new average; ``first``, where given, says whether nothing was averaged before."""
    kept = decay if first is None else where(first, 0.0, decay)
    return kept * average + (1 - kept) * w


def running_mean(average: Value, w: Value, count: Value) -> Value:
    """The new average; ``count`` parameters were averaged before."""
    return average + (w - average) / (count + 1)
