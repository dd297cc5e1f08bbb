"""Hyperparameters out of what a black box did: damped Gauss–Newton on the rule's own updates.

Levenberg 1944; Marquardt 1963. Derivatives are differences of simulated updates; every setting of one
iteration is simulated in one go. An update Δ of the black box and Δ' of the rule differ by

    r = (Δ − Δ') / (|Δ| + |Δ'| + ν)        ν = the rounding of the parameter, magnified by 1/δ

which stays within ±1, so that an element that a wrong rule sends anywhere does not drown the others.
Positive numbers are searched by their logarithm, those below 1 by their logit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from ..ir.analysis import Reach, reach
from ..parity.bounds import unit_roundoff
from ..rules import Hyper
from .hypothesis import Hypothesis, Member, simulate
from .probes import Probe
from .vectorized import compiled

__all__ = ["Seen", "fit", "guesses", "misfit", "observed"]

Array = np.ndarray[Any, Any]
# How much the rounding of a parameter outweighs an update smaller than it, by dtype.
_DELTA = {"float64": 1e-6, "float32": 1e-3}


@dataclass(frozen=True)
class Seen:
    """What the black box did on a probe: parameters after each step, and its updates as one array.

    updates: (steps, elements). noise: rounding of each. rounding: what a difference of two correct
    updates may be.
    """

    probe: Probe
    params: list[dict[str, Array]]
    slots: list[Mapping[str, Mapping[str, Array]]]
    updates: Array
    noise: Array
    dtype: str

    @cached_property
    def flat(self) -> tuple[Array, Array, Array]:
        """(steps, elements) of parameters before each step, gradients, noise."""

        def rows(values: Sequence[Mapping[str, Array]]) -> Array:
            return np.stack([np.concatenate([np.ravel(v[n]) for n in self.probe.params]) for v in values])

        return rows([self.probe.params, *self.params[:-1]]), rows(self.probe.grads), rows(self.probe.noise)

    def first(self, steps: int) -> Seen:
        return Seen(
            self.probe.first(steps),
            self.params[:steps],
            self.slots[:steps],
            self.updates[:steps],
            self.noise[:steps],
            self.dtype,
        )


def observed(probe: Probe, snapshots: Sequence[Any], dtype: str) -> Seen:
    """What `parity.subjects.trace` gave on a probe."""
    params = [{n: np.asarray(v, np.float64) for n, v in p.items()} for p, _ in snapshots]
    flat = np.stack([_flat({n: v[None] for n, v in p.items()})[0] for p in (probe.params, *params)])
    u = unit_roundoff(dtype)
    noise = u * (np.abs(flat[1:]) + np.abs(flat[:-1])) + np.finfo(dtype).tiny
    return Seen(probe, params, [s for _, s in snapshots], np.diff(flat, axis=0), noise, dtype)


def _flat(params: Mapping[str, Array]) -> Array:
    count = max(v.shape[0] for v in params.values())
    return np.concatenate(
        [np.broadcast_to(v, (count, *v.shape[1:])).reshape(count, -1) for v in params.values()], axis=1
    )


# --- the numbers that are searched -----------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """A hyperparameter as the number that is searched, and back."""

    to: Callable[[Any], Any]
    back: Callable[[Any], Any]


_LOG = _Scale(lambda v: np.log(np.maximum(v, 1e-300)), lambda s: np.exp(np.clip(s, -690, 300)))
_LOGIT = _Scale(
    lambda v: np.log(np.maximum(v, 1e-300)) - np.log(np.maximum(1 - v, 1e-17)),
    lambda s: 1 / (1 + np.exp(-np.clip(s, -690, 36))),
)
_LINEAR = _Scale(lambda v: v / 0.1, lambda s: s * 0.1)


def _scale(h: Hyper) -> _Scale:
    if h.low == 0 and h.high == 1:
        return _LOGIT
    if h.low >= 0 or h.name in ("lr", "rescale_grad"):
        return _LOG
    return _LINEAR


# Updates that count as done, where they are searched too.
_FIRST = Hyper("first", 0.0, 0.0, math.inf, "updates that count as done")


def _free(h: Hypothesis) -> list[Hyper]:
    """Those that can be searched: no whole numbers, none that is 0 where the logarithm is taken, none
    without end."""
    return [
        p
        for p in h.hyperparameters
        if not p.whole
        and math.isfinite(h.values[p.name])
        and (_scale(p) is _LINEAR or h.values[p.name] > 0)
        and not (_scale(p) is _LOGIT and h.values[p.name] >= 1)
    ]


# --- updates and how far they are off --------------------------------------------------------------


def _updates(h: Hypothesis, seen: Seen, settings: Mapping[str, Array], first: Array | None) -> Array:
    """(settings, steps, elements) of updates, each from the black box's own parameters."""
    members = h.members(seen.probe.shapes)
    if len(members) == 1 and not members[0].own and reach(members[0].program) is Reach.ELEMENTWISE:
        return _flat_updates(members[0], seen, settings, first)
    before = _flat({n: v[None] for n, v in seen.probe.params.items()})
    out = []
    for t, (now, _) in enumerate(simulate(h, seen.probe, settings, first, seen.params)):
        out.append(_flat({n: now[n] for n in seen.probe.params}) - before)
        before = _flat({n: v[None] for n, v in seen.params[t].items()})
    return np.stack(out, axis=1)


def _flat_updates(member: Member, seen: Seen, settings: Mapping[str, Array], first: Array | None) -> Array:
    """The same for an elementwise rule, every parameter laid end to end: what a search spends its time on."""
    run, count = compiled(member.program), len(next(iter(settings.values())))
    before, grads, noise = seen.flat
    size = before.shape[1]
    x: dict[str, Array] = {f"hyper:{k}": v[:, None] for k, v in settings.items()}
    for slot in member.slots:
        if slot.init == "param":
            value = np.broadcast_to(before[0], (count, size))
        else:
            start = 0.0 if slot.init == "zeros" else settings.get(slot.init)
            filled = np.full(count, float(slot.init) if start is None else start)
            value = np.broadcast_to(filled[:, None], (count, size))
        x[f"slot:{slot.name}"] = value
    step = (np.zeros(count) if first is None else first)[:, None]
    out = np.empty((count, len(grads), size))
    lr = x["hyper:lr"]
    with np.errstate(all="ignore"):
        for t, rate in enumerate(seen.probe.rates):
            x |= {"param": before[t][None], "grad": grads[t][None], "noise": noise[t][None]}
            x |= {"step": step + t, "hyper:lr": lr * rate}
            try:
                next(run(x))
            except StopIteration as done:
                new = done.value
            out[:, t] = new.pop("param") - before[t]
            x |= {f"slot:{k}": v for k, v in new.items()}
    return out


def _residual(made: Array, seen: Seen) -> Array:
    delta = _DELTA[seen.dtype]
    with np.errstate(all="ignore"):
        r = (made - seen.updates) / (np.abs(made) + np.abs(seen.updates) + seen.noise / delta)
    out: Array = np.nan_to_num(r, nan=1.0, posinf=1.0, neginf=-1.0)
    return out


def _fine(made: Array, seen: Seen) -> Array:
    """Differences in units of their rounding, for values that are nearly right; what is far off counts little."""
    with np.errstate(all="ignore"):
        r = (made - seen.updates) / (seen.noise + 4 * unit_roundoff(seen.dtype) * np.abs(seen.updates))
        r = r / np.sqrt(1 + np.square(r / 1e4))
    out: Array = np.nan_to_num(r, nan=1e4, posinf=1e4, neginf=-1e4)
    return out


def _unexplained(made: Array, seen: Seen) -> Array:
    """Digits of the updates that are not explained, on average: 0 where all differences are rounding."""
    u = unit_roundoff(seen.dtype)
    with np.errstate(all="ignore"):
        gap = np.abs(made - seen.updates) / (30 * (seen.noise + u * np.abs(seen.updates)))
    gap = np.nan_to_num(gap, nan=1e18, posinf=1e18)
    digits = np.minimum(np.log10(1 + gap), -math.log10(u) - 1)
    return np.asarray(digits.mean(axis=(1, 2)))


def _settings(h: Hypothesis, free: Sequence[Hyper], points: Array) -> tuple[dict[str, Array], Array]:
    count = len(points)
    settings = {p.name: np.full(count, float(h.values[p.name])) for p in h.hyperparameters}
    settings.setdefault("lr", np.zeros(count))
    for k, p in enumerate(free):
        settings[p.name] = _scale(p).back(points[:, k])
    return settings, np.asarray(settings.pop(_FIRST.name, np.full(count, h.first)))


def misfit(h: Hypothesis, seen: Seen) -> float:
    """Digits that ``h`` leaves unexplained, on average over updates and elements."""
    settings, first = _settings(h, (), np.zeros((1, 0)))
    return float(_unexplained(_updates(h, seen, settings, first), seen)[0])


def guesses(h: Hypothesis, seen: Seen, count: int = 24, seed: int = 0) -> Hypothesis:
    """The best of ``h``'s own setting and others drawn over the usual ranges, as a start."""
    free, rng = _free(h), np.random.default_rng(seed)
    points = np.stack([np.full(count, _scale(p).to(h.values[p.name])) for p in free], axis=1)
    for k, p in enumerate(free):
        if p.name == "lr":
            points[:, k] = np.log(10.0 ** np.linspace(-5, 1.5, count))
        elif _scale(p) is _LOGIT and p.name.startswith(("beta", "alpha", "rho", "momentum")):
            choices = np.array([0.5, 0.9, 0.95, h.values[p.name], h.values[p.name]])
            points[:, k] = _LOGIT.to(rng.choice(choices, count))
        elif p.name.startswith("eps"):
            points[:, k] = _LOG.to(rng.choice([1e-8, 1e-4, 1e-2, h.values[p.name]], count))
    own = [float(_scale(p).to(h.values[p.name])) for p in free]
    points[:5] = own
    for row, beta in enumerate((0.5, 0.9, 0.98, 0.999), 1):
        # One that a fit has driven to its end has no slope there.
        last = [k for k, p in enumerate(free) if p.name.startswith("beta")][-1:]
        points[row, last] = _LOGIT.to(beta)
    decays = [k for k, p in enumerate(free) if p.name == "weight_decay"]
    points[5:7] = own
    points[5, decays], points[6, decays] = _LINEAR.to(0.01), _LINEAR.to(0.1)
    settings, first = _settings(h, free, points)
    try:
        r = _residual(_updates(h, seen, settings, first), seen)
    except (HyperparameterError, ValueError):
        return h
    best = int(np.argmin((r * r).mean(axis=(1, 2))))
    return h.at({**h.values, **{p.name: float(settings[p.name][best]) for p in free}})


_DAMPING = np.array([1e-12, 1e-6, 1e-3, 0.1, 3.0, 100.0])


def fit(
    h: Hypothesis,
    seen: Seen,
    iterations: int = 12,
    only: Sequence[str] | None = None,
    fine: bool = False,
    counting: bool = False,
) -> Hypothesis:
    """``h`` with its values moved to where they explain ``seen`` best.

    only: names of the values to move, all that can be moved when None. fine: weigh by rounding alone, for
    values that are nearly right. counting: search for the updates that count as done, too; a whole number
    comes back.

    Raises:
        ValueError, HyperparameterError: the rule does not go with the shapes.
    """
    free = [p for p in _free(h) if only is None or p.name in only]
    point = np.array([float(_scale(p).to(h.values[p.name])) for p in free])
    if counting:
        free, point = [*free, _FIRST], np.append(point, math.log(h.first or 1.0))
    if not free:
        return h
    _measure = _fine if fine else _residual
    n, h_step = len(free), 1e-6
    best = math.inf
    for _ in range(iterations):
        trial = np.concatenate([point[None], point[None] + h_step * np.eye(n)])
        settings, first = _settings(h, free, trial)
        r = _measure(_updates(h, seen, settings, first), seen).reshape(n + 1, -1)
        now = float(r[0] @ r[0])
        jacobian = ((r[1:] - r[0]) / h_step).T
        normal, slope = jacobian.T @ jacobian, jacobian.T @ r[0]
        weight = np.diag(normal) + 1e-30
        scale = 1 / np.sqrt(weight)
        scaled, pull = normal * scale[:, None] * scale, slope * scale
        moves = np.stack([scale * np.linalg.solve(scaled + d * np.eye(n), pull) for d in _DAMPING + 1e-14])
        tries = point - np.clip(moves, -3.0, 3.0)
        settings, first = _settings(h, free, tries)
        rs = _measure(_updates(h, seen, settings, first), seen).reshape(len(tries), -1)
        losses = (rs * rs).sum(axis=1)
        k = int(np.argmin(losses))
        if not losses[k] < now:
            break
        point = tries[k]
        if losses[k] > 0.9999 * best and losses[k] > 0.9999 * now:
            break
        best = float(losses[k])
        if best < 1e-30 * r.shape[1]:
            break
    values = {p.name: float(_scale(p).back(v)) for p, v in zip(free, point, strict=True)}
    done = round(values.pop(_FIRST.name, h.first))
    made = replace(h.at({**h.values, **values}), first=float(done))
    return fit(made, seen, iterations, only, fine) if counting else made
