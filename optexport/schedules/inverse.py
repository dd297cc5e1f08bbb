"""Decay as an inverse of the count.

η = base · min(k₁/warm, √(warm/k₁)),  k₁ = k + 1      inverse_sqrt: Vaswani et al. 2017
η = base / (1 + rate·k/period)                        inverse_time, ⌊k/period⌋ by steps
"""

from ..ir import Value, floor, minimum, sqrt
from ..rules.base import Hyper, Option, OptionValue
from .base import BASE, INF, Clock, plan

__all__ = ["inverse_sqrt", "inverse_time"]


@plan(
    "inverse_sqrt",
    hyperparameters=(
        BASE,
        Hyper("warmup", 4000.0, 1.0, INF, "counts of linear warm-up; base is reached there"),
    ),
    source='Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 5.3',
)
def inverse_sqrt(s: Clock) -> Value:
    """base · min((k+1)/warmup, √(warmup/(k+1)))"""
    t, warmup = s.k + 1, s.hyper("warmup")
    return s.hyper("base") * minimum(t / warmup, sqrt(warmup / t))


@plan(
    "inverse_time",
    options=(Option("staircase", {False: "smooth", True: "whole periods only"}, default=False),),
    hyperparameters=(
        BASE,
        Hyper("rate", 1.0, 0.0, INF, "what a period adds to the divisor"),
        Hyper("period", 1.0, 1.0, INF, "counts of a period"),
    ),
    source="keras InverseTimeDecay",
)
def inverse_time(s: Clock, *, staircase: OptionValue) -> Value:
    """base / (1 + rate·k/period)"""
    periods = s.k / s.hyper("period")
    return s.hyper("base") / (1 + s.hyper("rate") * (floor(periods) if staircase else periods))
