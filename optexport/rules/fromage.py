"""Fromage: Frobenius matched gradient descent.

Bernstein et al. 2020, "On the distance between two neural networks and the stability of learning"
(arXiv:2002.03432), Algorithm 1.

    w ← ( w − η·ĝ·‖w‖/‖ĝ‖ ) / √(1 + η²)         norms at least ‖·‖_min
"""

from collections.abc import Mapping

from ..ir import Value, maximum, minimum, norm, sqrt, where
from .base import Hyper, OptionValue, Update, family
from .common import L2_DECAY, LR, WEIGHT_DECAY, gradient

__all__ = ["fromage"]


@family(
    "fromage",
    options=(L2_DECAY,),
    hyperparameters=(
        LR,
        Hyper("min_norm", 1e-6, 0.0, float("inf"), "smallest norm of a tensor", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(),
    source="optax/_src/alias.py (fromage)",
)
def fromage(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """A step as long as the weights themselves, times η, drawn back so that they do not grow."""
    lr, g, least = u.hyper("lr"), gradient(u, decay), u.hyper("min_norm")
    w_norm, g_norm = maximum(norm(u.param), least), maximum(norm(g), least)
    ratio = u.let("ratio", where(minimum(w_norm, g_norm).equals(0), 1.0, w_norm / g_norm))
    back = u.let("shrink", 1 / sqrt(1 + lr**2))
    return {"param": u.kernel(back) * u.param - u.kernel(lr * back) * (ratio * g)}
