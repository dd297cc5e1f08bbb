"""How tensors share nodes: alone, in a bucket, in blocks, or in one flat buffer a group.

Numbers are from ``benchmarks/update_step.py``. A chain of operators runs fastest on about a quarter
of a million elements: enough for the runtime to use its threads, and the intermediates stay in the
processor's cache. So big tensors are cut into such blocks (a Scan), and small ones, where a node
costs more than its arithmetic, are joined. Rows of a flat buffer are half as long: a session gives
each of its threads rows of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["BLOCK", "Segment", "blocks", "buckets", "flat_shape", "joins_directly", "segments", "size"]

Shape = tuple[int, ...]

BLOCK = 1 << 18  # elements that an update works on at a time
SCAN_FROM = 1 << 20  # a parameter with fewer elements is not cut
SMALL = 1 << 16  # a parameter with more elements is not joined with others
BUCKET = 1 << 18  # elements of a bucket at most
ROW = 1 << 17  # elements of a flat buffer's row at most, or nearly


@dataclass(frozen=True)
class Segment:
    """Where a parameter lies in a flat buffer, in elements."""

    name: str
    offset: int
    shape: Shape


def size(shape: Shape) -> int:
    return math.prod(shape)


def blocks(shape: Shape) -> tuple[int, int] | None:
    """(blocks, elements of each) that tile a parameter exactly, None where it is better left whole.

    The size nearest to `BLOCK` between a quarter of it and four times it.
    """
    n = size(shape)
    if n < SCAN_FROM:
        return None
    low, high = max(n // (4 * BLOCK), 2), 4 * n // BLOCK
    counts = [c for c in range(low, high + 1) if n % c == 0]
    if not counts:
        return None
    count = min(counts, key=lambda c: abs(math.log(n / c / BLOCK)))
    return count, n // count


def buckets(shapes: Mapping[str, Shape]) -> list[list[str]]:
    """Names that share one chain: big parameters alone, small ones together up to `BUCKET`.

    Parameters that agree in all but their first axis come together, because they join without a
    Reshape each; those that find no such company share mixed buckets.
    """
    alone = [[name] for name, shape in shapes.items() if size(shape) > SMALL or size(shape) == 0]
    taken = {names[0] for names in alone}
    alike: dict[Shape | None, dict[str, int]] = {}
    for name, shape in shapes.items():
        if name not in taken:
            alike.setdefault(shape[1:] if shape else None, {})[name] = size(shape)
    joined: list[list[str]] = []
    mixed: dict[str, int] = {}
    for held in alike.values():
        for names in _filled(held):
            if len(names) > 1:
                joined.append(names)
            else:
                mixed[names[0]] = held[names[0]]
    return [*alone, *joined, *_filled(mixed)]


def _filled(sizes: Mapping[str, int]) -> list[list[str]]:
    """Names in order, cut where a bucket would hold more than `BUCKET` elements."""
    out: list[list[str]] = []
    held = BUCKET + 1
    for name, n in sizes.items():
        if held + n > BUCKET:
            out.append([])
            held = 0
        out[-1].append(name)
        held += n
    return out


def joins_directly(shapes: Iterable[Shape]) -> bool:
    """Whether parameters agree in all but the first axis."""
    tails = {shape[1:] if shape else None for shape in shapes}
    return len(tails) == 1 and None not in tails


def segments(shapes: Iterable[tuple[str, Shape]]) -> list[Segment]:
    """Parameters one after the other."""
    out, offset = [], 0
    for name, shape in shapes:
        out.append(Segment(name, offset, shape))
        offset += size(shape)
    return out


def flat_shape(elements: int) -> tuple[int, int]:
    """(rows, row length) of a flat buffer that holds ``elements``.

    Eight rows at least where that leaves a row some work. A row's length is a multiple of 16, so
    there are up to 16 elements a row of padding, at the buffer's end.
    """
    rows = max(1, -(-elements // ROW), min(8, elements // (ROW // 16)))
    return rows, max(16, -(-elements // (16 * rows)) * 16)
