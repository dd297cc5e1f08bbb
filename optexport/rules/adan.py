"""Adan.

Xie et al. 2022, "Adan: Adaptive Nesterov Momentum Algorithm" (arXiv:2208.06677), Algorithm 1.

    Δ ← ĝ − ĝ₋                     0 at the first update
    m ← β1·m + (1−β1)·ĝ
    v ← β2·v + (1−β2)·Δ
    n ← β3·n + (1−β3)·(ĝ + (1−β2)·Δ)²
    w ← w − η·( (m̂ + (1−β2)·v̂) / (√(n̂ + ε_root) + ε) + λ·w )
"""

from collections.abc import Mapping

from ..ir import Value, sqrt, where
from .base import Hyper, OptionValue, Slot, Update, family
from .common import BETA, DECAY, EPS, LR, WEIGHT_DECAY, decay_first, gradient
from .moments import correction, mean, mean_square

__all__ = ["adan"]


@family(
    "adan",
    options=(DECAY,),
    hyperparameters=(
        LR,
        BETA("beta1", 0.98, "decay rate β1 of the mean"),
        BETA("beta2", 0.92, "decay rate β2 of the mean difference"),
        BETA("beta3", 0.99, "decay rate β3 of the mean square"),
        EPS,
        Hyper("eps_root", 1e-8, 0.0, float("inf"), "ε_root, under the root", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_avg_diff", "running mean v of the gradient's differences"),
        Slot("exp_avg_sq", "running mean n of the square of the gradient that looks ahead"),
        Slot("previous_grad", "gradient ĝ₋ of the update before"),
    ),
    source="optax/_src/transform.py (scale_by_adan)",
)
def adan(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """Adam with Nesterov's look ahead, made of differences of gradients."""
    g, w = gradient(u, decay), decay_first(u, decay)
    diff = u.let("diff", where(u.step.equals(0), 0.0, g - u.slot("previous_grad")))
    ahead = 1 - u.kernel(u.hyper("beta2"))
    m, v = mean(u, g), mean(u, diff, "exp_avg_diff", "beta2")
    n = mean_square(u, g + ahead * diff, "exp_avg_sq", "beta3")
    c1, c2, c3 = (correction(u, f"beta{i}", f"c{i}") for i in (1, 2, 3))
    direction = m / u.kernel(c1) + ahead * (v / u.kernel(c2))
    root = sqrt(n / u.kernel(c3) + u.kernel(u.hyper("eps_root")))
    return {
        "param": w - u.kernel(u.hyper("lr")) * (direction / (root + u.kernel(u.hyper("eps")))),
        "exp_avg": m,
        "exp_avg_diff": v,
        "exp_avg_sq": n,
        "previous_grad": g,
    }
