"""RAdam: Adam that waits until the variance of its step is known.

Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond" (arXiv:1908.03265),
Algorithm 2.

    m ← β1·m + (1−β1)·ĝ        c1 = 1 − β1ᵗ      m̂ = m/c1
    v ← β2·v + (1−β2)·ĝ²       c2 = 1 − β2ᵗ
    ρ∞ = 2/(1−β2) − 1          ρ = ρ∞ − 2t·β2ᵗ/c2
    r = √( (ρ−4)(ρ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ) )

    w ← w − η·r·m̂ / (√v/√c2 + ε)  where the step is rectified, else  w ← w − η·m̂

    threshold = five   rectified where ρ > 5
    threshold = given  rectified where ρ ≥ `threshold` (4 in the paper, but for the boundary)
    eps = hat          r·m̂·√c2 / (√v + ε): ε before the correction
"""

from collections.abc import Mapping

from ..ir import Value, sqrt, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, EPS, LR, WEIGHT_DECAY, decay_first, gradient
from .moments import corrected_mean, correction, mean, mean_square, root

__all__ = ["radam"]

INF = float("inf")


@family(
    "radam",
    options=(
        Option(
            "eps",
            {
                "outside": "ε is added to √v̂, the corrected root (Optax)",
                "hat": "ε is added to √v, before the correction √c2 (PyTorch)",
            },
        ),
        Option(
            "threshold",
            {
                "five": "rectified where ρ > 5 (PyTorch)",
                "given": "rectified where ρ ≥ `threshold` (Optax)",
            },
        ),
        DECAY,
        Option(
            "eps_root",
            {
                False: "nothing under the root beside v",
                True: "`eps_root` is added to the corrected v (Optax)",
            },
            default=False,
        ),
        Option(
            "nesterov",
            {
                False: "m̂ = m/c1",
                True: "m̂ looks one update ahead (Optax)",
            },
            default=False,
        ),
    ),
    hyperparameters=(
        LR,
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.999, "decay rate β2 of the mean square"),
        EPS,
        Hyper("threshold", 5.0, 0.0, INF, "ρ from which the step is rectified"),
        WEIGHT_DECAY,
        Hyper("eps_root", 0.0, 0.0, INF, "ε under the root", 0.0),
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_avg_sq", "running mean v of its square"),
    ),
    source="torch/optim/radam.py; optax/_src/transform.py (scale_by_radam)",
)
def radam(
    u: Update,
    *,
    eps: OptionValue,
    threshold: OptionValue,
    decay: OptionValue,
    eps_root: OptionValue,
    nesterov: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """Plain momentum at first, Adam with a shortened step later."""
    lr, epsilon = u.hyper("lr"), u.kernel(u.hyper("eps"))
    g, w = gradient(u, decay), decay_first(u, decay)
    m, v = mean(u, g), mean_square(u, g)
    m_hat = corrected_mean(u, m, g, bool(nesterov))

    beta2, t = u.hyper("beta2"), u.let("t", u.step + 1)
    c2 = correction(u, "beta2", "c2")
    rho_inf = u.let("rho_inf", 2 / (1 - beta2) - 1)
    rho = u.let("rho", rho_inf - 2 * t * beta2**t / c2)
    rectified = rho > 5 if threshold == "five" else rho >= u.hyper("threshold")
    share = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    # Where the step is not rectified the share may be negative, and is not used.
    r = u.let("r", sqrt(where(rectified, share, 1.0)))

    if eps == "hat" and not eps_root:
        adaptive = u.kernel(lr * r * sqrt(c2)) * (m_hat / (sqrt(v) + epsilon))
    else:
        inner = epsilon / u.kernel(sqrt(c2)) if eps == "hat" else epsilon
        adaptive = u.kernel(lr * r) * (m_hat / (root(u, v, bool(eps_root)) + inner))
    step = where(rectified, adaptive, u.kernel(lr) * m_hat)
    return {"param": w - step, "exp_avg": m, "exp_avg_sq": v}
