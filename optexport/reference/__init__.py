"""The referee: NumPy, float64 by default, short enough to audit. Everything is compared with it."""

from .interpreter import run
from .optimizer import init, step

__all__ = ["init", "run", "step"]
