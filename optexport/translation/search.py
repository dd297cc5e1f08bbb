"""The best way from one rule to another: cheapest path over moves (Dijkstra).

Nodes are option sets of one family; an edge is a move whose guard holds. A path costs its worst
level first, then how many moves are worse than exact, then its length.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..dialects import Native
from ..rules import families
from ..rules.base import OptionValue
from ..rules.common import GRADIENT_OPTIONS
from .moves import Move, Situation, moves
from .verdict import LEVELS

__all__ = ["Goal", "Path", "find_path", "native_goals", "rule_goal"]

Options = Mapping[str, OptionValue]


@dataclass(frozen=True)
class Goal:
    """Options to reach; ``express`` turns hyperparameters there into a native's arguments, or says
    None where that native cannot have them."""

    options: Options
    express: Callable[[Mapping[str, float]], dict[str, Any] | None]


@dataclass(frozen=True)
class Path:
    """moves with the situation before each; the situation after the last; the native's arguments."""

    steps: Sequence[tuple[Move, Situation]]
    end: Situation
    arguments: Mapping[str, Any]


def _key(options: Options) -> frozenset[tuple[str, OptionValue]]:
    return frozenset(options.items())


def rule_goal(options: Options) -> list[Goal]:
    """One goal: exactly these options."""
    return [Goal(options, lambda _: {})]


def native_goals(
    entry: Native, base: Mapping[str, Any] | None = None, like: Options | None = None
) -> Iterator[Goal]:
    """What a native optimizer can be, at each of its variants.

    like: options whose whole numbers (the length of a history) it is to have.
    """
    fam = families()[entry.family]
    counts = {argument: like[o] for o, argument in entry.counts.items() if like and o in like}
    for own, fit in itertools.product(entry.variants, fam.fits or ({},)):
        variant = {**own, **counts}
        # What a parameter's shape decides is as it is with any parameter.
        options = {**entry.rule_options({**entry.arguments, **(base or {}), **variant}), **fit}

        def express(
            values: Mapping[str, float],
            variant: Mapping[str, Any] = variant,
            options: Options = options,
            fit: Options = fit,
        ) -> dict[str, Any] | None:
            arguments = entry.express(variant, values, base)
            # What it has no argument for is a constant of its own.
            fixed = {h.name: h.default if h.neutral is None else h.neutral for h in fam.hyperparameters.values()
                     if h.name not in entry.links and not h.numbers}  # fmt: skip
            # What a slot starts at is no part of the update; state that is there carries its value.
            read = {i.name for i in fam.rule(**options).program.inputs("hyper")}
            if any(values.get(h, v) != v for h, v in fixed.items() if h in read):
                return None
            # A placeholder overwritten by 0 may make it another rule.
            return arguments if {**entry.rule_options(arguments), **fit} == options else None

        yield Goal(options, express)


def find_path(start: Situation, family: str, goals: Sequence[Goal]) -> Path | None:
    """The cheapest path to any goal, None where there is none."""
    table: dict[Any, list[Goal]] = {}
    for goal in goals:
        table.setdefault(_key(goal.options), []).append(goal)
    # Moves of all families meet options that differ.
    available = [m for m in moves(family) if _valid(family, {o: to for o, (_, to) in m.change.items()})]
    wanted = {o.name: {g.options[o.name] for g in goals if o.name in g.options} for o in GRADIENT_OPTIONS}
    tick = itertools.count()
    # Each entry: its cost, a tie-breaker, its options; the move that leads there, from where, and
    # the moves before. What the move makes of hyperparameters is worked out only once it is taken.
    queue: list[Any] = [((0, 0, 0), next(tick), start.options, None, start, ())]
    seen: set[Any] = set()
    while queue:
        cost, _, options, last, at, path = heapq.heappop(queue)
        key = _key(options)
        if key in seen:
            continue
        if last is not None:
            path = (*path, (last, at))
            at = replace(at, options=options, values=last.values(at))
        for goal in table.get(key, ()):
            arguments = goal.express(at.values)
            if arguments is not None:
                return Path(path, at, arguments)
        seen.add(key)
        for m in available:
            if not m.applies(at) or _astray(m, at.options, wanted):
                continue
            options = m.options(at.options)
            if _key(options) in seen:
                continue
            level = LEVELS.index(m.level)
            worse = (max(cost[0], level), cost[1] + (level > 0), cost[2] + 1)
            heapq.heappush(queue, (worse, next(tick), options, m, at, path))
    return None


def _astray(m: Move, options: Options, wanted: Mapping[str, set[OptionValue]]) -> bool:
    """Whether a move only takes what stands around every rule away from what a goal has: an infinite clip
    where no goal clips leads nowhere, and doubles the places to look at."""
    changed = [(o, to) for o, (_, to) in m.change.items() if options[o] != to]
    return all(o in wanted and options[o] in wanted[o] and to not in wanted[o] for o, to in changed)


def _valid(family: str, options: Options) -> bool:
    """Whether the family has these options with these values."""
    choices = families()[family].options
    return all(
        o in choices and any(type(c) is type(v) and c == v for c in choices[o].choices or (v,))
        for o, v in options.items()
    )
