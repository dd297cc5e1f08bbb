"""Adam and AdamW (``keras/src/optimizers/adam.py``): epsilon hat; AMSGrad on the uncorrected v."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _adam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "hat",
        "bias_correction": "both",
        "amsgrad": "raw" if a["amsgrad"] else "none",
        "post_decay": False,
    }


_ARGUMENTS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False}
_LINKS = {"beta1": Link("beta_1"), "beta2": Link("beta_2"), "eps": Link("epsilon")}
_SLOTS = (
    ("momentum", "exp_avg"),
    ("velocity", "exp_avg_sq"),
    ("velocity_hat", "max_exp_avg_sq"),
)
_VARIANTS = ({"amsgrad": False}, {"amsgrad": True})
_BLOCKS = (("momentum", "velocity"), ("velocity_hat",))

ROWS = (
    native("Adam", "adam", _ARGUMENTS, _adam, links=_LINKS, slots=_SLOTS, variants=_VARIANTS, blocks=_BLOCKS),
    native(
        "AdamW",
        "adam",
        {**_ARGUMENTS, "weight_decay": 0.004},
        _adam,
        links=_LINKS,
        slots=_SLOTS,
        variants=_VARIANTS,
        blocks=_BLOCKS,
    ),
)
