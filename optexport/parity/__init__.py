"""Parity: runs of one rule on several backends, compared with the referee step by step."""

from .bounds import rounding_bound
from .compare import Mismatch, compare_runs, referee, relative_error
from .problems import Problem, problem

__all__ = ["Mismatch", "Problem", "compare_runs", "problem", "referee", "relative_error", "rounding_bound"]
