"""SignSGD and Signum.

Bernstein et al. 2018, "signSGD: Compressed Optimisation for Non-Convex Problems"
(arXiv:1802.04434), algorithms 1 and 2.

    none       w ← w − η·sign(ĝ)
    average    e ← μe + (1−μ)ĝ      w ← w − η·sign(e)
    negated    M ← μM − (1−μ)ĝ      w ← w + η·sign(M)
"""

from collections.abc import Mapping

from ..ir import Value, sign
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import DECAY, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["signum"]

INF = float("inf")


@family(
    "signum",
    options=(
        Option(
            "momentum",
            {
                "none": "the sign of the gradient, no state",
                "average": "the sign of the gradients' running mean (Optax)",
                "negated": "the sign of their negated running mean, which is added (MXNet)",
            },
        ),
        DECAY,
        Option(
            "wd_lh", {False: "nothing more", True: "w·(1−η·`wd_lh`) before the update (MXNet)"}, default=False
        ),
    ),
    hyperparameters=(
        LR,
        Hyper("momentum", 0.9, 0.0, 1.0, "decay rate μ of the running mean", 0.0, below=True),
        WEIGHT_DECAY,
        Hyper("wd_lh", 0.0, -INF, INF, "decoupled decay beside an L2 one (Loshchilov & Hutter)", 0.0),
    ),
    slots=(Slot("momentum_buffer", "running mean of the gradient, or its negation"),),
    source="mxnet src/operator/optimizer_op-inl.h (SignSGD, Signum); optax/_src/alias.py (sign_sgd, signum)",
)
def signum(
    u: Update, *, momentum: OptionValue, decay: OptionValue, wd_lh: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """One learning rate for every element, whatever its gradient's size."""
    lr = u.kernel(u.hyper("lr"))
    g, w = gradient(u, decay), decay_first(u, decay)
    if wd_lh:
        w = w * (1 - lr * u.kernel(u.hyper("wd_lh")))
    if momentum == "none":
        return {"param": w - lr * sign(g)}
    mu, b = u.kernel(u.hyper("momentum")), u.slot("momentum_buffer")
    if momentum == "average":
        b = mu * b + (1 - mu) * g
        return {"param": w - lr * sign(b), "momentum_buffer": b}
    b = mu * b - (1 - mu) * g
    return {"param": w + lr * sign(b), "momentum_buffer": b}
