"""LARS: momentum SGD, its rate fitted to each layer's weights.

You, Gitman & Ginsburg 2017, "Large Batch Training of Convolutional Networks" (arXiv:1708.03888),
Algorithm 1.

    norms = parts    η_L = η·c·‖w‖ / (|r|‖g‖ + λ‖w‖ + ε)    of the gradient before any clip (the paper)
    norms = sum      η_L = η·c·‖w‖ / (‖ĝ‖ + ε)               ĝ with its decay λw
    M ← μM − η_L·ĝ          w ← w + M                        Nesterov  w ← w + μM − η_L·ĝ

η_L is η where ‖w‖ or ‖g‖ is 0, and everywhere with trust = none (MXNet's gamma, beta and bias).
"""

from collections.abc import Mapping

from ..ir import FLOAT32, FLOAT64, Value, absolute, cast, minimum, norm, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import LR, WEIGHT_DECAY, gradient

__all__ = ["lars"]

INF = float("inf")


@family(
    "lars",
    options=(
        Option(
            "trust",
            {
                "layer": "each layer's rate is fitted to its norms",
                "none": "the rate is η (MXNet, for names that end in gamma, beta or bias)",
            },
        ),
        Option(
            "norms",
            {
                "parts": "|r|‖g‖ + λ‖w‖ + ε, of the gradient before any clip (Algorithm 1; MXNet)",
                "sum": "‖ĝ‖ + ε, decay and clip included (Optax)",
            },
        ),
        Option(
            "momentum",
            {
                "none": "no momentum, no state",
                "folded": "the buffer holds displacements, each with its own step's rate",
            },
        ),
        Option("nesterov", {"none": "heavy ball", "lookahead": "the step taken is μ·(new buffer) − η_L·ĝ"}),
        Option("decay", {"none": "no weight decay", "l2": "λw joins the gradient"}),
    ),
    hyperparameters=(
        LR,
        Hyper("momentum", 0.9, 0.0, INF, "momentum coefficient μ", 0.0),
        Hyper("trust_coefficient", 1e-3, -INF, INF, "trust coefficient c"),
        Hyper("eps", 0.0, 0.0, INF, "ε in the denominator", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(Slot("momentum_buffer", "displacements, the rates folded in"),),
    source="mxnet/optimizer/optimizer.py (LARS), src/operator/contrib/multi_lars-inl.h; optax/_src/alias.py (lars)",
)
def lars(
    u: Update,
    *,
    trust: OptionValue,
    norms: OptionValue,
    momentum: OptionValue,
    nesterov: OptionValue,
    decay: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """w − η_L·ĝ, with a memory of past steps."""
    w, g = u.param, gradient(u, decay)
    rate = u.kernel(u.hyper("lr"))
    if trust == "layer":
        rate = _layer_rate(u, rate, g, norms, decay)
    step = rate * g
    if momentum == "none":
        return {"param": w - step}
    mu = u.kernel(u.hyper("momentum"))
    b = mu * u.slot("momentum_buffer") - step
    return {"param": w + b if nesterov == "none" else w + (mu * b - step), "momentum_buffer": b}


def _layer_rate(u: Update, lr: Value, g: Value, norms: OptionValue, decay: OptionValue) -> Value:
    """η_L; in the kernel's float32 where it has one."""
    narrow = u.options["scalars"] == "float32"

    def number(x: Value) -> Value:
        return cast(x, FLOAT32) if narrow else x

    w_norm, eps = number(norm(u.param)), number(u.hyper("eps"))
    if norms == "parts":
        length = g_norm = number(norm(u.grad))
        if u.options["rescale"]:
            length = length * number(absolute(u.hyper("rescale_grad")))
        if decay == "l2":
            length = length + number(u.hyper("weight_decay")) * w_norm
    else:
        length = g_norm = number(norm(g))
    fitted = number(lr) * number(u.hyper("trust_coefficient")) * w_norm / (length + eps)
    rate = where(minimum(w_norm, g_norm).equals(0), number(lr), fitted)
    return u.let("layer_rate", cast(rate, FLOAT64) if narrow else rate)
