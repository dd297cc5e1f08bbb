"""Identifying a black box: which rule of the catalogue an optimizer is, told by its updates alone."""

from .identity import Identity, identify

__all__ = ["Identity", "identify"]
