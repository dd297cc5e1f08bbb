"""Training states and the files they come from."""

from .formats import formats
from .store import detect, load, save
from .training import MASTER, TrainingState

__all__ = ["MASTER", "TrainingState", "detect", "formats", "load", "save"]
