"""From what a black box did to what it is.

A supposition is fitted to one probe and must then hold on another, fresh one, within the bound that
rounding explains. First what the optimizer's name suggests, then every rule of the catalogue, then the
neighbours of those that explain most, the best first.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import OptexportError
from ..parity.bounds import rounding_bound, unit_roundoff
from ..parity.compare import Mismatch, relative_error
from ..rules.base import OptionValue
from . import candidates
from .fit import Seen, fit, guesses, misfit
from .hypothesis import Hypothesis, simulate
from .probes import same_elements

__all__ = ["PROMISING", "Search", "decimal", "departs", "tidied"]

# Condition numbers of subtractions on these probes: n − a² of a centered rule, yᵀs of nearly orthogonal
# vectors.
_CENTERED, _ORTHOGONAL = 16.0, 32.0
# Somebody else's order of operations: 1 − βᵗ, √c2 and the like are made in other ways, and a unit of β is
# several of 1 − β. Any change of meaning is far larger.
_ORDER = {"float64": 16.0, "float32": 2.0}
# Frameworks take sums, means and norms of float64 tensors in float32 here and there (`keras.ops`, Optax'
# Adafactor, its 1 − t⁻ᶜ too); what such a number goes into is off by a few of float32's units.
_REDUCED = 2.0**-20
# Digits left unexplained at which a supposition is worth the test on a fresh probe.
PROMISING = 0.3


def departs(h: Hypothesis, seen: Seen, floor: float = 0.0) -> Mismatch | None:
    """Where the run of ``h``, on its own from the start, leaves the bound; None where it does not.

    floor: added to the bound.
    """
    settings = {p.name: np.array([float(h.values[p.name])]) for p in h.hyperparameters}
    settings.setdefault("lr", np.zeros(1))
    amplification = _CENTERED if h.options.get("centered") else _ORTHOGONAL if h.family == "lbfgs" else 1.0
    amplification *= _ORDER[seen.dtype]
    if (not h.elementwise and h.family != "lbfgs") or h.family == "adafactor":
        floor = max(floor, _REDUCED)
    programs = {n: m.program for m in h.members(seen.probe.shapes) for n in m.params}
    for t, (now, _) in enumerate(simulate(h, seen.probe, settings, np.array([h.first])), 1):
        for name, program in programs.items():
            bound = floor + rounding_bound(program, t, seen.dtype, amplification)
            error = relative_error(seen.params[t - 1][name], now[name][0])
            if error > bound:
                return Mismatch(t, name, "param", error, bound)
    return None


@dataclass
class Search:
    """seen: of the probe that values are fitted to. fresh: of the one that decides. deadline: of
    ``time.process_time``, after which nothing new is tried. tried: fits made so far. screened: what rules of the
    catalogue leave unexplained as they are."""

    seen: Seen
    fresh: Seen
    deadline: float
    floor: float = 0.0
    tried: int = 0
    screened: list[tuple[float, Hypothesis]] = field(default_factory=list)

    def holds(self, h: Hypothesis) -> bool:
        """Whether ``h`` is what the black box computes, on both probes."""
        try:
            return departs(h, self.seen, self.floor) is None and departs(h, self.fresh, self.floor) is None
        except (OptexportError, ValueError):
            return False

    @property
    def late(self) -> bool:
        return time.process_time() > self.deadline

    def fitted(
        self, h: Hypothesis, seen: Seen | None = None, iterations: int = 12
    ) -> tuple[float, Hypothesis] | None:
        """(digits unexplained, ``h`` with fitted values), None where the rule does not apply."""
        self.tried += 1
        try:
            data = seen or self.seen
            made = fit(h, data, iterations)
            score = misfit(made, data)
            for p in made.hyperparameters:
                # A logarithm never reaches 0.
                if p.low == 0 and p.name.startswith("eps") and 0 < made.values[p.name] < 1e-3 and score < 8:
                    none = made.at({**made.values, p.name: 0.0})
                    if misfit(none, data) < score + 0.5:
                        none = fit(none, data, iterations)
                        less = misfit(none, data)
                        score, made = (less, none) if less < score else (score, made)
            return score, made
        except (OptexportError, ValueError, KeyError, np.linalg.LinAlgError):
            return None

    def settled_soon(self, h: Hypothesis) -> Hypothesis | None:
        """As `settled`, for values that a part of the probe gave: only where the rest does not speak against
        them."""
        made = self.fitted(h, None, 4)
        return self.settled(made[1]) if made is not None and made[0] < 8 * PROMISING else None

    def settled(self, h: Hypothesis) -> Hypothesis | None:
        """``h`` with values at which it holds, None where there are none."""
        if self.holds(h):
            return h
        made = self.fitted(h, iterations=30)
        if made is None or made[0] > 8 * PROMISING:
            return None
        for first in (made[1], None):
            if first is None:
                try:
                    first = fit(made[1], self.seen, 12, fine=True)
                except (OptexportError, ValueError, np.linalg.LinAlgError):
                    return None
            if self.holds(first):
                return first
            written = next((w for w in self._written(first) if self.holds(w)), None)
            if written is not None:
                return written
        return None

    def _written(self, h: Hypothesis) -> Iterable[Hypothesis]:
        """``h`` at values as a person would write them, near its own: decimals; one of them in float32; one of
        them, which the black box hardly shows, 0 or a default, and the others fitted again."""
        near = 1e-5 if self.seen.dtype == "float64" else 5e-3
        short = {p.name: decimal(h.values[p.name], near) for p in h.hyperparameters}
        yield h.at(short)
        for name, value in short.items():
            narrow = float(np.float32(value))
            if narrow != value and math.isfinite(narrow):
                yield h.at({**short, name: narrow})
        for p in h.hyperparameters:
            for value in dict.fromkeys((0.0, p.default, float(np.finfo(self.seen.dtype).eps))):
                now = h.values[p.name]
                if value == now or not math.isfinite(value) or not p.low <= value <= p.high:
                    continue
                if value == 0.0 and abs(now) > 1e-3:
                    continue
                tried = h.at({**h.values, p.name: value})
                rest = [q.name for q in h.hyperparameters if q is not p]
                try:
                    if misfit(tried, self.seen) > 4 * PROMISING:
                        continue
                    tried = fit(tried, self.seen, 8, rest)
                except (OptexportError, ValueError, np.linalg.LinAlgError):
                    continue
                yield tried
                yield tried.at({k: decimal(v, near) for k, v in tried.values.items()})

    # --- features that are plain to see -------------------------------------------------------------

    @property
    def elementwise(self) -> bool | None:
        """Whether equal elements of two tensors stay equal, None where no tensors share elements."""
        shared = same_elements(self.seen.probe.shapes)
        if shared is None:
            return None
        a, b, size = shared
        u = unit_roundoff(self.seen.dtype)
        for now in self.seen.params:
            x, y = now[a].reshape(-1)[:size], now[b].reshape(-1)[:size]
            if np.abs(x - y).max() > 64 * u * np.abs(x).max():
                return False
        return True

    @property
    def climbs(self) -> bool:
        """Whether first updates go along the gradient."""
        name = list(self.seen.probe.params)[min(1, len(self.seen.probe.params) - 1)]
        moved = np.sign(self.seen.params[0][name] - self.seen.probe.params[name])
        return float((moved * np.sign(self.seen.probe.grads[0][name])).sum()) > 0

    @property
    def accumulates(self) -> dict[str, Any]:
        """Options and values that follow from calls which move nothing."""
        moves = np.abs(self.seen.updates).max(axis=1) > 0
        first = int(np.argmax(moves)) + 1
        if first == 1 or any(moves[t] for t in range(len(moves)) if (t + 1) % first):
            return {}
        return {"accumulate": "mean", "accumulation_steps": float(first)}

    # --- the search ---------------------------------------------------------------------------------

    def run(
        self, hint: Hypothesis | None, family: str | None = None
    ) -> tuple[Hypothesis | None, list[tuple[float, Hypothesis]]]:
        """(what it is or None, the suppositions that explain most with the digits they leave)."""
        best: list[tuple[float, Hypothesis]] = []
        if hint is not None:
            found = self.settled(hint)
            if found is not None:
                return found, []
            made = self.fitted(hint)
            best += [made] if made is not None else []
        wrapped = self.accumulates
        common: dict[str, OptionValue] = {k: v for k, v in wrapped.items() if k == "accumulate"}
        elementwise = self.elementwise
        short = self.seen.first(7 if not wrapped else len(self.seen.params))
        queue: list[tuple[float, int, Hypothesis]] = []
        order = itertools.count()
        done: set[Any] = set()
        for h in candidates.seeds(hint.family if hint else family, elementwise, self.climbs, common):
            if self.late:
                break
            if wrapped:
                h = h.at({**h.values, "accumulation_steps": wrapped["accumulation_steps"]})
            done.add(_key(h))
            made = self.fitted(guesses(h, short), short, 4)
            if made is None:
                continue
            if made[0] < PROMISING and (found := self.settled(made[1])) is not None:
                return found, best
            self.screened.append(made)
            heapq.heappush(queue, (_rank(made), next(order), made[1]))
        for score, h in best:
            heapq.heappush(queue, (_rank((score, h)), next(order), h))
        return self._widened(queue, order, done, elementwise)

    def beside(self, h: Hypothesis) -> Hypothesis | None:
        """A neighbour of ``h`` that holds, None where there is none."""
        short = self.seen.first(8)
        for other in candidates.neighbours(h, self.elementwise):
            made = self.fitted(other, short, 6)
            if made is not None and made[0] < 4 * PROMISING and (held := self.settled(made[1])) is not None:
                return held
        return None

    def _widened(
        self, queue: list[tuple[float, int, Hypothesis]], order: Any, done: set[Any], elementwise: bool | None
    ) -> tuple[Hypothesis | None, list[tuple[float, Hypothesis]]]:
        """Neighbours of the best, and theirs: first those of the best of each family."""
        short = self.seen.first(12)
        best: list[tuple[float, Hypothesis]] = []
        front: list[tuple[float, int, Hypothesis]] = []
        families: set[str] = set()
        while queue and len(front) < 4:
            score, _, h = heapq.heappop(queue)
            made = self.fitted(h, short, 8) if not self.late else (score, h)
            if made is None or h.family in families:
                continue
            families.add(h.family)
            best.append(made)
            heapq.heappush(front, (_rank(made), next(order), made[1]))
        expanded: dict[str, int] = {}
        while front and not self.late:
            rank, _, h = heapq.heappop(front)
            left = rank - _rank((0.0, h))
            expanded[h.family] = expanded.get(h.family, 0) + 1
            others = itertools.chain(
                self._later(h) if expanded[h.family] == 1 else (),
                candidates.variants(h) if expanded[h.family] == 1 else (),
                candidates.neighbours(h, elementwise, left),
            )
            for other in others:
                if self.late:
                    break
                if _key(other) in done:
                    continue
                done.add(_key(other))
                made = self.fitted(other, short, 6)
                if made is None:
                    continue
                if made[0] < 4 * PROMISING and (found := self.settled_soon(made[1])) is not None:
                    return found, best
                best.append(made)
                if made[0] < left - 0.05:  # what explains no more leads nowhere
                    heapq.heappush(front, (_rank(made), next(order), made[1]))
        return None, sorted(best, key=_rank)

    def _later(self, h: Hypothesis) -> Iterable[Hypothesis]:
        """The same, counting from later."""
        if h.first or not h.rule.program.inputs("step"):
            return
        short = self.seen.first(9)
        try:
            for k in (1.0, 2.0):
                later = replace(h, first=k)
                starts = [guesses(later, short), *_unstuck(later)]
                yield min((fit(s, short, 6) for s in starts), key=lambda made: misfit(made, short))
            made = fit(h, short, 6, counting=True)
        except (OptexportError, ValueError, np.linalg.LinAlgError):
            return
        if made.first > 2:
            yield made


def _unstuck(h: Hypothesis) -> Iterator[Hypothesis]:
    """Where a fit has driven the last decay rate to its end, which has no slope, others that have one."""
    last = [p.name for p in h.hyperparameters if p.name.startswith("beta")][-1:]
    for name in last:
        if not 0.01 < h.values[name] < 0.9999:
            yield from (h.at({**h.values, name: beta}) for beta in (0.9, 0.999))


def _rank(made: tuple[float, Hypothesis]) -> float:
    """Digits left, and a little for each number that the rule has: more of them explain more of anything."""
    return made[0] + 0.25 * len(made[1].hyperparameters)


def _key(h: Hypothesis) -> Any:
    whole = tuple((p.name, h.values[p.name]) for p in h.hyperparameters if p.whole or h.values[p.name] == 0)
    return h.family, tuple(h.options.items()), h.first, whole


# --- the same, told with fewer digits ------------------------------------------------------------------


def tidied(h: Hypothesis, search: Search) -> tuple[Hypothesis, list[str]]:
    """``h`` without additions that do nothing, at the roundest values that still hold, and notes."""
    again = True
    while again and h.edit is None:
        again = False
        for less in candidates.simpler(h):
            # Values that only make up for the addition (a factor of the gradient) need not be kept.
            plain = less if search.holds(less) or _round(h) else search.settled(less)
            if plain is not None and search.holds(plain):
                h, again = plain, True
                break
    if h.first and search.holds(early := replace(h, first=0.0)):
        h = early
    notes: list[str] = []
    for p in h.hyperparameters:
        value = h.values[p.name]
        for other, note in _rounder(value, p.neutral):
            if other == value:
                break  # it is as round as can be
            if not p.low <= other <= p.high:
                continue
            tried = h.at({**h.values, p.name: other})
            if not search.holds(tried):
                if other == p.neutral:
                    continue
                # Values that lean on each other: the others may follow.
                rest = [q.name for q in h.hyperparameters if q.name != p.name]
                if abs(other - value) > 1e-5 * abs(value) and search.seen.dtype == "float64":
                    continue
                try:
                    tried = fit(tried, search.seen, 6, rest)
                except (OptexportError, ValueError):
                    continue
                if not search.holds(tried):
                    continue
            h = tried
            if note:
                notes.append(f"{p.name} is {note}")
            break
    if h.edit is None and search.seen.dtype == "float64" and not _round(h) and not notes:
        # The same run told by another option may have the numbers that a person gave.
        beside = search.beside(h)
        if beside is not None and _round(beside):
            return beside, notes
    return h, notes


def decimal(value: float, near: float) -> float:
    """The shortest decimal within ``near`` of ``value``, as a share of it, or of its distance from 1."""
    if not math.isfinite(value) or value == 0:
        return value
    for digits in range(1, 9):
        for other in (
            float(f"{value:.{digits - 1}e}"),
            float(f"{1 - float(f'{1 - value:.{digits - 1}e}'):.12g}"),
        ):
            if abs(other - value) <= near * min(abs(value), abs(1 - value) if 0.5 < value < 1 else math.inf):
                return other
    return value


def _round(h: Hypothesis) -> bool:
    return all(float(f"{v:.4g}") == v for v in h.values.values())


def _rounder(value: float, neutral: float | None) -> Iterable[tuple[float, str]]:
    """Numbers near ``value`` that a person would write, the simplest first; then those in float32."""
    if neutral is not None:
        yield neutral, ""
    seen: list[float] = []
    for digits in range(1, 9):
        for other in (
            float(f"{value:.{digits - 1}e}"),
            1 - float(f"{1 - value:.{digits - 1}e}") if 0.5 < value < 1 else None,
        ):
            if other is None or other in seen:
                continue
            other = float(f"{other:.12g}")
            if value and abs(other - value) <= 0.02 * abs(value):
                seen.append(other)
                yield other, ""
    for other in seen:
        narrow = float(np.float32(other))
        if narrow != other:
            yield narrow, f"{other:g} in float32, where double is usual"
        # 1 − β made in float32, as an attribute or a kernel does.
