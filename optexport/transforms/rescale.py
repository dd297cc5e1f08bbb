"""Rescaling."""

from ..ir import Value

__all__ = ["rescale"]


def rescale(g: Value, factor: Value) -> Value:
    """``r·g``."""
    return factor * g
