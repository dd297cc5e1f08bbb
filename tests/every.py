"""Every rule there is: each family at every combination of its options."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from optexport.ir.ops import OPS
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
}


def _choices(o: Option) -> list[OptionValue]:
    """An option's values; a small one for a whole number."""
    return [o.low + 1] if isinstance(o, Count) else list(o.choices)


def every_option(family: str, shared: bool = True, own: bool = True) -> Iterator[dict[str, OptionValue]]:
    """All combinations of a family's options; each of those with a default on its own.

    shared, own: whether those that every family has (clipping and the like) vary, and the others.
    """
    rows = families()[family].options
    common = set.intersection(*(set(f.options) for f in families().values())) - {"decay"}
    choices = [
        [o.default]
        if o.default is not None
        else _choices(o)
        if (shared if name in common else own)
        else _choices(o)[:1]
        for name, o in rows.items()
    ]
    for values in itertools.product(*choices):
        yield dict(zip(rows, values, strict=True))
    # Additions, one at a time.
    first = {n: _choices(o)[0] if o.default is None else o.default for n, o in rows.items()}
    for name, o in rows.items():
        if o.default is not None and (shared if name in common else own):
            yield from ({**first, name: v} for v in o.choices if v != o.default)


def every_rule(family: str, shared: bool = True, own: bool = True) -> Iterator[Rule]:
    for options in every_option(family, shared, own):
        yield families()[family].rule(**options)


def value_of(h: Hyper) -> float:
    """A value of a hyperparameter that has no row above: none of 0 and 1, different for each name."""
    share = 0.2 + 0.6 * (zlib.crc32(h.name.encode()) % 997) / 997
    low = h.low if math.isfinite(h.low) else 0.0
    return VALUES.get(h.name, low + share * ((h.high if math.isfinite(h.high) else low + 1.0) - low))


def _axes(rule: Rule) -> int:
    """How many axes a rule names, two at least."""
    named = (
        int(n.attr)
        for n in rule.program.nodes
        if n.op in OPS and OPS[n.op].attr == "axis" and n.attr != "all"
    )
    return max([2, *(a + 1 if a >= 0 else -a for a in named)])


def inputs(rule: Rule, seed: int = 0, shape: tuple[int, ...] | None = None, step: int = 3) -> dict[str, Any]:
    """Inputs for one run of a rule: positive accumulators, everything else of either sign.

    shape: a vector of 40 elements when None, a matrix of 8 × 5 for rules of matrices, more axes for rules of those.
    """
    rng = np.random.default_rng(seed)
    flat = all(OPS[n.op].result not in ("array", "matrix") for n in rule.program.nodes if n.op in OPS)
    shape = shape or ((40,) if flat else (8, 5, 4, 3, 2)[: _axes(rule)])
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
