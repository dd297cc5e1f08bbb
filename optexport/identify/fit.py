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
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from ..parity.bounds import unit_roundoff
from ..rules import Hyper
from .hypothesis import Hypothesis, simulate
from .probes import Probe

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
    before = _flat({n: v[None] for n, v in seen.probe.params.items()})
    out = []
    for t, (now, _) in enumerate(simulate(h, seen.probe, settings, first, seen.params)):
        out.append(_flat({n: now[n] for n in seen.probe.params}) - before)
        before = _flat({n: v[None] for n, v in seen.params[t].items()})
    return np.stack(out, axis=1)


def _residual(made: Array, seen: Seen) -> Array:
    delta = _DELTA[seen.dtype]
    with np.errstate(all="ignore"):
        r = (made - seen.updates) / (np.abs(made) + np.abs(seen.updates) + seen.noise / delta)
    return np.nan_to_num(r, nan=1.0, posinf=1.0, neginf=-1.0)


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
    return settings, np.full(count, h.first)


def misfit(h: Hypothesis, seen: Seen) -> float:
    """Digits that ``h`` leaves unexplained, on average over updates and elements."""
    settings, first = _settings(h, (), np.zeros((1, 0)))
    return float(_unexplained(_updates(h, seen, settings, first), seen)[0])


def guesses(h: Hypothesis, seen: Seen, count: int = 24, seed: int = 0) -> Hypothesis:
    """The best of settings drawn over the usual ranges, as a start."""
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
    settings, first = _settings(h, free, points)
    try:
        r = _residual(_updates(h, seen, settings, first), seen)
    except (HyperparameterError, ValueError):
        return h
    best = int(np.argmin((r * r).mean(axis=(1, 2))))
    return h.at({**h.values, **{p.name: float(settings[p.name][best]) for p in free}})


_DAMPING = np.array([1e-12, 1e-6, 1e-3, 0.1, 3.0, 100.0])


def fit(h: Hypothesis, seen: Seen, iterations: int = 12, only: Sequence[str] | None = None) -> Hypothesis:
    """``h`` with its values moved to where they explain ``seen`` best.

    only: names of the values to move, all that can be moved when None.

    Raises:
        ValueError, HyperparameterError: the rule does not go with the shapes.
    """
    free = [p for p in _free(h) if only is None or p.name in only]
    point = np.array([float(_scale(p).to(h.values[p.name])) for p in free])
    if not free:
        return h
    n, h_step = len(free), 1e-6
    best = math.inf
    for _ in range(iterations):
        trial = np.concatenate([point[None], point[None] + h_step * np.eye(n)])
        settings, first = _settings(h, free, trial)
        r = _residual(_updates(h, seen, settings, first), seen).reshape(n + 1, -1)
        now = float(r[0] @ r[0])
        jacobian = ((r[1:] - r[0]) / h_step).T
        normal, slope = jacobian.T @ jacobian, jacobian.T @ r[0]
        weight = np.diag(normal) + 1e-30
        scale = 1 / np.sqrt(weight)
        scaled, pull = normal * scale[:, None] * scale, slope * scale
        moves = np.stack(
            [scale * np.linalg.solve(scaled + d * np.eye(n), pull) for d in _DAMPING + 1e-14]
        )
        tries = point - np.clip(moves, -3.0, 3.0)
        settings, first = _settings(h, free, tries)
        rs = _residual(_updates(h, seen, settings, first), seen).reshape(len(tries), -1)
        losses = (rs * rs).sum(axis=1)
        k = int(np.argmin(losses))
        if not losses[k] < now:
            break
        point = tries[k]
        if losses[k] > 0.9999 * best and losses[k] > 0.9999 * now:
            break
        best = float(losses[k])
        if best < 1e-26 * r.shape[1]:
            break
    return h.at({**h.values, **{p.name: float(_scale(p).back(v)) for p, v in zip(free, point, strict=True)}})
