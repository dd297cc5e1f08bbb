"""What a file may ask for: checks before anything is allocated."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["holdable", "parse_json"]

# A character of JSON can become a list of 64 bytes or a dictionary of 232; these are what CPython takes,
# with what the parser and its hooks hold beside it.
_OPENED, _SEPARATED = 250, 100
_MOST = 400 << 20
# NumPy 1 has no more dimensions than that.
_DIMENSIONS = 32


def parse_json(
    text: str | bytes, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Like ``json.loads``, of a text from a file.

    Raises:
        ValueError: it is no JSON, nests too deep, or would become more than 400 MB of objects.
    """
    opened, separated = ("[", "{"), (",", ":")
    if isinstance(text, bytes):
        taken = _OPENED * sum(text.count(c.encode()) for c in opened)
        taken += _SEPARATED * sum(text.count(c.encode()) for c in separated)
    else:
        taken = _OPENED * sum(map(text.count, opened)) + _SEPARATED * sum(map(text.count, separated))
    if taken > _MOST:
        raise ValueError(
            f"{len(text)} bytes of JSON would take {taken >> 20} MB of memory, more than {_MOST >> 20}"
        )
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def holdable(shape: Sequence[int], itemsize: int) -> bool:
    """Whether NumPy has arrays of this shape; also empty ones have none where the other sizes are too large."""
    return len(shape) <= _DIMENSIONS and math.prod(n for n in shape if n) * itemsize < 1 << 63
