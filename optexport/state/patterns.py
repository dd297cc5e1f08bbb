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
    if "*" not in pattern:
        return () if pattern == name else None
    parts = [p for p in _PARTS.split(pattern) if p]
    size = len(name)
    # rest[i]: whether what is left of the name from place i matches the parts that are left. One pass a
    # part, so that no pattern takes long.
    rest = [False] * size + [True]
    tails = [rest]
    for text in reversed(parts):
        if text[0] != "*":
            rest = [name.startswith(text, i) and rest[i + len(text)] for i in range(size + 1)]
        else:
            here = [False] * (size + 1)
            here[size] = text == "**" and rest[size]
            for i in reversed(range(size)):
                free = text == "**" or name[i] not in "./"
                more = free and (here[i + 1] or rest[i + 1])
                here[i] = more or (text == "**" and rest[i])
            rest = here
        tails.append(rest)
    if not rest[0]:
        return None
    found, at = [], 0
    for text, after in zip(parts, tails[-2::-1], strict=True):
        if text[0] != "*":
            at += len(text)
            continue
        end = next(i for i in range(at + (text == "*"), size + 1) if after[i])
        found.append(name[at:end])
        at = end
    return tuple(found)


def fill(pattern: str, values: Sequence[str]) -> str:
    """The pattern with its wildcards taking these values in turn."""
    parts = _PARTS.split(pattern)
    values = list(values)
    return "".join(values.pop(0) if p in ("*", "**") else p for p in parts)
