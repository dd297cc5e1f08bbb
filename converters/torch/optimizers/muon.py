"""Muon (``torch/optim/_muon.py``): matrices only, Newton–Schulz in bfloat16."""

from __future__ import annotations

from typing import Any

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, INERT, Arguments, common

__all__ = ["ROWS"]

_SCALES = {None: "rows", "original": "rows", "match_rms_adamw": "rms"}


def _muon(a: Arguments) -> dict[str, OptionValue]:
    return {
        "shape": "wide",
        "others": "none",
        "momentum": "mean",
        "nesterov": "lookahead" if a["nesterov"] else "none",
        "norm": "clamped",
        "precision": "bfloat16",
        "scale": _SCALES[a["adjust_lr_fn"]],
        "decay": "decoupled" if a["weight_decay"] != 0 else "none",
        "ns_steps": int(a["ns_steps"]),
        **common({**a, "maximize": False}),
    }


_VARIANTS: tuple[dict[str, Any], ...] = tuple(
    {"nesterov": nesterov, "adjust_lr_fn": scale, "weight_decay": decay}
    for nesterov in (True, False)
    for scale in (None, "match_rms_adamw")
    for decay in (0.0, 1.0)
)

ROWS = (
    Native(
        "torch",
        "Muon",
        "muon",
        arguments={
            "lr": 1e-3,
            "weight_decay": 0.1,
            "momentum": 0.95,
            "nesterov": True,
            "ns_coefficients": (3.4445, -4.7750, 2.0315),
            "eps": 1e-7,
            "ns_steps": 5,
            "adjust_lr_fn": None,
        },
        options=_muon,
        links={
            "lr": Link("lr"),
            "momentum": Link("momentum"),
            "eps": Link("eps"),
            "ns_a": Link("ns_coefficients[0]"),
            "ns_b": Link("ns_coefficients[1]"),
            "ns_c": Link("ns_coefficients[2]"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("momentum_buffer", "momentum_buffer"),),
        variants=_VARIANTS,
        aliases=ALIASES,
        inert=INERT,
        note="takes matrices only; Newton–Schulz runs in bfloat16 whatever the parameter",
    ),
)
