"""FTML: follow the moving leader.

Zheng & Kwok 2017, "Follow the Moving Leader in Deep Learning", ICML, algorithm 1.

    v  ← β2·v + (1−β2)ĝ²
    d' = (1−β1ᵗ)/η · (√(v/(1−β2ᵗ)) + ε)
    z  ← β1·z + (1−β1)ĝ − (d' − β1·d)·w
    w  ← −z / d'
"""

from collections.abc import Mapping

from ..ir import Value, sqrt
from .base import OptionValue, Slot, Update, family
from .common import BETA, EPS, L2_DECAY, LR, WEIGHT_DECAY, gradient

__all__ = ["ftml"]


@family(
    "ftml",
    options=(L2_DECAY,),
    hyperparameters=(
        LR,
        BETA("beta1", 0.6, "decay rate β1 of past losses"),
        BETA("beta2", 0.999, "decay rate β2 of the mean squared gradient"),
        EPS,
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("weight_sum", "d: how much each element is held where it is"),
        Slot("exp_avg_sq", "running mean v of the squared gradient"),
        Slot("linear", "z: the losses' linear parts"),
    ),
    source="mxnet src/operator/optimizer_op-inl.h (FTMLKernel)",
)
def ftml(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """The parameter that minimizes a moving average of past losses."""
    lr, beta1, beta2 = (u.kernel(u.hyper(h)) for h in ("lr", "beta1", "beta2"))
    g, w, t = gradient(u, decay), u.param, u.step + 1
    c1, c2 = u.let("c1", 1 - beta1**t), u.let("c2", 1 - beta2**t)
    v = beta2 * u.slot("exp_avg_sq") + (1 - beta2) * (g * g)
    # MXNet's kernel receives ε, of all scalars, in double.
    d = c1 / lr * (sqrt(v / c2) + u.hyper("eps"))
    z = beta1 * u.slot("linear") + (1 - beta1) * g - (d - beta1 * u.slot("weight_sum")) * w
    return {"param": -z / d, "weight_sum": d, "exp_avg_sq": v, "linear": z}
