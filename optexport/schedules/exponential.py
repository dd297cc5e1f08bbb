"""Exponential decay, smooth or by steps.

    η = base · γ^(k − begin)/period            exponential
    η = base · γ^⌊(k − begin)/period⌋          step

The learning rate is base until ``begin``. ``limit`` stops the decay at a value.
"""

from ..ir import Value, floor, maximum, minimum, where
from ..rules.base import Hyper, Option, OptionValue
from .base import BASE, INF, Clock, plan

__all__ = ["LIMITS", "bounded", "exponential", "step"]

GAMMA = Hyper("gamma", 0.1, 0.0, INF, "factor γ of one period")
BEGIN = Hyper("begin", 0.0, 0.0, INF, "counts before the decay begins")
LIMIT = Hyper("limit", 0.0, -INF, INF, "value at which the decay stops")
LIMITS = Option(
    "stop",
    {
        "none": "the decay never stops",
        "below": "never below `limit`",
        "above": "never above `limit`",
        "decayed_below": "the decayed values are never below `limit`; `base` itself may be (MXNet)",
    },
    default="none",
)


def bounded(s: Clock, value: Value, decays: Value, stop: OptionValue) -> Value:
    """``value`` held at ``limit``; decays: whether the decay has begun."""
    if stop == "below":
        return maximum(value, s.hyper("limit"))
    if stop == "above":
        return minimum(value, s.hyper("limit"))
    if stop == "decayed_below":
        return where(decays, maximum(value, s.hyper("limit")), value)
    return value


@plan(
    "exponential",
    options=(LIMITS,),
    hyperparameters=(BASE, GAMMA, Hyper("period", 1.0, 1.0, INF, "counts of one factor γ"), BEGIN, LIMIT),
    source="torch ExponentialLR; optax.exponential_decay; keras ExponentialDecay",
)
def exponential(s: Clock, *, stop: OptionValue) -> Value:
    """base · γ^((k − begin)/period)"""
    periods = s.let("periods", maximum(s.k - s.hyper("begin"), 0) / s.hyper("period"))
    return bounded(s, s.hyper("base") * s.hyper("gamma") ** periods, s.const(0) < periods, stop)


@plan(
    "step",
    options=(LIMITS,),
    hyperparameters=(
        BASE,
        GAMMA,
        Hyper("period", 10.0, 1.0, INF, "counts between two factors γ"),
        BEGIN,
        LIMIT,
    ),
    source="torch StepLR; MXNet FactorScheduler; optax.exponential_decay(staircase=True)",
)
def step(s: Clock, *, stop: OptionValue) -> Value:
    """base · γ^⌊(k − begin)/period⌋"""
    steps = s.let("steps", floor(maximum(s.k - s.hyper("begin"), 0) / s.hyper("period")))
    return bounded(s, s.hyper("base") * s.hyper("gamma") ** steps, s.const(0) < steps, stop)
