"""Optimistic gradient descent, plain and with Adam's direction.

Mokhtari et al. 2019, "A Unified Analysis of Extra-gradient and Optimistic Gradient Methods for
Saddle Point Problems" (arXiv:1901.08511), generalised OGDA; Daskalakis et al. 2018, "Training GANs
with Optimism" (arXiv:1711.00141), Algorithm 1.

    w ← w − η·( (α + β)·r − β·r₋ )          r: ĝ, or Adam's direction; r₋ that of the update before
"""

from collections.abc import Mapping

from ..ir import Value, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, EPS, LR, WEIGHT_DECAY, decay_first, gradient
from .moments import corrected_mean, mean, mean_square, root

__all__ = ["optimistic"]

INF = float("inf")


@family(
    "optimistic",
    options=(
        Option(
            "direction",
            {
                "gradient": "the gradient itself",
                "adam": "Adam's corrected mean over its corrected root",
                "nadam": "the same, with Nesterov's look ahead",
            },
        ),
        DECAY,
    ),
    hyperparameters=(
        LR,
        Hyper("optimism_gain", 1.0, -INF, INF, "α, factor of the direction itself"),
        Hyper("optimism", 1.0, -INF, INF, "β, factor of its change", 0.0),
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.999, "decay rate β2 of the mean square"),
        EPS,
        Hyper("eps_root", 0.0, 0.0, INF, "ε_root, under the root", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("previous_grad", "direction r₋ of the update before"),
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_avg_sq", "running mean v of its square"),
    ),
    source="optax/_src/transform.py (scale_by_optimistic_gradient)",
)
def optimistic(
    u: Update, *, direction: OptionValue, decay: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """A step along the direction and along its change, which foresees the next one."""
    g, w = gradient(u, decay), decay_first(u, decay)
    new: dict[str, Value] = {}
    r = g
    if direction != "gradient":
        new = {"exp_avg": mean(u, g), "exp_avg_sq": mean_square(u, g)}
        ahead = corrected_mean(u, new["exp_avg"], g, nesterov=direction == "nadam")
        r = u.let("direction", ahead / (root(u, new["exp_avg_sq"], True) + u.kernel(u.hyper("eps"))))
    alpha, beta = u.kernel(u.hyper("optimism_gain")), u.kernel(u.hyper("optimism"))
    before = where(u.step.equals(0), r, u.slot("previous_grad"))
    step = (alpha + beta) * r - beta * before
    return {"param": w - u.kernel(u.hyper("lr")) * step, "previous_grad": r, **new}
