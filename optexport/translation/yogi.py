"""Moves of the Yogi family."""

from __future__ import annotations

from .adaptive import eps_root_moves

__all__: list[str] = []

eps_root_moves("yogi")
