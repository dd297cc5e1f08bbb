"""The catalogue: the names people use, each a family with every option stated.

Adding a rule: one family file (or none, if a family has it), one row here, one row in the dialect
of each framework that has it, one row in the parity table.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UnknownNameError
from . import (  # noqa: F401  (each registers its family)
    adabelief,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adan,
    asgd,
    dcasgd,
    fromage,
    ftml,
    ftrl,
    group_adagrad,
    lamb,
    lars,
    lbfgs,
    lbsgd,
    lion,
    muon,
    nadam,
    newton,
    noisy_sgd,
    novograd,
    optimistic,
    radam,
    rmsprop,
    rprop,
    schedule_free,
    sgd,
    sgld,
    signum,
    sm3,
    yogi,
)
from .base import Family, OptionValue, Rule, families

__all__ = ["CATALOGUE", "PLAIN", "Entry", "lookup", "name_of"]

# The gradient as it is, scalars in double: what a rule means when nobody says otherwise by name.
PLAIN: Mapping[str, OptionValue] = {"maximize": False, "rescale": False, "clip": "none", "scalars": "float64"}

_SGD: Mapping[str, OptionValue] = {"nesterov": "none", "dampening": "none", "decay": "l2", **PLAIN}
_ADAM: Mapping[str, OptionValue] = {
    "eps": "outside",
    "bias_correction": "both",
    "amsgrad": "none",
    "decay": "l2",
    "post_decay": False,
    **PLAIN,
}
_LARS: Mapping[str, OptionValue] = {"trust": "layer", "norms": "parts", "nesterov": "none", "decay": "l2"}
_ADAFACTOR: Mapping[str, OptionValue] = {
    "factoring": "last_axes",
    "eps1": "added",
    "rate": "capped",
    "scale": "rms",
    "decay": "decoupled",
    **PLAIN,
}
_MUON: Mapping[str, OptionValue] = {
    "momentum": "mean",
    "nesterov": "lookahead",
    "norm": "clamped",
    "scale": "rows",
    "decay": "decoupled",
    **PLAIN,
}
_FREE: Mapping[str, OptionValue] = {"weights": "lr", "warmup": "none", "decay": "base", **PLAIN}
_RMS: Mapping[str, OptionValue] = {
    "eps": "outside",
    "centered": False,
    "momentum": "none",
    "decay": "l2",
    "clip_weights": False,
    **PLAIN,
}


@dataclass(frozen=True)
class Entry:
    """A name of the catalogue: which family, at which options, with which defaults of its own."""

    name: str
    family_name: str
    options: Mapping[str, OptionValue]
    defaults: Mapping[str, float]

    @property
    def family(self) -> Family:
        return families()[self.family_name]

    def rule(self, **options: object) -> Rule:
        return self.family.rule(**{**self.options, **options})


CATALOGUE: Mapping[str, Entry] = {
    e.name: e
    for e in (
        Entry("sgd", "sgd", {"momentum": "none", **_SGD}, {"lr": 1e-2}),
        Entry("momentum", "sgd", {"momentum": "unfolded", **_SGD}, {"lr": 1e-2}),
        Entry("nesterov", "sgd", {"momentum": "unfolded", **_SGD, "nesterov": "lookahead"}, {"lr": 1e-2}),
        Entry("folded_momentum", "sgd", {"momentum": "folded", **_SGD}, {"lr": 1e-2}),
        Entry(
            "folded_nesterov", "sgd", {"momentum": "folded", **_SGD, "nesterov": "lookahead"}, {"lr": 1e-2}
        ),
        Entry("adam", "adam", _ADAM, {}),
        Entry("adamw", "adam", {**_ADAM, "decay": "decoupled"}, {"weight_decay": 1e-2}),
        Entry("amsgrad", "adam", {**_ADAM, "amsgrad": "raw"}, {}),
        Entry("adam_hat", "adam", {**_ADAM, "eps": "hat"}, {}),
        Entry("amsgrad_corrected", "adam", {**_ADAM, "amsgrad": "corrected"}, {}),
        Entry("adamax", "adamax", {"eps": "accumulated", "decay": "l2", **PLAIN}, {}),
        Entry(
            "adamaxw", "adamax", {"eps": "accumulated", "decay": "decoupled", **PLAIN}, {"weight_decay": 1e-2}
        ),
        Entry("nadam", "nadam", {"schedule": "own", "momentum_decay": True, "decay": "l2", **PLAIN}, {}),
        Entry(
            "nadamw",
            "nadam",
            {"schedule": "own", "momentum_decay": True, "decay": "decoupled", **PLAIN},
            {"weight_decay": 1e-2},
        ),
        Entry(
            "nadam_constant",
            "nadam",
            {"schedule": "constant", "momentum_decay": True, "decay": "l2", **PLAIN},
            {"lr": 1e-3},
        ),
        Entry("radam", "radam", {"eps": "outside", "threshold": "five", "decay": "l2", **PLAIN}, {}),
        Entry(
            "radamw",
            "radam",
            {"eps": "outside", "threshold": "five", "decay": "decoupled", **PLAIN},
            {"weight_decay": 1e-2},
        ),
        Entry("yogi", "yogi", {"decay": "decoupled", **PLAIN}, {}),
        Entry("adabelief", "adabelief", {"decay": "decoupled", **PLAIN}, {}),
        Entry("novograd", "novograd", {"decay": "normalized", **PLAIN}, {}),
        Entry("lion", "lion", {"decay": "decoupled", **PLAIN}, {}),
        Entry(
            "lamb",
            "lamb",
            {"bias_correction": "both", "bounds": "none", "decay": "in_update", **PLAIN},
            {"eps": 1e-6},
        ),
        Entry("lars", "lars", {"momentum": "folded", **_LARS, **PLAIN}, {"lr": 0.1}),
        Entry("adafactor", "adafactor", _ADAFACTOR, {"lr": 1e-2}),
        Entry("sm3", "sm3", {"decay": "none", **PLAIN}, {"lr": 1e-2}),
        Entry("muon", "muon", _MUON, {"weight_decay": 0.1}),
        Entry("schedule_free_sgd", "schedule_free", {"base": "sgd", **_FREE}, {"lr": 1.0}),
        Entry("schedule_free_adamw", "schedule_free", {"base": "adam", **_FREE}, {"lr": 2.5e-3}),
        Entry("rmsprop", "rmsprop", _RMS, {"lr": 1e-2}),
        Entry("rmsprop_momentum", "rmsprop", {**_RMS, "momentum": "unfolded"}, {"lr": 1e-2, "momentum": 0.9}),
        Entry("rmsprop_centered", "rmsprop", {**_RMS, "centered": True}, {"lr": 1e-2}),
        Entry(
            "adagrad",
            "adagrad",
            {"eps": "outside", "lr_decay": "from_zero", "decay": "l2", **PLAIN},
            {"lr": 1e-2, "eps": 1e-10},
        ),
        Entry("adadelta", "adadelta", {"rate": "lr", "decay": "l2", **PLAIN}, {"lr": 1.0, "eps": 1e-6}),
        Entry("group_adagrad", "group_adagrad", PLAIN, {"lr": 1e-2, "eps": 1e-5}),
        Entry("ftrl", "ftrl", {"power": "root", "shrinkage": False, "decay": "none", **PLAIN}, {}),
        Entry("ftml", "ftml", {"decay": "l2", **PLAIN}, {"lr": 1e-2}),
        Entry("signsgd", "signum", {"momentum": "none", "decay": "decoupled", "wd_lh": False, **PLAIN}, {}),
        Entry("signum", "signum", {"momentum": "average", "decay": "l2", "wd_lh": False, **PLAIN}, {}),
        Entry("rprop", "rprop", {"step": "at_once", "decay": "none", **PLAIN}, {"lr": 1e-2}),
        Entry("asgd", "asgd", {"decay": "l2", **PLAIN}, {"lr": 1e-2}),
        Entry("dcasgd", "dcasgd", {"decay": "l2", **PLAIN}, {"lr": 1e-2}),
        Entry("sgld", "sgld", {"decay": "l2", **PLAIN}, {"lr": 1e-2}),
        Entry(
            "lbsgd",
            "lbsgd",
            {"momentum": "none", "decay": "l2", "warmup": "linear", **PLAIN},
            {"lr": 1e-2, "batch_scale": 4.0},
        ),
        Entry("adan", "adan", {"decay": "decoupled", **PLAIN}, {}),
        Entry("optimistic", "optimistic", {"direction": "gradient", "decay": "none", **PLAIN}, {"lr": 1e-2}),
        Entry("optimistic_adam", "optimistic", {"direction": "adam", "decay": "none", **PLAIN}, {}),
        Entry("fromage", "fromage", {"decay": "none", **PLAIN}, {"lr": 1e-2}),
        Entry(
            "newton",
            "newton",
            {"curvature": "diagonal", "denominator": "added", "decay": "none", **PLAIN},
            {"lr": 1.0},
        ),
        Entry(
            "newton_along_gradient",
            "newton",
            {"curvature": "product", "denominator": "added", "decay": "none", **PLAIN},
            {"lr": 1.0},
        ),
        Entry(
            "lbfgs",
            "lbfgs",
            {
                "history": 10,
                "pairs": "every",
                "scale": "newest",
                "first": "l2",
                "stop": "never",
                "last": "param",
                **PLAIN,
            },
            {"lr": 1.0},
        ),
        Entry("noisy_sgd", "noisy_sgd", {"decay": "none", **PLAIN}, {"lr": 1e-2}),
    )
}


def lookup(name: str) -> Entry:
    """The entry called ``name`` (case does not matter).

    Raises:
        UnknownNameError: names the nearest entries.
    """
    entry = CATALOGUE.get(name.lower())
    if entry is None:
        near = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.5) or list(CATALOGUE)
        raise UnknownNameError(
            f"unknown rule {name!r}; expected a name of the catalogue, nearest: {', '.join(near)}"
        )
    return entry


def name_of(rule: Rule, values: Mapping[str, float]) -> str:
    """The catalogue's name for a rule at these values, or its family's where it has none.

    A value of 0 or 1 may make terms vanish, so AdamW at zero decay is called adam.
    """
    wanted = rule.digest_at(values)
    for entry in CATALOGUE.values():
        if entry.family_name != rule.family:
            continue
        candidate = entry.rule()
        # A hyperparameter that the rule lacks is at the value at which it has no effect.
        known = {h.name: values.get(h.name, h.neutral) for h in candidate.hyperparameters}
        if candidate.digest_at({k: v for k, v in known.items() if v is not None}) == wanted:
            return entry.name
    return rule.family
