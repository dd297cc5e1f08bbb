"""Counting in a program of reals."""

from ..ir import Value, floor

__all__ = ["multiple", "remainder"]


def multiple(n: Value, k: Value) -> Value:
    """Whether the whole number ``n`` is a multiple of ``k``."""
    return (floor(n / k) * k).equals(n)


def remainder(n: Value, k: Value) -> Value:
    """``n mod k``."""
    return n - floor(n / k) * k
