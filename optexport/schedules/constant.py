"""The same value for ever.

η = base
"""

from ..ir import Value
from .base import BASE, Clock, plan

__all__ = ["constant"]


@plan("constant", hyperparameters=(BASE,), source="optax.constant_schedule")
def constant(s: Clock) -> Value:
    """base"""
    return s.hyper("base")
