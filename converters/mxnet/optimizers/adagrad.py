"""adagrad, groupadagrad (classes AdaGrad, GroupAdaGrad)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import CLIP32, Arguments, arrays, native

__all__ = ["ROWS"]


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "inside",
        "lr_decay": "none",
        # −η(g/√(h+ε) + λw): the step does not see w, so this is decoupled decay.
        "decay": "decoupled" if a["wd"] != 0 else "none",
        **arrays(a),
    }


def _refuse_decay(a: Arguments) -> None:
    if a["wd"] != 0:
        raise HyperparameterError(
            f"mxnet:groupadagrad: wd expected 0, found {a['wd']!r}; MXNet itself refuses any other"
        )


ROWS = (
    native(
        "adagrad",
        "adagrad",
        {"eps": 1e-7},
        class_name="AdaGrad",
        options=_adagrad,
        links={"eps": Link("eps"), **CLIP32},
        slots=(("history", "sum"),),
        aliases={"float_stable_eps": "eps"},
        note="state is float32 whatever the parameter; float64 parameters fail",
    ),
    native(
        "groupadagrad",
        "group_adagrad",
        {"eps": 1e-5},
        class_name="GroupAdaGrad",
        options=arrays,
        links={"eps": Link("eps"), **CLIP32},
        slots=(("history", "sum"),),
        aliases={"float_stable_eps": "eps"},
        validate=_refuse_decay,
        note="matrices alone; state is float32 whatever the parameter, float64 parameters fail",
    ),
)
