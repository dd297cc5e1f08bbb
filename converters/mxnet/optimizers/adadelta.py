"""adadelta (class AdaDelta in ``optimizer/optimizer.py``)."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import CLIP32, Arguments, arrays, native

__all__ = ["ROWS"]


def _adadelta(a: Arguments) -> dict[str, OptionValue]:
    # w − (δ + λw): neither the step nor the decay sees the learning rate.
    return {"rate": "none", "decay": "decoupled" if a["wd"] != 0 else "none", **arrays(a)}


ROWS = (
    native(
        "adadelta",
        "adadelta",
        {"rho": 0.9, "epsilon": 1e-5},
        class_name="AdaDelta",
        options=_adadelta,
        links={"rho": Link("rho"), "eps": Link("epsilon"), **CLIP32},
        slots=(("acc_g", "square_avg"), ("acc_delta", "acc_delta")),
        note="the learning rate is ignored, decay is not scaled by it; an update multiplies the caller's own "
        "gradient array by rescale_grad; state is float32 whatever the parameter, float64 parameters fail",
    ),
)
