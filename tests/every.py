"""Every rule there is: each family at every combination of its options."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from optexport.errors import HyperparameterError
from optexport.rules import Rule, families
from optexport.rules.base import Count, Hyper, Option, OptionValue

FAMILIES = sorted(families())
# One value a hyperparameter, none of them 0, 1 or equal to another.
VALUES = {
    "lr": 0.03,
    "momentum": 0.7,
    "dampening": 0.2,
    "weight_decay": 0.05,
    "beta1": 0.8,
    "beta2": 0.95,
    "alpha": 0.85,
    "eps": 1e-3,
    "post_decay": 0.02,
    "lr_decay": 0.1,
    "initial_accumulator_value": 0.4,
    "clip_weights": 1.1,
    "rescale_grad": 0.5,
    "clip_gradient": 0.9,
    # Whole calls, a range that holds the steps, and a batch that the fourth call completes.
    "etaplus": 1.3,
    "etaminus": 0.6,
    "step_size_min": 0.01,
    "step_size_max": 9.0,
    "batch_scale": 2.0,
    "first_call": 2.0,
    "warmup_calls": 9.0,
    "max_norm": 0.6,
    "max_norm_eps": 1e-6,
    "accumulation_steps": 2.0,
    "loss_scale": 4.0,
    "growth_factor": 3.0,
    "backoff_factor": 0.25,
    "growth_interval": 7.0,
    "max_bad_updates": 11.0,
    "sync_period": 4.5,
    "slow_step_size": 0.35,
    "average_decay": 0.65,
    "average_period": 2.5,
    "eps_root": 2e-3,
    "threshold": 4.5,
    "momentum_decay": 0.3,
    "place": 2.0,
    "tensors": 3.0,
    # Bounds that hold: of norms near √40, of a ramp that is not over.
    "min_norm": 9.0,
    "lower_bound": 7.0,
    "upper_bound": 20.0,
    "warmup_steps": 9.0,
}
# What shapes decide is tried on these: every rank that a rule knows, and every order of the sizes.
SHAPES = (
    (40,),
    (5, 8),
    (8, 5),
    *itertools.permutations((2, 3, 5)),
    *itertools.permutations((2, 3, 5, 7)),
    (2, 3, 2, 3, 2),
)


def _choices(o: Option) -> list[OptionValue]:
    """An option's values; a small one for a whole number."""
    return [o.low + 1] if isinstance(o, Count) else list(o.choices)


def shape_of(family: str, options: Mapping[str, OptionValue]) -> tuple[int, ...] | None:
    """The first shape whose parameters have these options, None where none has."""
    return _shape_of(family, tuple((n, v) for n, v in options.items() if n not in _common()))


@cache
def _shape_of(family: str, options: tuple[tuple[str, OptionValue], ...]) -> tuple[int, ...] | None:
    fit = families()[family].fit

    def fits(shape: tuple[int, ...]) -> bool:
        try:
            return fit is None or fit(dict(options), shape) == dict(options)
        except HyperparameterError:
            return False  # a shape that the family refuses

    return next((s for s in SHAPES if fits(s)), None)


@cache
def _common() -> set[str]:
    """Options that every family has."""
    return set.intersection(*(set(f.options) for f in families().values())) - {"decay"}


def every_option(family: str, shared: bool = True, own: bool = True) -> Iterator[dict[str, OptionValue]]:
    """All combinations of a family's options that some shape has; each of those with a default on its
    own, at everything that shapes decide.

    shared, own: whether those that every family has (clipping and the like) vary, and the others.
    """
    fam, common = families()[family], _common()
    rows = fam.options
    choices = [
        [o.default]
        if o.default is not None
        else _choices(o)
        if (shared if name in common else own)
        else _choices(o)[:1]
        for name, o in rows.items()
    ]
    combined = [dict(zip(rows, values, strict=True)) for values in itertools.product(*choices)]
    usual = {n: rows[n].default for n in next(iter(fam.fits), {})}
    for part in (usual, *(p for p in fam.fits if p != usual)) if own else (usual,):
        fitting = (c for o in combined if shape_of(family, c := {**o, **part}) is not None)
        first = next(fitting)
        yield first
        if part == usual:
            yield from fitting
        # Additions, one at a time.
        for name, o in rows.items():
            if o.default is not None and name not in part and (shared if name in common else own):
                added = ({**first, name: v} for v in _choices(o) if v != o.default)
                yield from (a for a in added if shape_of(family, a) is not None)


def every_rule(family: str, shared: bool = True, own: bool = True) -> Iterator[Rule]:
    for options in every_option(family, shared, own):
        yield families()[family].rule(**options)


def value_of(h: Hyper) -> float:
    """A value of a hyperparameter that has no row above: none of 0 and 1, different for each name."""
    share = 0.2 + 0.6 * (zlib.crc32(h.name.encode()) % 997) / 997
    low = h.low if math.isfinite(h.low) else 0.0
    return VALUES.get(h.name, low + share * ((h.high if math.isfinite(h.high) else low + 1.0) - low))


def inputs(rule: Rule, seed: int = 0, shape: tuple[int, ...] | None = None, step: int = 3) -> dict[str, Any]:
    """Inputs for one run of a rule: positive accumulators, everything else of either sign.

    shape: one that the rule is for when None, of a vector if it can be.
    """
    rng = np.random.default_rng(seed)
    shape = shape or shape_of(rule.family, rule.options) or (40,)
    out: dict[str, Any] = {"param": rng.normal(size=shape), "grad": rng.normal(size=shape), "step": step}
    out |= {"noise": rng.normal(size=shape), "hessian": rng.normal(size=shape) ** 2}
    for s in rule.slots:
        value = rng.normal(size=s.shape_for(shape)) ** 2 + 1.0
        out[f"slot:{s.name}"] = np.asarray(value, s.dtype_for(np.float64))
    if "gradient_differences" in rule.slot_names:  # the newest pair is curved, as those before are
        out["slot:last_grad"] = out["grad"] - rng.uniform(0.5, 2.0, size=shape)
        out["slot:last_param"] = out["param"] - rng.uniform(0.5, 2.0, size=shape)
    if {"grad_avg", "square_avg"} <= set(rule.slot_names):
        out["slot:grad_avg"] = rng.normal(size=shape) / 4  # a mean square is never below the squared mean
    return out | {f"hyper:{h.name}": value_of(h) for h in rule.hyperparameters}


def problems(rule: Rule, shape: tuple[int, ...] | None = None) -> dict[str, dict[str, Any]]:
    """Inputs that between them reach every branch of a rule: early and late, large and tiny tensors,
    curvature of either sign, the first update, and elements that never had a gradient (where ε is 0)."""
    usual = inputs(rule, shape=shape)
    # RAdam's ρ is between 4.5 and 5 at step 4.
    out = {f"step {step}": usual | {"step": step} for step in (0, 3, 4, 30, 5000)}
    out["large"] = usual | {"param": 100 * usual["param"]}
    out["tiny"] = {k: v * 1e-9 if np.ndim(v) else v for k, v in usual.items()}
    out["concave"] = usual | {"hessian": -usual["hessian"]}
    if "slot:last_grad" in usual:
        out["concave"]["slot:last_grad"] = 2 * usual["grad"] - usual["slot:last_grad"]
    w, values = usual["param"], {h.name: usual[f"hyper:{h.name}"] for h in rule.hyperparameters}
    first = {f"slot:{s.name}": s.first(w, w.shape, w.dtype, values) for s in rule.slots}
    out["first"] = usual | first | {"step": 0}
    empty = np.where(np.arange(w.size).reshape(w.shape) % 2, usual["grad"], 0.0)
    zeros = {n: np.zeros_like(v) for n, v in first.items()}
    out["empty"] = usual | zeros | {"grad": empty, "hyper:eps": 0.0}
    return out
