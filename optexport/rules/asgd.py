"""ASGD: averaged stochastic gradient descent.

Polyak & Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control
Optim. 30; schedules after Bottou's ``sgd`` ("Large-Scale Machine Learning with Stochastic Gradient
Descent", 2010).

    w ← (1 − λ0·η_t)·w − η_t·ĝ        η_t of the last update, η at the first
    a ← a + μ_t·(w − a)               μ_t of the last update, 1 at the first
    η_t ← η / (1 + λ0·η·t)^α
    μ_t ← 1 / max(1, t − t0)
"""

from collections.abc import Mapping

from ..ir import Value, maximum
from .base import Hyper, OptionValue, Slot, Update, family
from .common import L2_DECAY, LR, WEIGHT_DECAY, gradient

__all__ = ["asgd"]

INF = float("inf")


@family(
    "asgd",
    options=(L2_DECAY,),
    hyperparameters=(
        LR,
        Hyper("lambd", 1e-4, -INF, INF, "λ0: decay term", 0.0),
        Hyper("alpha", 0.75, -INF, INF, "α: how fast η_t falls", 0.0),
        Hyper("t0", 1e6, -INF, INF, "the update from which on the average is one"),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("eta", "η_t: learning rate of the next update", init="lr", shape="scalar", dtype="float32"),
        Slot("mu", "μ_t: what the next average takes", init="1", shape="scalar", dtype="float32"),
        Slot("ax", "a: average of the parameter; nothing reads it but its reader"),
    ),
    source="torch/optim/asgd.py",
)
def asgd(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """SGD with a falling rate, and the average of where it has been."""
    lr, lambd, t = u.hyper("lr"), u.hyper("lambd"), u.step + 1
    eta, mu, ax = u.slot("eta"), u.slot("mu"), u.slot("ax")
    w = u.param * (1 - lambd * eta) - eta * gradient(u, decay)
    return {
        "param": w,
        "eta": lr / (1 + lambd * lr * t) ** u.hyper("alpha"),
        "mu": 1 / maximum(t - u.hyper("t0"), 1.0),
        "ax": ax + (w - ax) * mu,
    }
