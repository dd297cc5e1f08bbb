"""What every MXNet optimizer has: arguments of the base class, multipliers, how a record is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

__all__ = [
    "BETAS",
    "CLIP32",
    "INERT",
    "MOMENTS",
    "MOMENTUM",
    "Arguments",
    "arrays",
    "by_index",
    "common",
    "native",
    "split",
]

Arguments = Mapping[str, Any]

BASE: dict[str, Any] = {
    "learning_rate": 0.01,
    "wd": 0.0,
    "rescale_grad": 1.0,
    "clip_gradient": None,
    "multi_precision": False,
    "begin_num_update": 0,
    "param_idx2name": None,
    "lr_mult": None,
    "wd_mult": None,
}
# Attributes of a pickled optimizer, and arguments, that change no number of an update.
INERT = frozenset(
    {
        "lazy_update",
        "aggregate_num",
        "num_update",
        "_index_update_count",
        "_all_index_update_counts",
        "sym",
        "sym_info",
        "allow_np_array",
        "lr_scheduler",
        "param_dict",
    }
)
ALIASES = {"lr": "learning_rate", "idx2name": "param_idx2name"}
LINKS = {
    "lr": Link("learning_rate"),
    "weight_decay": Link("wd"),
    "rescale_grad": Link("rescale_grad"),
    "clip_gradient": Link("clip_gradient"),
}


def common(a: Arguments, clip: str, scalars: str = "float32") -> dict[str, OptionValue]:
    return {
        "maximize": False,
        "rescale": a["rescale_grad"] != 1,
        "clip": clip if a["clip_gradient"] else "none",
        "scalars": scalars,
    }


def arrays(a: Arguments, clip: str = "before_decay") -> dict[str, OptionValue]:
    """`common` of a class written in array operations: scalars in double; only None is no clip."""
    return {**common(a, clip, scalars="float64"), "clip": "none" if a["clip_gradient"] is None else clip}


def _single(x: float) -> float:
    return float(np.float32(x))


def _multipliers(a: Arguments, index: int | None, name: str | None) -> tuple[float, float]:
    """(lr_mult, wd_mult) of one parameter, found by index first and then by name."""
    lr_mult, wd_mult = by_index(a["lr_mult"]), by_index(a["wd_mult"])
    # A new optimizer writes what names mean into its table; one out of a file, which has counts, has them there
    # or, where it was made without names, means 1.
    named = name is not None and "_index_update_count" not in a
    by_name = 0.0 if named and not str(name).endswith(("_weight", "_gamma")) else 1.0
    return (
        float(lr_mult.get(index, lr_mult.get(name, 1.0))),
        float(wd_mult.get(index, wd_mult.get(name, by_name))),
    )


def by_index(table: Mapping[Any, Any] | None) -> dict[Any, Any]:
    """A table of parameters by index or name; an index that came through JSON is text."""
    return {int(k) if isinstance(k, str) and k.isdigit() else k: v for k, v in (table or {}).items()}


def split(
    a: Arguments, params: tuple[str, ...] | None
) -> Sequence[tuple[dict[str, Any], tuple[str, ...] | None, float]]:
    """One group for each pair of multipliers; parameters that no table names stay in an open group."""
    names: dict[int, str] = by_index(a["param_idx2name"])
    indexes = {n: i for i, n in names.items()}
    groups: dict[tuple[float, float], list[str]] = {}
    for key in params if params is not None else tuple(names.values()):
        index = indexes.get(key)
        name: str | None = key if index is not None else None
        if index is None and key.isdigit():
            index, name = int(key), names.get(int(key))
        groups.setdefault(_multipliers(a, index, name), []).append(key)
    out: list[tuple[dict[str, Any], tuple[str, ...] | None, float]] = [
        ({**a, "wd": a["wd"] * wd_mult}, tuple(keys), lr_mult) for (lr_mult, wd_mult), keys in groups.items()
    ]
    if params is None:
        out.append((dict(a), None, 1.0))
    return out


def native(name: str, family: str, arguments: Arguments, **fields: Any) -> Native:
    variants = fields.pop("variants", ({},))
    own_split = fields.pop("split", split)
    more_inert = fields.pop("more_inert", frozenset())
    return Native(
        "mxnet",
        name,
        family,
        arguments={**BASE, **arguments},
        variants=tuple(
            {**v, "wd": wd, "rescale_grad": rescale, "clip_gradient": clip}
            for v in variants
            for wd in (0.0, 1.0)
            for rescale in (1.0, 0.5)
            for clip in (None, 1.0)
        ),
        links={**LINKS, **fields.pop("links", {})},
        aliases={**ALIASES, **fields.pop("aliases", {})},
        inert=INERT | more_inert,
        split=own_split,
        counts_from="begin_num_update",
        masters=True,
        **fields,
    )


# The operator `clip` of array operations has float32 bounds, whatever the array's dtype.
CLIP32 = {"clip_gradient": Link("clip_gradient", _single)}
MOMENTUM = {"momentum": Link("momentum")}
BETAS = {"beta1": Link("beta1"), "beta2": Link("beta2"), "eps": Link("epsilon")}
MOMENTS = (("mean", "exp_avg"), ("var", "exp_avg_sq"))
