"""Numbers about a run beside the referee's: relative errors, units in the last place, the bound's first
crossing and the slot that crossed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .series import Fault, Series

__all__ = ["BUCKETS", "Measured", "SlotError", "histogram", "measure", "relative_errors", "ulps"]

# Distances in units in the last place, the largest of each class; what is farther has the last one.
BUCKETS = (0, 1, 2, 4, 8, 16, 64, 256, 4096, 65536)


@dataclass(frozen=True)
class SlotError:
    """One slot of one parameter over a run.

    errors: max|a − b| / max|b| of each update (infinite where one has NaN and the other not). bounds: what
    rounding explains at each. ulp: counts of elements by distance, see `BUCKETS`. ulp_max: the farthest.
    """

    param: str
    slot: str
    errors: tuple[float, ...]
    bounds: tuple[float, ...]
    ulp: tuple[int, ...]
    ulp_max: int

    @property
    def first(self) -> int | None:
        """The first update that leaves the bound, from 1."""
        return next(
            (t for t, (e, b) in enumerate(zip(self.errors, self.bounds, strict=False), 1) if e > b), None
        )

    @property
    def ratio(self) -> float:
        """The largest error over its bound; 1 is at the bound."""
        pairs = zip(self.errors, self.bounds, strict=False)
        return max((e / b if b else (0.0 if e == 0 else np.inf) for e, b in pairs), default=0.0)


@dataclass(frozen=True)
class Measured:
    """A run beside the referee's. fault: what is wrong apart from numbers, else None."""

    slots: tuple[SlotError, ...]
    fault: Fault | None = None

    @property
    def error(self) -> float:
        return max((max(s.errors, default=0.0) for s in self.slots), default=0.0)

    @property
    def ratio(self) -> float:
        return max((s.ratio for s in self.slots), default=0.0)

    @property
    def ulp_max(self) -> int:
        return max((s.ulp_max for s in self.slots), default=0)

    @property
    def first(self) -> dict[str, Any] | None:
        """The slot that left its bound first: update, parameter, slot, error, bound. Among several at one
        update the one farthest out."""
        crossed = [
            (s.first, -s.errors[s.first - 1] / max(s.bounds[s.first - 1], 1e-300), s)
            for s in self.slots
            if s.first
        ]
        if not crossed:
            return None
        update, _, s = min(crossed, key=lambda c: c[:2])
        assert update is not None
        return {
            "update": update,
            "param": s.param,
            "slot": s.slot,
            "error": s.errors[update - 1],
            "bound": s.bounds[update - 1],
        }

    @property
    def within(self) -> bool:
        return self.fault is None and all(s.first is None for s in self.slots)

    @property
    def sentence(self) -> str:
        """What is wrong, empty where nothing is."""
        if self.fault:
            return self.fault.sentence
        f = self.first
        return (
            ""
            if f is None
            else f"update {f['update']}, parameter {f['param']!r}, {f['slot']}: relative error {f['error']:.3g}, "
            f"bound {f['bound']:.3g}"
        )


def measure(
    got: Series,
    want: Series,
    bounds: Mapping[str, Sequence[float]],
    fault: Fault | None = None,
) -> Measured:
    """Compare a run with the referee's.

    bounds: parameter -> what rounding explains at each update. fault: of `series.collect`, if there was one.

    A slot that the run lacks, one of another shape, and numbers that are none where the referee's are, are
    faults too.
    """
    slots = []
    for (param, slot), right in want.items():
        mine = got.get((param, slot))
        if mine is None:
            if fault is None:
                said = f"parameter {param!r}: expected the slot {slot}, found none"
                fault = Fault("missing", said, 1, param, slot)
            continue
        if mine.shape[1:] != right.shape[1:]:
            if fault is None:
                said = (
                    f"parameter {param!r}, {slot}: expected shape {right.shape[1:]}, found {mine.shape[1:]}"
                )
                fault = Fault("shape", f"the optimizer changes a shape: {said}", 1, param, slot)
            continue
        n = min(len(mine), len(right))
        mine, right = mine[:n], right[:n]
        fault = fault or _not_numbers(mine, right, param, slot)
        distance = ulps(mine, right)
        slots.append(
            SlotError(
                param,
                slot,
                tuple(relative_errors(mine, right)),
                tuple(bounds[param][:n]),
                histogram(distance),
                int(distance.max(initial=0)),
            )
        )
    return Measured(tuple(slots), fault)


def _not_numbers(mine: np.ndarray, right: np.ndarray, param: str, slot: str) -> Fault | None:
    bad = np.isfinite(right.astype(np.float64)) & ~np.isfinite(mine.astype(np.float64))
    if not bad.any():
        return None
    update = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
    found = "NaN" if np.isnan(mine[update].astype(np.float64)).any() else "an infinity"
    said = f"the optimizer returns {found} where the referee has numbers, from update {update + 1} on"
    return Fault("nan", f"{said}: parameter {param!r}, {slot}", update + 1, param, slot)


def relative_errors(a: np.ndarray, b: np.ndarray) -> list[float]:
    """max|a − b| / max|b| of each update; infinite where one has NaN and the other not."""
    n = len(b)
    x, y = a.reshape(n, -1).astype(np.float64), b.reshape(n, -1).astype(np.float64)
    with np.errstate(all="ignore"):
        gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        top = np.nan_to_num(gap, nan=np.inf).max(axis=1, initial=0.0)
        scale = np.where(np.isfinite(y), np.abs(y), 0.0).max(axis=1, initial=0.0)
        return [
            0.0 if t == 0 else float(t / s) if s else float("inf") for t, s in zip(top, scale, strict=True)
        ]


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many numbers of ``a``'s type lie between each element of it and of ``b`` rounded to that type, as
    uint64; NaN is 0 from NaN and the largest number from all else."""
    kind = a.dtype if a.dtype.kind == "f" else np.dtype(np.float64)
    with np.errstate(all="ignore"):
        x, y = np.ascontiguousarray(a, kind), np.ascontiguousarray(b).astype(kind)
    one, two = _ordered(x), _ordered(y)
    # Two's complement: the difference is right modulo 2⁶⁴, and never negative in this order.
    with np.errstate(over="ignore"):
        distance = np.where(
            one > two, one.view(np.uint64) - two.view(np.uint64), two.view(np.uint64) - one.view(np.uint64)
        )
    nan = np.isnan(x), np.isnan(y)
    distance = np.where(nan[0] & nan[1], np.uint64(0), distance)
    return np.where(nan[0] ^ nan[1], np.iinfo(np.uint64).max, distance)


def _ordered(x: np.ndarray) -> np.ndarray:
    """Floating-point numbers as whole numbers in the same order, both zeros 0."""
    bits = x.view(f"i{x.dtype.itemsize}").astype(np.int64)
    low = -(1 << (8 * x.dtype.itemsize - 1))
    return np.where(bits < 0, low - bits, bits)


def histogram(distance: np.ndarray) -> tuple[int, ...]:
    """How many elements lie in each class of `BUCKETS`; the last number is of those beyond."""
    edges = np.array(BUCKETS, np.uint64)
    return tuple(
        int(n) for n in np.bincount(np.searchsorted(edges, distance.ravel()), minlength=len(edges) + 1)
    )
