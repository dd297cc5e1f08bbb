"""What every ``converters/*/run.py`` takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..specs import Spec
from ..state import TrainingState

__all__ = ["Arrays", "Snapshot", "counts_of", "starting_state"]

Arrays = Mapping[str, Any]
# Parameters by name, and slots by parameter and name, after one update.
Snapshot = tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]


def counts_of(params: Arrays, steps: Mapping[str, int] | int | None) -> dict[str, int]:
    """Completed updates by parameter: each its own, or one count for all, 0 when None."""
    return dict(steps) if isinstance(steps, Mapping) else dict.fromkeys(params, steps or 0)


def starting_state(
    spec: Spec, params: Arrays, slots: Mapping[str, Arrays] | None, steps: Mapping[str, int] | int | None
) -> TrainingState:
    """Where a run goes on from; slots that are absent start at their initial values."""
    values = {n: np.asarray(v) for n, v in params.items()}
    return TrainingState(spec, values, slots or {}, counts_of(params, steps))
