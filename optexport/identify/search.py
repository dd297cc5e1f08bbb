"""From what a black box did to what it is.

A supposition is fitted to one probe and must then hold on another, fresh one, within the bound that
rounding explains. First what the optimizer's name suggests, then every rule of the catalogue, then the
neighbours of those that explain most, the best first.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import OptexportError
from ..parity.bounds import rounding_bound, unit_roundoff
from ..parity.compare import Mismatch, relative_error
from ..rules.base import OptionValue
from . import candidates
from .edits import Edit, edits
from .fit import Seen, fit, guesses, misfit
from .hypothesis import Hypothesis, simulate
from .probes import same_elements

__all__ = ["Search", "departs", "explained_by_edit", "tidied"]

# A subtraction of nearly equal numbers: the condition number of n − a² on these problems.
_CENTERED = 16.0
# Digits left unexplained at which a supposition is worth the test on a fresh probe.
_PROMISING = 0.3


def departs(h: Hypothesis, seen: Seen, floor: float = 0.0) -> Mismatch | None:
    """Where the run of ``h``, on its own from the start, leaves the bound; None where it does not.

    floor: added to the bound.
    """
    settings = {p.name: np.array([float(h.values[p.name])]) for p in h.hyperparameters}
    settings.setdefault("lr", np.zeros(1))
    amplification = _CENTERED if h.options.get("centered") else 1.0
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
    ``time.process_time``, after which nothing new is tried. tried: fits made so far."""

    seen: Seen
    fresh: Seen
    deadline: float
    floor: float = 0.0
    tried: int = 0

    def holds(self, h: Hypothesis) -> bool:
        """Whether ``h`` is what the black box computes, on both probes."""
        try:
            return departs(h, self.seen, self.floor) is None and departs(h, self.fresh, self.floor) is None
        except (OptexportError, ValueError):
            return False

    @property
    def late(self) -> bool:
        return time.process_time() > self.deadline

    def fitted(self, h: Hypothesis, seen: Seen | None = None, iterations: int = 12) -> tuple[float, Hypothesis] | None:
        """(digits unexplained, ``h`` with fitted values), None where the rule does not apply."""
        self.tried += 1
        try:
            made = fit(h, seen or self.seen, iterations)
            return misfit(made, seen or self.seen), made
        except (OptexportError, ValueError, KeyError, np.linalg.LinAlgError):
            return None

    def settled(self, h: Hypothesis) -> Hypothesis | None:
        """``h`` with values at which it holds, None where there are none."""
        if self.holds(h):
            return h
        made = self.fitted(h, iterations=30)
        return made[1] if made is not None and made[0] < 1.5 and self.holds(made[1]) else None

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

    def run(self, hint: Hypothesis | None, family: str | None = None) -> tuple[Hypothesis | None, list[tuple[float, Hypothesis]]]:
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
        short = self.seen.first(9 if not wrapped else len(self.seen.params))
        queue: list[tuple[float, int, Hypothesis]] = []
        order = itertools.count()
        done: set[Any] = set()
        for h in candidates.seeds(hint.family if hint else family, elementwise, self.climbs, common):
            if self.late:
                break
            if wrapped:
                h = h.at({**h.values, "accumulation_steps": wrapped["accumulation_steps"]})
            done.add(_key(h))
            made = self.fitted(guesses(h, short), short, 5)
            if made is None:
                continue
            if made[0] < _PROMISING and (found := self.settled(made[1])) is not None:
                return found, best
            heapq.heappush(queue, (made[0], next(order), made[1]))
        for score, h in best:
            heapq.heappush(queue, (score, next(order), h))
        return self._widened(queue, order, done, elementwise)

    def _widened(
        self, queue: list[tuple[float, int, Hypothesis]], order: Any, done: set[Any], elementwise: bool | None
    ) -> tuple[Hypothesis | None, list[tuple[float, Hypothesis]]]:
        """Neighbours of the best, and theirs."""
        # The best of the short fits once more, on the whole probe.
        again = [heapq.heappop(queue) for _ in range(min(8, len(queue)))]
        best: list[tuple[float, Hypothesis]] = []
        for score, _, h in again:
            made = self.fitted(h) if not self.late else (score, h)
            if made is None:
                continue
            if made[0] < _PROMISING and (found := self.settled(made[1])) is not None:
                return found, best
            best.append(made)
        front = [(s, next(order), h) for s, h in best]
        heapq.heapify(front)
        while front and not self.late:
            _, _, h = heapq.heappop(front)
            for other in (*candidates.neighbours(h, elementwise), *self._later(h)):
                if self.late:
                    break
                if _key(other) in done:
                    continue
                done.add(_key(other))
                made = self.fitted(other, iterations=8)
                if made is None:
                    continue
                if made[0] < 2 * _PROMISING and (found := self.settled(made[1])) is not None:
                    return found, best
                best.append(made)
                heapq.heappush(front, (made[0], next(order), made[1]))
        return None, sorted(best, key=lambda b: b[0])

    def _later(self, h: Hypothesis) -> Iterable[Hypothesis]:
        """The same, counting from later."""
        return [replace(h, first=float(k)) for k in (1, 2, 10) if h.first == 0]


def _key(h: Hypothesis) -> Any:
    whole = tuple((p.name, h.values[p.name]) for p in h.hyperparameters if p.whole)
    return h.family, tuple(h.options.items()), h.first, whole


# --- nothing of the catalogue --------------------------------------------------------------------------


def explained_by_edit(
    search: Search, best: list[tuple[float, Hypothesis]], deadline: float
) -> tuple[Edit, Hypothesis, Hypothesis] | None:
    """(the change, the nearest rule at the values found, the changed one) that holds; None where none does."""
    short = search.seen.first(8)
    for _, h in best:
        members = h.members(search.seen.probe.shapes)
        if any(m.program != members[0].program for m in members) or time.process_time() > deadline:
            continue
        program = members[0].program
        tried: list[tuple[float, int, Edit, Hypothesis]] = []
        starts = [h.values]
        for k, edit in enumerate(edits(program)):
            if time.process_time() > deadline:
                break
            try:
                changed = edit.apply()
            except (OptexportError, ValueError, KeyError):
                continue
            for values in starts:
                other = replace(
                    h,
                    edit=(edit.words, lambda _, made=changed: made),  # type: ignore[misc]
                    extra=edit.extra,
                    values={**values, **{p.name: candidates.started(p) for p in edit.extra}},
                )
                made = search.fitted(other, short, 4)
                if made is None:
                    continue
                if made[0] < _PROMISING and (held := search.settled(made[1])) is not None:
                    return edit, replace(h, values=_without(held, edit)), held
                tried.append((made[0], k, edit, made[1]))
        for score, _, edit, other in sorted(tried, key=lambda row: row[:2])[:6]:
            if time.process_time() > deadline:
                break
            if score < 5 and (held := search.settled(other)) is not None:
                return edit, replace(h, values=_without(held, edit)), held
    return None


def _without(h: Hypothesis, edit: Edit) -> Mapping[str, float]:
    extra = {p.name for p in edit.extra}
    return {k: v for k, v in h.values.items() if k not in extra or k in {p.name for p in h.rule.hyperparameters}}


# --- the same, told with fewer digits ------------------------------------------------------------------


def tidied(h: Hypothesis, search: Search) -> tuple[Hypothesis, list[str]]:
    """``h`` without additions that do nothing, at the roundest values that still hold, and notes."""
    again = True
    while again and h.edit is None:
        again = False
        for less in candidates.simpler(h):
            if search.holds(less):
                h, again = less, True
                break
    notes: list[str] = []
    for p in h.hyperparameters:
        value = h.values[p.name]
        for other, note in _rounder(value, p.neutral):
            if other == value or not p.low <= other <= p.high:
                continue
            tried = h.at({**h.values, p.name: other})
            if not search.holds(tried):
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
    return h, notes


def _rounder(value: float, neutral: float | None) -> Iterable[tuple[float, str]]:
    """Numbers near ``value`` that a person would write, the simplest first; then those in float32."""
    if neutral is not None:
        yield neutral, ""
    seen: list[float] = []
    for digits in range(1, 9):
        for other in (float(f"{value:.{digits - 1}e}"), 1 - float(f"{1 - value:.{digits - 1}e}") if 0.5 < value < 1 else None):
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
