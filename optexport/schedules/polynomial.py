"""A power of the remaining time, and its case of power 1.

    η = end + (base − end) · (1 − min(k − begin, total)/total)^power

``cycle``: total is stretched to the next multiple of itself each time k reaches it (Keras).
"""

from ..ir import Value, floor, maximum, minimum
from ..rules.base import Hyper, Option, OptionValue
from .base import BASE, END, INF, TOTAL, Clock, plan
from .exponential import BEGIN

__all__ = ["linear", "polynomial"]


@plan(
    "polynomial",
    options=(
        Option(
            "after",
            {"hold": "after `total` the value is `end`", "cycle": "it begins again, stretched"},
            default="hold",
        ),
    ),
    hyperparameters=(BASE, END, Hyper("power", 1.0, 0.0, INF, "power of the remaining time"), TOTAL, BEGIN),
    source="torch PolynomialLR; MXNet PolyScheduler; optax.polynomial_schedule; keras PolynomialDecay",
)
def polynomial(s: Clock, *, after: OptionValue) -> Value:
    """end + (base − end)·(1 − k/total)^power"""
    total, end = s.hyper("total"), s.hyper("end")
    k = maximum(s.k - s.hyper("begin"), 0)
    if after == "cycle":
        # ⌈k/total⌉, at least 1.
        total = total * maximum(-floor(-(k / total)), 1)
    else:
        k = minimum(k, total)
    return end + (s.hyper("base") - end) * (1 - k / total) ** s.hyper("power")


@plan(
    "linear",
    hyperparameters=(
        Hyper("start", 0.0, -INF, INF, "value at count 0"),
        Hyper("end", 1e-3, -INF, INF, "value from `total` on"),
        TOTAL,
        BEGIN,
    ),
    source="torch LinearLR; optax.linear_schedule; warm-up everywhere",
)
def linear(s: Clock) -> Value:
    """start + (end − start)·k/total, then end: a warm-up"""
    start, end, total = s.hyper("start"), s.hyper("end"), s.hyper("total")
    k = minimum(maximum(s.k - s.hyper("begin"), 0), total)
    return start + (end - start) * k / total
