"""Training states and the files they come from."""

from .training import MASTER, TrainingState

__all__ = ["MASTER", "TrainingState"]
