"""AdaBelief.

Zhuang et al. 2020, "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients"
(arXiv:2010.07468), Algorithm 2: the mean square is that of the surprise.

    m ← β1·m + (1−β1)·ĝ                          c1 = 1 − β1ᵗ
    s ← β2·s + (1−β2)·(ĝ − m)² + ε_root          c2 = 1 − β2ᵗ
    w ← w − η·(m/c1) / (√(s/c2) + ε)

ε_root is in the state: it adds up.
"""

from collections.abc import Mapping

from ..ir import Value, sqrt
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, LR, WEIGHT_DECAY, decay_first, gradient
from .moments import corrected_mean, correction, mean, mean_square

__all__ = ["adabelief"]

INF = float("inf")


@family(
    "adabelief",
    options=(
        DECAY,
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
        Hyper("eps", 1e-16, 0.0, INF, "ε beside the corrected root", 0.0),
        Hyper("eps_root", 1e-16, 0.0, INF, "ε in the mean square", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_avg_var", "running mean s of its squared distance from m"),
    ),
    source="optax/_src/transform.py (scale_by_belief)",
)
def adabelief(
    u: Update, *, decay: OptionValue, nesterov: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """A long step where the gradient is what the mean foretold."""
    g, w = gradient(u, decay), decay_first(u, decay)
    m = mean(u, g)
    s = mean_square(u, u.let("surprise", g - m), "exp_avg_var") + u.kernel(u.hyper("eps_root"))
    m_hat = corrected_mean(u, m, g, bool(nesterov))
    root = sqrt(s / u.kernel(correction(u, "beta2", "c2")))
    w = w - u.kernel(u.hyper("lr")) * (m_hat / u.let("denominator", root + u.kernel(u.hyper("eps"))))
    return {"param": w, "exp_avg": m, "exp_avg_var": s}
