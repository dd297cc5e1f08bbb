"""Adadelta.

Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method" (arXiv:1212.5701), algorithm 1.

    a ← ρa + (1−ρ)ĝ²
    δ = √(d + ε) / √(a + ε) · ĝ
    d ← ρd + (1−ρ)δ²

    rate = lr       w ← w − ηδ        (the paper has η = 1)
    rate = none     w ← w − δ
    rate = ascent   w ← w + δ
"""

from collections.abc import Mapping

from ..ir import Value, sqrt
from .base import Option, OptionValue, Slot, Update, family
from .common import BETA, EPS, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["adadelta"]


@family(
    "adadelta",
    options=(
        Option(
            "rate",
            {
                "lr": "the learning rate multiplies the step",
                "none": "the step as it is: the learning rate is ignored (MXNet)",
                "ascent": "the step as it is, added: the learning rate is ignored (Optax without one)",
            },
        ),
        Option(
            "decay",
            {
                "none": "no weight decay",
                "l2": "λw joins the gradient",
                "decoupled": "w·(1−ηλ) before the update, w·(1−λ) where the learning rate is ignored",
            },
        ),
    ),
    hyperparameters=(LR, BETA("rho", 0.9, "decay rate ρ of both running averages"), EPS, WEIGHT_DECAY),
    slots=(
        Slot("square_avg", "running mean a of the squared gradient"),
        Slot("acc_delta", "running mean d of the squared step"),
    ),
    source="torch/optim/adadelta.py; mxnet/optimizer/optimizer.py (AdaDelta); keras/src/optimizers/adadelta.py",
)
def adadelta(u: Update, *, rate: OptionValue, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """The gradient in units of past steps over past gradients."""
    rho, epsilon = u.kernel(u.hyper("rho")), u.kernel(u.hyper("eps"))
    g, w = gradient(u, decay), u.param
    if decay == "decoupled":
        own = u.param * (1 - u.kernel(u.hyper("weight_decay")))
        w = decay_first(u, decay) if rate == "lr" else u.let("w_decayed", own)
    a, d = u.slot("square_avg"), u.slot("acc_delta")
    a = rho * a + (1 - rho) * (g * g)
    delta = u.let("delta", sqrt(d + epsilon) / sqrt(a + epsilon) * g)
    d = rho * d + (1 - rho) * (delta * delta)
    if rate == "lr":
        delta = u.kernel(u.hyper("lr")) * delta
    return {"param": w + delta if rate == "ascent" else w - delta, "square_avg": a, "acc_delta": d}
