"""Newton's method with the curvature that the caller gives.

Nocedal & Wright, "Numerical Optimization", sections 3.3 and 3.4; Becker & LeCun 1988, "Improving the
Convergence of Back-Propagation Learning with Second Order Methods", for the damped diagonal.

    diagonal    h the Hessian's diagonal            d = ĝ / c(h)
    product     h = Hg, along the gradient          d = ĝ / c(gᵀHg / gᵀg)

    denominator = added    c(h) = |h| + ε
    denominator = floor    c(h) = max(|h|, ε)
    denominator = signed   c(h) = h + ε: the step climbs where the curvature is negative

    w ← w − η·d

In one dimension of a quadratic, and along the gradient, η = 1 and ε = 0 reach the minimum at once. The
product is that of all parameters of the step, as if they were one vector.
"""

from collections.abc import Mapping

from ..ir import Value, absolute, group_sum, maximum, total, where
from .base import Hyper, Option, OptionValue, Update, family
from .common import LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["newton"]

INF = float("inf")


@family(
    "newton",
    options=(
        Option(
            "curvature",
            {
                "diagonal": "the caller gives the Hessian's diagonal",
                "product": "the caller gives the Hessian times the gradient; one step length for all",
            },
        ),
        Option(
            "denominator",
            {
                "added": "`damping` is added to the absolute curvature",
                "floor": "the absolute curvature is at least `damping`",
                "signed": "`damping` is added to the curvature with its sign (Newton's own step)",
            },
        ),
        Option(
            "decay",
            {"none": "no weight decay", "decoupled": "w·(1−ηλ) before the update"},
        ),
    ),
    hyperparameters=(LR, Hyper("damping", 1e-4, 0.0, INF, "ε beside the curvature"), WEIGHT_DECAY),
    slots=(),
    source="Nocedal & Wright, Numerical Optimization; no framework has it as an optimizer",
)
def newton(
    u: Update, *, curvature: OptionValue, denominator: OptionValue, decay: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """The gradient over the curvature."""
    lr, epsilon = u.kernel(u.hyper("lr")), u.kernel(u.hyper("damping"))
    g, w = gradient(u, "none"), decay_first(u, decay)
    h = u.tracer.hessian
    if curvature == "product":
        # Of the raw gradient, as the caller has it; a gradient of 0 has no direction and no curvature.
        square = group_sum(total(u.grad * u.grad))
        h = where(square.equals(0.0), 1.0, group_sum(total(u.grad * h)) / square)
    if denominator == "added":
        c = absolute(h) + epsilon
    elif denominator == "floor":
        c = maximum(absolute(h), epsilon)
    else:
        c = h + epsilon
    return {"param": w - lr * (g / u.let("curvature", c))}
