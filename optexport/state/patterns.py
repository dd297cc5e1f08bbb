"""Names with wildcards: ``layers.*.weight``.

``*`` stands for one or more characters other than ``.`` and ``/``, ``**`` for any. What the k-th
wildcard of one pattern stood for, the k-th of another takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["fill", "match", "wildcards"]

_PARTS = re.compile(r"(\*\*|\*)")


def wildcards(pattern: str) -> int:
    """How many wildcards a pattern has."""
    return len(_PARTS.findall(pattern))


def match(pattern: str, name: str) -> tuple[str, ...] | None:
    """What each wildcard stands for; None where the name does not match.

    Where there are several ways, each wildcard from the left takes as little as it can.
    """
    parts = [p for p in _PARTS.split(pattern) if p]
    # (part, place in the name) that lead nowhere: each is tried once, so that no name takes long.
    dead: set[tuple[int, int]] = set()
    found: list[str] = []

    def go(part: int, at: int) -> bool:
        if part == len(parts):
            return at == len(name)
        if (part, at) in dead:
            return False
        text = parts[part]
        if text[0] != "*":
            if name.startswith(text, at) and go(part + 1, at + len(text)):
                return True
        else:
            for end in range(at + (text == "*"), len(name) + 1):
                if text == "*" and name[end - 1] in "./":
                    break
                found.append(name[at:end])
                if go(part + 1, end):
                    return True
                found.pop()
        dead.add((part, at))
        return False

    return tuple(found) if go(0, 0) else None


def fill(pattern: str, values: Sequence[str]) -> str:
    """The pattern with its wildcards taking these values in turn."""
    parts = _PARTS.split(pattern)
    values = list(values)
    return "".join(values.pop(0) if p in ("*", "**") else p for p in parts)
