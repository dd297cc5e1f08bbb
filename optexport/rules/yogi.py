"""Yogi.

Zaheer et al. 2018, "Adaptive Methods for Nonconvex Optimization" (NeurIPS), Algorithm 2: the mean
square moves by a step of ĝ², not by a share of the distance.

    m ← β1·m + (1−β1)·ĝ                     c1 = 1 − β1ᵗ
    v ← v − (1−β2)·sign(v − ĝ²)·ĝ²          c2 = 1 − β2ᵗ
    w ← w − η·(m/c1) / (√(v/c2 + ε_root) + ε)

The corrections are Optax'; the paper has none, and starts v at the first ĝ². Both m and v start at
`initial_accumulator_value`.
"""

from collections.abc import Mapping

from ..ir import Value, sign
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, LR, WEIGHT_DECAY, decay_first, gradient
from .moments import corrected_mean, mean, root

__all__ = ["yogi"]

INF = float("inf")


@family(
    "yogi",
    options=(
        DECAY,
        Option(
            "eps_root",
            {
                False: "nothing under the root beside v",
                True: "`eps_root` is added to the corrected v",
            },
            default=False,
        ),
    ),
    hyperparameters=(
        LR,
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.999, "decay rate β2 of the mean square"),
        Hyper("eps", 1e-3, 0.0, INF, "ε beside the corrected root", 0.0),
        WEIGHT_DECAY,
        Hyper("eps_root", 0.0, 0.0, INF, "ε under the root", 0.0),
        Hyper("initial_accumulator_value", 1e-6, 0.0, INF, "what both averages start at"),
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient", init="initial_accumulator_value"),
        Slot("exp_avg_sq", "mean square v", init="initial_accumulator_value"),
    ),
    source="optax/_src/transform.py (scale_by_yogi)",
)
def yogi(u: Update, *, decay: OptionValue, eps_root: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """Adam whose mean square falls slowly where gradients become small."""
    g, w = gradient(u, decay), decay_first(u, decay)
    m = mean(u, g)
    v, square = u.slot("exp_avg_sq"), g * g
    v = v - u.kernel(1 - u.hyper("beta2")) * (sign(v - square) * square)
    denominator = u.let("denominator", root(u, v, bool(eps_root)) + u.kernel(u.hyper("eps")))
    w = w - u.kernel(u.hyper("lr")) * (corrected_mean(u, m, g, nesterov=False) / denominator)
    return {"param": w, "exp_avg": m, "exp_avg_sq": v}
