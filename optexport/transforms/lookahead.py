"""Lookahead: slow weights that follow the parameter every k updates.

Zhang et al. 2019, "Lookahead Optimizer: k steps forward, 1 step back" (arXiv:1907.08610), Algorithm 1.

    every k-th update   φ ← φ + α(θ − φ),  θ ← φ
"""

from ..ir import Value, where
from .counting import multiple

__all__ = ["lookahead"]


def lookahead(fast: Value, slow: Value, t: Value, period: Value, step_size: Value) -> tuple[Value, Value]:
    """The new parameter and the new slow weights.

    fast: the parameter after the rule's own update, which is number ``t``.
    """
    sync = multiple(t, period)
    slow = where(sync, slow + step_size * (fast - slow), slow)
    return where(sync, slow, fast), slow
