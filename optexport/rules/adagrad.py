"""Adagrad.

Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", JMLR 12, diagonal form.

    s ← s + ĝ²                        η' = η / (1 + (t−1)γ)
    eps = outside   w ← w − η'·ĝ / (√s + ε)
    eps = inside    w ← w − η'·ĝ / √(s + ε)
"""

from collections.abc import Mapping

from ..ir import Value, sqrt
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import EPS, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["adagrad"]

INF = float("inf")


@family(
    "adagrad",
    options=(
        Option("eps", {"outside": "√s + ε", "inside": "√(s + ε)"}),
        Option("lr_decay", {False: "η as it is", True: "η / (1 + (t−1)·`lr_decay`)"}),
        Option(
            "decay",
            {"none": "no weight decay", "l2": "λw joins the gradient", "decoupled": "w·(1−ηλ) before the update"},
        ),
    ),
    hyperparameters=(
        LR,
        EPS,
        Hyper("lr_decay", 0.0, 0.0, INF, "γ: how the learning rate falls with the step", 0.0),
        WEIGHT_DECAY,
        Hyper("initial_accumulator_value", 0.0, 0.0, INF, "what the accumulator starts at"),
    ),
    slots=(Slot("sum", "sum s of squared gradients", init="initial_accumulator_value"),),
    source="torch/optim/adagrad.py; mxnet/optimizer/adagrad.py; onnx/defs/training/defs.cc (Adagrad)",
)
def adagrad(
    u: Update, *, eps: OptionValue, lr_decay: OptionValue, decay: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """The gradient over the root of the sum of all squared gradients."""
    lr, epsilon = u.kernel(u.hyper("lr")), u.kernel(u.hyper("eps"))
    g, w = gradient(u, decay), decay_first(u, decay)
    s = u.slot("sum") + g * g
    denominator = sqrt(s) + epsilon if eps == "outside" else sqrt(s + epsilon)
    rate = lr / (1 + u.step * u.hyper("lr_decay")) if lr_decay else lr
    return {"param": w - rate * (g / u.let("denominator", denominator)), "sum": s}
