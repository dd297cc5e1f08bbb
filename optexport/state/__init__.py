"""Training states and the files they come from."""

from .store import detect, formats, load, save
from .training import MASTER, TrainingState

__all__ = ["MASTER", "TrainingState", "detect", "formats", "load", "save"]
