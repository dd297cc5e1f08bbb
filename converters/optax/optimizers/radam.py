"""radam (``scale_by_radam``): rectified where ρ ≥ ``threshold``."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, fields, native

__all__ = ["ROWS"]


def _radam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "threshold": "given",
        "eps_root": bool(a["eps_root"]),
        "nesterov": bool(a["nesterov"]),
    }


ROWS = (
    native(
        "radam",
        "radam",
        {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "threshold": 5.0, "nesterov": False},
        _radam,
        state=lambda _: (fields("count mu nu"), EMPTY),
        links={
            "beta1": Link("b1"),
            "beta2": Link("b2"),
            "eps": Link("eps"),
            "eps_root": Link("eps_root"),
            "threshold": Link("threshold"),
        },
        slots=(("mu", "exp_avg"), ("nu", "exp_avg_sq")),
        variants=tuple(
            {"eps_root": eps_root, "nesterov": nesterov}
            for eps_root in (0.0, 1.0)
            for nesterov in (False, True)
        ),
        transform="scale_by_radam",
    ),
)
