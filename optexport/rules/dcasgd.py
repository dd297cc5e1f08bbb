"""DC-ASGD: SGD with delay compensation.

Zheng et al. 2017, "Asynchronous Stochastic Gradient Descent with Delay Compensation", ICML
(arXiv:1609.08326), equation 10; w_prev is the parameter that the gradient was taken at.

    w ← w − η(ĝ + λw + λ0·ĝ²·(w − w_prev))       w_prev ← w before the update
"""

from collections.abc import Mapping

from ..ir import Value
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import LR, WEIGHT_DECAY, gradient

__all__ = ["dcasgd"]

INF = float("inf")


@family(
    "dcasgd",
    options=(
        Option("decay", {"none": "no weight decay", "l2": "λw joins the gradient, but not its square"}),
    ),
    hyperparameters=(
        LR,
        Hyper("lamda", 0.04, -INF, INF, "λ0: how much of the delay is compensated", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(Slot("previous_weight", "the parameter before the last update", init="param"),),
    source="mxnet/optimizer/optimizer.py (DCASGD)",
)
def dcasgd(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """SGD whose gradient is moved to where the parameter has gone meanwhile."""
    lr, lamda, g, w = u.kernel(u.hyper("lr")), u.kernel(u.hyper("lamda")), gradient(u, "none"), u.param
    delayed = lamda * (g * g) * (w - u.slot("previous_weight"))
    pull = g + u.kernel(u.hyper("weight_decay")) * w if decay == "l2" else g
    return {"param": w - lr * (pull + delayed), "previous_weight": w}
