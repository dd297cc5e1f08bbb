"""Muon (``keras/src/optimizers/muon.py``): matrices by Newton–Schulz, everything else by Adam.

``epsilon`` is Adam's; that of the norm is 1e-7. A matrix whose path has "embedding" in it is Adam's
too (``exclude_embeddings``), which no shape tells.
"""

from __future__ import annotations

from typing import Any

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _muon(a: Arguments) -> dict[str, OptionValue]:
    return {
        "shape": "wide",
        "others": "adam_hat",
        "momentum": "sum",
        "nesterov": "lookahead" if a["nesterov"] else "none",
        "norm": "added_constant",
        "precision": "tensor",
        "scale": "none" if a["rms_rate"] is None else "rms",
        "decay": "decoupled" if a["weight_decay"] or a["adam_weight_decay"] else "none",
        "ns_steps": int(a["ns_steps"]),
    }


def _check(a: Arguments) -> None:
    if a["exclude_layers"]:
        raise HyperparameterError(
            f"keras:Muon: argument 'exclude_layers' expected None, found {a['exclude_layers']!r}; "
            "give those layers to an optimizer of their own"
        )


def _or_zero(x: Any) -> float:
    return float(x or 0.0)


ROWS = (
    native(
        "Muon",
        "muon",
        {
            "adam_beta_1": 0.9,
            "adam_beta_2": 0.999,
            "adam_weight_decay": 0.004,
            "epsilon": 1e-7,
            "weight_decay": 0.004,
            "exclude_layers": None,
            "exclude_embeddings": True,
            "muon_a": 3.4445,
            "muon_b": -4.7750,
            "muon_c": 2.0315,
            "adam_lr_ratio": 1,
            "momentum": 0.95,
            "ns_steps": 5,
            "nesterov": True,
            "rms_rate": 0.2,
        },
        _muon,
        links={
            "momentum": Link("momentum"),
            "ns_a": Link("muon_a"),
            "ns_b": Link("muon_b"),
            "ns_c": Link("muon_c"),
            "rms_scale": Link("rms_rate"),
            "weight_decay": Link("weight_decay", _or_zero),
            "beta1": Link("adam_beta_1"),
            "beta2": Link("adam_beta_2"),
            "adam_eps": Link("epsilon"),
            "adam_lr_ratio": Link("adam_lr_ratio"),
            "adam_weight_decay": Link("adam_weight_decay", _or_zero),
        },
        slots=(("momentum", "momentum_buffer"), ("velocity", "exp_avg_sq")),
        variants=tuple(
            {"nesterov": nesterov, "rms_rate": rate, "adam_weight_decay": decay}
            for nesterov in (True, False)
            for rate in (0.2, None)
            for decay in (0.0,)
        ),
        validate=_check,
        note="a matrix whose path has 'embedding' in it is updated by Adam (exclude_embeddings)",
    ),
)
