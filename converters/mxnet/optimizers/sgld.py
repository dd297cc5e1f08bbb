"""sgld (class SGLD in ``optimizer/optimizer.py``)."""

from __future__ import annotations

from optexport.rules.base import OptionValue

from .common import CLIP32, Arguments, arrays, native

__all__ = ["ROWS"]


def _sgld(a: Arguments) -> dict[str, OptionValue]:
    return {"decay": "l2" if a["wd"] != 0 else "none", **arrays(a)}


ROWS = (
    native(
        "sgld",
        "sgld",
        {},
        class_name="SGLD",
        options=_sgld,
        links=CLIP32,
        note="it draws its noise from MXNet's global generator, which no file holds",
    ),
)
