"""LAMB and LARS (``alias.py``; ``scale_by_trust_ratio``): the decay stands before the trust ratio."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _lamb(a: Arguments) -> dict[str, OptionValue]:
    return {
        "bias_correction": "both",
        "bounds": "none",
        "eps_root": bool(a["eps_root"]),
        "decay": "in_update" if a["weight_decay"] else "none",
    }


def _lars(a: Arguments) -> dict[str, OptionValue]:
    return {
        "trust": "layer",
        "norms": "sum",
        "momentum": "folded",
        "nesterov": "lookahead" if a["nesterov"] else "none",
        "decay": "l2" if a["weight_decay"] else "none",
    }


def _every_layer(a: Arguments) -> None:
    if a["trust_ratio_mask"] is not True:
        raise HyperparameterError(
            f"optax:lars: argument 'trust_ratio_mask' expected True, found {a['trust_ratio_mask']!r}; "
            "give parameter groups instead"
        )


ROWS = (
    native(
        "lamb",
        "lamb",
        {"b1": 0.9, "b2": 0.999, "eps": 1e-6, "eps_root": 0.0, "weight_decay": 0.0, "mask": None},
        _lamb,
        state=lambda a: (fields("count mu nu"), EMPTY, EMPTY, EMPTY),
        links={"beta1": Link("b1"), "beta2": Link("b2"), "eps": Link("eps"), "eps_root": Link("eps_root")},
        slots=(("mu", "exp_avg"), ("nu", "exp_avg_sq")),
        variants=({"eps_root": 0.0}, {"eps_root": 1.0}),
    ),
    native(
        "lars",
        "lars",
        {
            "weight_decay": 0.0,
            "weight_decay_mask": True,
            "trust_coefficient": 0.001,
            "eps": 0.0,
            "trust_ratio_mask": True,
            "momentum": 0.9,
            "nesterov": False,
        },
        _lars,
        state=lambda a: (
            EMPTY if a["weight_decay_mask"] is None else {"inner_state": EMPTY},
            {"inner_state": EMPTY},
            EMPTY,
            fields("trace"),
        ),
        links={
            "momentum": Link("momentum"),
            "trust_coefficient": Link("trust_coefficient"),
            "eps": Link("eps"),
        },
        slots=(("trace", "momentum_buffer"),),
        variants=({"nesterov": False}, {"nesterov": True}),
        validate=_every_layer,
    ),
)
