"""Translations: carrying state from one rule to another, and saying how exact that is.

`moves` is what a translation is made of; one file a family lists them; `search` finds the best way
from one rule to another; `api` applies it to a training state.
"""

from .api import Explanation, Report, explain, lower, translate
from .verdict import LEVELS, Verdict

__all__ = ["LEVELS", "Explanation", "Report", "Verdict", "explain", "lower", "translate"]
