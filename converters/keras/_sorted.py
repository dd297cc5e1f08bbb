"""Order of the names that Keras gives to layers."""

from __future__ import annotations

import re

__all__ = ["numbers_as_numbers"]


def numbers_as_numbers(path: str) -> list[tuple[int, str]]:
    """Sorts dense_10 behind dense_2."""
    return [(int(p), "") if p.isdecimal() and p.isascii() else (-1, p) for p in re.split(r"(\d+)", path)]
