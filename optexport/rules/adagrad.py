"""Adagrad.

Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", JMLR 12, diagonal form.

    s ← s + ĝ²                        η' = η / (1 + (t−1)γ)
    eps = outside   w ← w − η'·ĝ / (√s + ε)
    eps = inside    w ← w − η'·ĝ / √(s + ε)
"""

from collections.abc import Mapping

from ..ir import Value, sqrt, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import DECAY, EPS, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["adagrad"]

INF = float("inf")


@family(
    "adagrad",
    options=(
        Option("eps", {"outside": "√s + ε", "inside": "√(s + ε)"}),
        Option(
            "lr_decay",
            {
                "none": "η as it is",
                "from_zero": "η / (1 + (t−1)·`lr_decay`): the first update has all of η",
                "from_one": "η / (1 + t·`lr_decay`) (ONNX with T = 1 first)",
            },
        ),
        DECAY,
        Option(
            "empty",
            {
                "divided": "where s is 0 the quotient is what division makes of it",
                "zero": "where s is 0 nothing moves (Optax)",
            },
            default="divided",
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
    u: Update,
    *,
    eps: OptionValue,
    lr_decay: OptionValue,
    decay: OptionValue,
    empty: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """The gradient over the root of the sum of all squared gradients."""
    lr, epsilon = u.kernel(u.hyper("lr")), u.kernel(u.hyper("eps"))
    g, w = gradient(u, decay), decay_first(u, decay)
    s = u.slot("sum") + g * g
    denominator = sqrt(s) + epsilon if eps == "outside" else sqrt(s + epsilon)
    rate = lr
    if lr_decay != "none":
        count = u.step if lr_decay == "from_zero" else u.step + 1
        rate = lr / (1 + count * u.hyper("lr_decay"))
    direction = g / u.let("denominator", denominator)
    if empty == "zero":
        direction = where(s > 0, direction, 0.0)
    return {"param": w - rate * direction, "sum": s}
