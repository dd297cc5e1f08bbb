"""What every PyTorch optimizer has: switches without an effect on the numbers, ``maximize``, decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optexport.rules.base import OptionValue

__all__ = ["ALIASES", "CAPTURABLE", "INERT", "SWITCHES", "Arguments", "common", "variants"]

Arguments = Mapping[str, Any]

# Which kernel computes a step, not what it computes; `initial_lr` is a scheduler's note.
INERT = frozenset({"foreach", "fused", "capturable", "differentiable", "initial_lr", "swa_lr"})
ALIASES = {"learning_rate": "lr"}
# What a saved group holds besides: PyTorch's own defaults for how a step is computed.
SWITCHES = {"foreach": None, "differentiable": False, "fused": None}
CAPTURABLE = {"foreach": None, "capturable": False, "differentiable": False}


def common(a: Arguments) -> dict[str, OptionValue]:
    return {"maximize": bool(a["maximize"]), "rescale": False, "clip": "none", "scalars": "float64"}


def variants(*choices: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Each choice with and without decay and ascent."""
    return tuple(
        {**c, "weight_decay": decay, "maximize": maximize}
        for c in choices
        for decay in (0.0, 1.0)
        for maximize in (False, True)
    )
