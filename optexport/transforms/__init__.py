"""Gradient transforms: what happens to a gradient before a rule sees it. One file a transform.

They are functions on traced values, so that a rule whose framework applies them inside the update
(MXNet) and a transform that stands before any rule share one definition.
"""

from .clip import clip_value
from .rescale import rescale

__all__ = ["clip_value", "rescale"]
