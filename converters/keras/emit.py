"""Keras source for any rule: one ``keras.optimizers.Optimizer`` subclass that imports Keras only."""

from __future__ import annotations

from ._emitted import emitted_groups, emitted_paths, emitted_state

__all__ = ["emitted_groups", "emitted_paths", "emitted_state"]
