"""dcasgd (class DCASGD in ``optimizer/optimizer.py``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import CLIP32, Arguments, arrays, native

__all__ = ["ROWS"]


def _dcasgd(a: Arguments) -> dict[str, OptionValue]:
    return {"decay": "l2" if a["wd"] != 0 else "none", **arrays(a)}


def _check(a: Arguments) -> None:
    if a["momentum"] != 0:
        raise HyperparameterError(
            f"mxnet:dcasgd: momentum expected 0, found {a['momentum']!r}; MXNet 1.9.1 itself raises at the first "
            "update with any other"
        )


ROWS = (
    native(
        "dcasgd",
        "dcasgd",
        {"momentum": 0.0, "lamda": 0.04},
        class_name="DCASGD",
        options=_dcasgd,
        links={"lamda": Link("lamda"), **CLIP32},
        slots=(("previous_weight", "previous_weight"),),
        validate=_check,
    ),
)
