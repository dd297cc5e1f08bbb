"""Clipping by value."""

from ..ir import Value, maximum, minimum

__all__ = ["clip_value"]


def clip_value(g: Value, bound: Value) -> Value:
    """``min(max(g, −C), C)``, elementwise."""
    return minimum(maximum(g, -bound), bound)
