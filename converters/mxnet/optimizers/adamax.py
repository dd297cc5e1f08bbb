"""adamax (class Adamax): no ε, so an element without a gradient so far is 0/0."""

from __future__ import annotations

from optexport.rules.base import OptionValue

from .common import BETAS, CLIP32, Arguments, arrays, native

__all__ = ["ROWS"]


def _adamax(a: Arguments) -> dict[str, OptionValue]:
    return {"eps": "none", "decay": "l2" if a["wd"] != 0 else "none", **arrays(a, "after_decay")}


ROWS = (
    native(
        "adamax",
        "adamax",
        {"learning_rate": 2e-3, "beta1": 0.9, "beta2": 0.999},
        class_name="Adamax",
        options=_adamax,
        links={**CLIP32, "beta1": BETAS["beta1"], "beta2": BETAS["beta2"]},
        slots=(("m", "exp_avg"), ("u", "exp_inf")),
        note="a parameter's element becomes NaN where its first gradient is 0",
    ),
)
