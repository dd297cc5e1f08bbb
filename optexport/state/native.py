"""What a native checkpoint holds, before any dialect has given it meaning.

Readers in ``converters/*/checkpoint.py`` produce a `NativeState`, writers consume one. Arrays are
NumPy arrays (``ml_dtypes`` for bfloat16 and float8), read-only and memory-mapped where the file
allows it, and keep the bytes of the file: no cast, no copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["NativeGroup", "NativeState", "Weights"]


@dataclass
class NativeGroup:
    """One parameter group in the file's order.

    arguments: the framework's own hyperparameters as plain Python values (float, int, bool, str,
        None, tuple), under the framework's own names; empty where the file holds none.
    params: keys of the group's parameters, in the file's order. A key is the parameter's name where
        the file knows it, else its index as text (``"0"``).
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    params: list[str] = field(default_factory=list)


@dataclass
class NativeState:
    """One optimizer's state as one framework keeps it.

    framework: ``"torch"``, ``"mxnet"``, …
    format: tag of the container (``"torch-zip"``, ``"mxnet-updater-pickle"``, …).
    optimizer: the framework's own name (``"AdamW"``), None where the file does not say.
    groups: parameter groups; every key of ``slots`` occurs in exactly one of them.
    slots: parameter key -> native slot name -> array. A parameter without state has no entry.
    steps: parameter key -> completed updates, None where the file does not say.
    named: whether keys are parameter names rather than indexes.
    weights: parameter values that the same file carries (combined checkpoints), by name, in order.
    ordered: whether the order of ``weights`` is the model's own.
    shapes: of the model's parameters in its order, where another file's weights tell them.
    worked_out: whether ``steps`` follow from other numbers of the file; a step that is given comes first.
    extras: whatever else the file holds that may matter (scheduler state, epoch, …), plain values.
    warnings: one sentence each, for the person who converts.
    """

    framework: str
    format: str
    optimizer: str | None = None
    groups: list[NativeGroup] = field(default_factory=list)
    slots: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    steps: dict[str, int | None] = field(default_factory=dict)
    named: bool = False
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    ordered: bool = True
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    worked_out: bool = False
    extras: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Weights:
    """Parameter values of a weights file.

    tensors: name -> array, in the file's order.
    ordered: whether that order is the model's own (a PyTorch state_dict) rather than the
        container's (safetensors sorts).
    fixed: names of those that no optimizer updates (running statistics, frozen layers), where the file says.
    called: what the optimizer's state calls a parameter -> its name here, where these differ (Paddle).
    """

    tensors: dict[str, np.ndarray]
    ordered: bool
    fixed: frozenset[str] = frozenset()
    called: dict[str, str] = field(default_factory=dict)
