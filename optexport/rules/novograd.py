"""NovoGrad.

Ginsburg et al. 2019, "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of
Deep Networks" (arXiv:1905.11286), Algorithm 1: one second moment a tensor.

    n ← ‖ĝ‖² at the first update, then  β2·n + (1−β2)·‖ĝ‖²
    m ← β1·m + ĝ / (√(n + ε_root) + ε) + λ·w
    w ← w − η·m
"""

from collections.abc import Mapping

from ..ir import Value, norm, sqrt, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["novograd"]

INF = float("inf")


@family(
    "novograd",
    options=(
        Option(
            "decay",
            {
                "none": "no weight decay",
                "normalized": "λw joins the normalized gradient, inside the mean",
                "l2": "λw joins the gradient before it is normalized",
                "decoupled": "w·(1−ηλ) before the update",
            },
        ),
    ),
    hyperparameters=(
        LR,
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.25, "decay rate β2 of the squared norm"),
        Hyper("eps", 1e-6, 0.0, INF, "ε beside the root", 0.0),
        Hyper("eps_root", 0.0, 0.0, INF, "ε under the root", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("exp_avg", "decaying sum m of normalized gradients"),
        Slot("norm_sq", "running mean n of the squared norm", shape="scalar", dtype="float64"),
    ),
    source="optax/_src/transform.py (scale_by_novograd)",
)
def novograd(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """Momentum on gradients of about length 1."""
    g, w = gradient(u, decay), decay_first(u, decay)
    beta2, length = u.hyper("beta2"), norm(g)
    square = length * length
    n = where(u.step.equals(0), square, beta2 * u.slot("norm_sq") + (1 - beta2) * square)
    direction = g / u.kernel(u.let("denominator", sqrt(n + u.hyper("eps_root")) + u.hyper("eps")))
    if decay == "normalized":
        direction = direction + u.kernel(u.hyper("weight_decay")) * u.param
    m = u.kernel(u.hyper("beta1")) * u.slot("exp_avg") + direction
    return {"param": w - u.kernel(u.hyper("lr")) * m, "exp_avg": m, "norm_sq": n}
