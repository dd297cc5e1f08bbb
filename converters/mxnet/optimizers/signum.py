"""signum (class Signum in ``optimizer/optimizer.py``, operators ``signum_update``, ``signsgd_update``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import MOMENTUM, Arguments, common, native

__all__ = ["ROWS"]


def _signum(a: Arguments) -> dict[str, OptionValue]:
    decay = a["wd"] != 0
    if a["momentum"] == 0:
        # The operator takes rescale_grad and clip_gradient and reads neither.
        own = {**common(a, "before_decay"), "rescale": False, "clip": "none"}
        return {"momentum": "none", "decay": "decoupled" if decay else "none", "wd_lh": False, **own}
    return {
        "momentum": "negated",
        "decay": "l2" if decay else "none",
        "wd_lh": a["wd_lh"] != 0,
        **common(a, "before_decay"),
    }


def _check(a: Arguments) -> None:
    if a["momentum"] == 0 and a["wd_lh"]:
        raise HyperparameterError(
            f"mxnet:signum: wd_lh expected 0 where momentum is 0, found {a['wd_lh']!r}; give wd, which is "
            "decoupled there"
        )


ROWS = (
    native(
        "signum",
        "signum",
        {"momentum": 0.9, "wd_lh": 0.0},
        class_name="Signum",
        options=_signum,
        links={**MOMENTUM, "wd_lh": Link("wd_lh")},
        slots=(("mom", "momentum_buffer"),),
        variants=(
            {"momentum": 0.9, "wd_lh": 0.0},
            {"momentum": 0.9, "wd_lh": 1.0},
            {"momentum": 0.0, "wd_lh": 0.0},
        ),
        validate=_check,
        note="without momentum it is SignSGD: wd is decoupled, rescale_grad and clip_gradient have no effect",
    ),
)
