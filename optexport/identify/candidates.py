"""Which rules to suppose: every family as its catalogue entries and natives have it, and their neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from ..dialects import natives
from ..errors import OptexportError
from ..ir.analysis import Reach, reach
from ..rules import CATALOGUE, Hyper, families
from ..rules.base import Count, OptionValue
from ..rules.common import GRADIENT_OPTIONS
from ..specs import Group, native
from .hypothesis import Hypothesis

__all__ = ["SHARED", "claimed", "neighbours", "seeds", "simpler", "started", "supposed", "variants"]

# Options that change a parameter's path; an average that nothing reads does not show.
_UNSEEN = {
    "average": ("ema", "ema_from_start", "mean"),
    "overflow": ("skip", "skip_limited", "static", "dynamic"),
}
SHARED = {o.name for o in GRADIENT_OPTIONS}
# A factor of the gradient is one on epsilon, decay, bounds and the rate: it is never needed to explain.
_NEVER = {"maximize", "rescale", "accumulate", "overflow"}
# Where numbers without a default of use begin.
_START = {"clip_gradient": 0.5, "max_norm": 1.0, "rescale_grad": 0.5, "momentum": 0.9, "clip_weights": 1.0}


def started(h: Hyper, given: float | None = None) -> float:
    """A value from which a search may leave."""
    value = h.default if given is None else given
    if h.name in _START and (given is None or value in (0.0, math.inf)):
        return _START[h.name]
    if not math.isfinite(value):
        return 1.0
    if value == 0.0 and not h.whole:
        return 0.5 if h.high == 1 else 1e-3 if h.low >= 0 else 0.01
    return value


def supposed(
    family: str,
    options: Mapping[str, OptionValue],
    values: Mapping[str, float] | None = None,
    first: float = 0.0,
) -> Hypothesis:
    """A hypothesis with values to start from where ``values`` has none."""
    h = Hypothesis(family, dict(options), {}, first)
    given = values or {}
    return h.at({p.name: given[p.name] if p.name in given else started(p) for p in h.hyperparameters})


def claimed(hint: tuple[str, Mapping[str, Any]] | Group | None) -> Hypothesis | None:
    """What a name and its arguments, or a group, claim to be."""
    if hint is None:
        return None
    try:
        group = hint if isinstance(hint, Group) else native(hint[0], **hint[1]).groups[-1]
    except OptexportError:
        return None
    if group.schedules or group.stated is not None:
        return None
    names = {p.name for p in group.rule.hyperparameters if not p.numbers}
    values = {k: v for k, v in group.hyperparameters.items() if k in names}
    return Hypothesis(group.rule.family, dict(group.rule.options), values, float(group.first_step))


@lru_cache(maxsize=1)
def _starts() -> tuple[tuple[str, tuple[tuple[str, OptionValue], ...], tuple[tuple[str, float], ...]], ...]:
    found: dict[tuple[str, tuple[tuple[str, OptionValue], ...]], tuple[tuple[str, float], ...]] = {}
    for entry in CATALOGUE.values():
        options = entry.family.check_options(entry.options)
        found.setdefault((entry.family_name, tuple(options.items())), tuple(entry.defaults.items()))
    for table in natives().values():
        for row in table.values():
            if row.composed is None or row.family not in families():
                continue
            for variant in row.variants:
                try:
                    options = row.rule_options({**row.arguments, **variant})
                except (OptexportError, KeyError, TypeError, ValueError):
                    continue
                plain = {**options, "scalars": "float64"}
                found.setdefault((row.family, tuple(plain.items())), ())
    return tuple((f, o, v) for (f, o), v in found.items())


def variants(h: Hypothesis) -> Iterator[Hypothesis]:
    """Settings of the same family that some framework has."""
    for name, options, _ in _starts():
        if name == h.family:
            own = {k: v for k, v in dict(options).items() if k not in SHARED}
            yield supposed(name, {**h.options, **own}, h.values, h.first)


def seeds(
    family: str | None, elementwise: bool | None, maximize: bool, common: Mapping[str, OptionValue]
) -> Iterator[Hypothesis]:
    """Rules to begin with, those of ``family`` first.

    elementwise: whether the black box treats each element alone, None where that is unknown.
    maximize: whether it climbs. common: options that every one is to have (accumulation, seen from the outside).
    """
    entries = [
        (e.family_name, tuple(e.family.check_options(e.options).items()), tuple(e.defaults.items()))
        for e in CATALOGUE.values()
    ]
    for name, options, values in sorted(entries, key=lambda r: r[0] != family):
        fam = families()[name]
        chosen = {**dict(options), "maximize": maximize, "rescale": False, **common}
        if any(isinstance(o, Count) for o in fam.options.values()) and name == "lbfgs" and family != name:
            chosen["history"] = 10
        h = Hypothesis(name, chosen, {})
        known = dict(values)
        h = h.at({p.name: started(p, known.get(p.name)) for p in h.hyperparameters})
        roles = {i.role for i in h.rule.program.inputs()}
        if roles & {"hessian"}:
            continue
        whole = reach(h.rule.program) is not Reach.ELEMENTWISE or any(
            p.numbers for p in h.rule.hyperparameters
        )
        if elementwise is None or elementwise != whole:
            yield h
        elif not elementwise:
            for kind in ("global", "tensor"):
                yield supposed(name, {**chosen, "clip_norm": kind}, h.values)


# Digits left up to which an addition that leaves much of a run as it is can be what is missing.
_UP_TO = {"clip": 10.5, "lookahead": 9.5, "average": 9.5, "scalars": 6.0}


def neighbours(h: Hypothesis, elementwise: bool | None, left: float = 0.0) -> Iterator[Hypothesis]:
    """One option changed, or one whole number; of the options that every family has, one beside their defaults.

    left: digits that ``h`` leaves unexplained.
    """
    fam = families()[h.family]
    shaped = {o for other in fam.fits for o in other}
    plain = {
        "clip": "none",
        "scalars": "float64",
        "lookahead": "none",
        "average": "none",
        "clip_norm": "none",
    }
    wrapped = any(h.options[k] != v for k, v in plain.items()) or bool(h.options["centralize"])
    for name, option in fam.options.items():
        if name in shaped or name in _NEVER or (name in SHARED and wrapped and name != "scalars"):
            continue
        if (name in ("clip_norm", "centralize") and elementwise) or left > _UP_TO.get(name, left):
            continue
        if isinstance(option, Count):
            choices: list[OptionValue] = [
                v for v in (int(h.options[name]) - 1, int(h.options[name]) + 1, 2, 3, 5) if v >= option.low
            ]
        else:
            choices = [c for c in option.choices if c not in _UNSEEN.get(name, ())]
        for choice in choices:
            if choice != h.options[name]:
                other = supposed(h.family, {**h.options, name: choice}, h.values, h.first)
                if "eps_root" in other.values and "eps_root" not in h.values and "eps" in other.values:
                    yield other.at({**other.values, "eps": 0.0})  # one that moved, not a second one
                yield other
    for p in h.hyperparameters:
        if p.whole:
            now = h.values[p.name]
            for value in sorted({now - 1, now + 1, 2.0, 3.0, 4.0, 5.0, 6.0} - {now}):
                if p.low <= value <= p.high:
                    yield h.at({**h.values, p.name: value})


def simpler(h: Hypothesis) -> Iterator[Hypothesis]:
    """The same with one addition less, its other values as they are."""
    fam = families()[h.family]
    shaped = {o for other in fam.fits for o in other}
    for name, option in fam.options.items():
        if name in shaped or isinstance(option, Count):
            continue
        for plain in (option.default, "none", False):
            if plain is None or plain not in option.choices or plain == h.options[name]:
                continue
            less = supposed(h.family, {**h.options, name: plain}, h.values, h.first)
            if len(less.hyperparameters) <= len(h.hyperparameters):
                yield less
            break
    if h.options["scalars"] != "float64":
        yield supposed(h.family, {**h.options, "scalars": "float64"}, h.values, h.first)
