"""FTRL-Proximal: follow the regularized leader.

McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", KDD, algorithm 1.

    n' = n + ĝ²
    z' = z + ĝ − (√n' − √n)/η · w
    w' = 0                                       where |z'| ≤ λ1
    w' = (sign(z')λ1 − z') / ((β + √n')/η + λ2)  elsewhere

Shrinkage adds 2λs·w to the gradient that z takes, and not to the one that n takes. Any power p of n
may stand in the place of √n = n^½.
"""

from collections.abc import Mapping

from ..ir import Value, maximum, minimum, sqrt
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import WEIGHT_DECAY, decay_first, gradient

__all__ = ["ftrl"]

INF = float("inf")


@family(
    "ftrl",
    options=(
        Option("power", {"root": "√n", "free": "n^`power`"}, default="root"),
        Option("shrinkage", {False: "z takes ĝ", True: "z takes ĝ + 2·`shrinkage`·w"}, default=False),
        Option("decay", {"none": "no weight decay", "decoupled": "w·(1−ηλ) before the update"}),
    ),
    hyperparameters=(
        Hyper("lr", 0.1, -INF, INF, "learning rate of this step"),
        Hyper("l1", 0.01, 0.0, INF, "λ1: where |z| does not exceed it the parameter is 0", 0.0),
        Hyper("l2", 0.0, -INF, INF, "λ2: added to the denominator", 0.0),
        Hyper("beta", 1.0, 0.0, INF, "β: what every learning rate falls from", 0.0),
        Hyper("power", 0.5, 0.0, INF, "exponent p of the accumulator", 0.5),
        Hyper("shrinkage", 0.0, 0.0, INF, "λs: L2 decay that only z sees", 0.0),
        WEIGHT_DECAY,
        Hyper("initial_accumulator_value", 0.0, 0.0, INF, "what the accumulator starts at"),
    ),
    slots=(
        Slot("linear", "z: gradients, each less what the parameter has taken of them"),
        Slot("accumulator", "sum n of squared gradients", init="initial_accumulator_value"),
    ),
    source="mxnet src/operator/optimizer_op-inl.h (FtrlUpdate); keras/src/optimizers/ftrl.py",
)
def ftrl(
    u: Update, *, power: OptionValue, shrinkage: OptionValue, decay: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """The parameter that minimizes all past linear losses and both penalties."""

    def root(x: Value) -> Value:
        return sqrt(x) if power == "root" else x ** u.kernel(u.hyper("power"))

    lr, l1, l2, beta = (u.kernel(u.hyper(h)) for h in ("lr", "l1", "l2", "beta"))
    g, w = gradient(u, "none"), decay_first(u, decay)
    n, z = u.slot("accumulator"), u.slot("linear")
    grown = n + g * g
    taken = g + 2 * u.kernel(u.hyper("shrinkage")) * w if shrinkage else g
    z = z + taken - (root(grown) - root(n)) / lr * w
    denominator = u.let("denominator", (beta + root(grown)) / lr + l2)
    clipped = maximum(minimum(z, l1), -l1)
    return {"param": (clipped - z) / denominator, "linear": z, "accumulator": grown}
