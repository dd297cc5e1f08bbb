"""Every rule there is: each family at every combination of its options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from optexport.rules import Rule, families
from optexport.rules.base import OptionValue

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
}


def every_option(family: str, shared: bool = True, own: bool = True) -> Iterator[dict[str, OptionValue]]:
    """All combinations of a family's options.

    shared, own: whether those that every family has (clipping and the like) vary, and the others.
    """
    rows = families()[family].options
    common = set.intersection(*(set(f.options) for f in families().values())) - {"decay"}
    choices = [
        list(o.choices) if (shared if name in common else own) else list(o.choices)[:1]
        for name, o in rows.items()
    ]
    for values in itertools.product(*choices):
        yield dict(zip(rows, values, strict=True))


def every_rule(family: str, shared: bool = True, own: bool = True) -> Iterator[Rule]:
    for options in every_option(family, shared, own):
        yield families()[family].rule(**options)


def inputs(rule: Rule, seed: int = 0, shape: tuple[int, ...] = (40,), step: int = 3) -> dict[str, Any]:
    """Inputs for one run of a rule: positive accumulators, everything else of either sign."""
    rng = np.random.default_rng(seed)
    out: dict[str, Any] = {"param": rng.normal(size=shape), "grad": rng.normal(size=shape), "step": step}
    out |= {f"slot:{s}": rng.normal(size=shape) ** 2 + 1.0 for s in rule.slot_names}
    if {"grad_avg", "square_avg"} <= set(rule.slot_names):
        out["slot:grad_avg"] = rng.normal(size=shape) / 4  # a mean square is never below the squared mean
    return out | {f"hyper:{h.name}": VALUES[h.name] for h in rule.hyperparameters}
