"""nadam and nadamw: adam and adamw with ``nesterov=True``, β1 at every update."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _nadam(a: Arguments) -> dict[str, OptionValue]:
    # With a constant momentum ψ is nowhere.
    return {"schedule": "constant", "momentum_decay": True, "eps_root": bool(a["eps_root"])}


_ARGUMENTS = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "mu_dtype": None}
_LINKS = {"beta1": Link("b1"), "beta2": Link("b2"), "eps": Link("eps"), "eps_root": Link("eps_root")}
_SLOTS = (("mu", "exp_avg"), ("nu", "exp_avg_sq"))
_ROOTS = ({"eps_root": 0.0}, {"eps_root": 1.0})

ROWS = (
    native(
        "nadam",
        "nadam",
        _ARGUMENTS,
        _nadam,
        state=lambda _: (fields("count mu nu"), EMPTY),
        links=_LINKS,
        slots=_SLOTS,
        variants=_ROOTS,
    ),
    native(
        "nadamw",
        "nadam",
        {**_ARGUMENTS, "weight_decay": 1e-4, "mask": None},
        _nadam,
        state=lambda _: (fields("count mu nu"), EMPTY, EMPTY),
        links=_LINKS,
        slots=_SLOTS,
        variants=_ROOTS,
    ),
)
