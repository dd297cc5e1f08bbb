"""Adam, AdamW, SparseAdam (``torch/optim/adam.py``, ``adamw.py``, ``_functional.py``).

SparseAdam is Adam with epsilon hat on the rows that its gradient holds; the others stay as they are,
moments included. It is the rule where every gradient holds every row.
"""

from __future__ import annotations

from typing import Any

from optexport.dialects import Link, Native
from optexport.rules.base import OptionValue

from .common import ALIASES, CAPTURABLE, INERT, Arguments, common, variants

__all__ = ["ROWS"]


def _adam(decoupled: bool) -> Any:
    def options(a: Arguments) -> dict[str, OptionValue]:
        kind = "decoupled" if a.get("decoupled_weight_decay", decoupled) else "l2"
        return {
            "eps": "outside",
            "bias_correction": "both",
            "amsgrad": "raw" if a["amsgrad"] else "none",
            "decay": kind if a["weight_decay"] != 0 else "none",
            "post_decay": False,
            **common(a),
        }

    return options


def _sparse(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "hat",
        "bias_correction": "both",
        "amsgrad": "none",
        "decay": "none",
        "post_decay": False,
        **common(a),
    }


_ADAM_LINKS = {
    "lr": Link("lr"),
    "beta1": Link("betas[0]"),
    "beta2": Link("betas[1]"),
    "eps": Link("eps"),
    "weight_decay": Link("weight_decay"),
}
_ADAM_SLOTS = (("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq"), ("max_exp_avg_sq", "max_exp_avg_sq"))
_ADAM_ARGUMENTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}

ROWS = (
    Native(
        "torch",
        "Adam",
        "adam",
        # `decoupled_weight_decay=True` makes Adam AdamW; a saved group says which it is.
        arguments={
            **_ADAM_ARGUMENTS,
            "weight_decay": 0.0,
            "amsgrad": False,
            "maximize": False,
            "decoupled_weight_decay": False,
        },
        options=_adam(False),
        links=_ADAM_LINKS,
        slots=_ADAM_SLOTS,
        variants=variants({"amsgrad": False}, {"amsgrad": True}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults={**CAPTURABLE, "fused": None},
        inert=INERT,
    ),
    Native(
        "torch",
        "AdamW",
        "adam",
        arguments={**_ADAM_ARGUMENTS, "weight_decay": 1e-2, "amsgrad": False, "maximize": False},
        options=_adam(True),
        links=_ADAM_LINKS,
        slots=_ADAM_SLOTS,
        variants=variants({"amsgrad": False}, {"amsgrad": True}),
        aliases=ALIASES,
        step_slot="step",
        file_defaults={**CAPTURABLE, "fused": None, "decoupled_weight_decay": True},
        inert=INERT | {"decoupled_weight_decay"},
    ),
    Native(
        "torch",
        "SparseAdam",
        "adam",
        arguments={**_ADAM_ARGUMENTS, "maximize": False},
        options=_sparse,
        links={k: v for k, v in _ADAM_LINKS.items() if k != "weight_decay"},
        slots=_ADAM_SLOTS[:2],
        variants=({"maximize": False}, {"maximize": True}),
        aliases=ALIASES,
        step_slot="step",
        inert=INERT,
        asked=True,
        note="takes sparse gradients alone, and moves the rows that a gradient holds; the rule moves all",
    ),
)
