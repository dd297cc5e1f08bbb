"""LBSGD: SGD that gathers several gradients into one large batch, with a warm-up of the rate.

Goyal et al. 2017, "Accurate, Large Minibatch SGD" (arXiv:1706.02677; warm-up); You, Gitman &
Ginsburg 2017, "Large Batch Training of Convolutional Networks" (arXiv:1708.03888; ``lars``).

    G ← G + g                                  N ← first_call + t, never reset
    every B-th call (N divisible by B):        ḡ = G/B,  ĝ = C(rḡ) + λw,  G ← 0
        w ← w − ηκĝ                            or M ← μM − ηκĝ, w ← w + M

    linear   κ = 1 + (B−1)·N/W                 up to N = W, then B
    power2   κ = 1 + (B−1)·(N/W)²
    sqrt     κ = 1 + (B−1)·√(N/W)
    none     κ = 1
    lars     κ = √(‖w‖² / (‖ḡ‖² + λ‖w‖²)), in [0.01, 100], at every N
"""

from collections.abc import Mapping

from ..ir import Value, floor, maximum, minimum, sqrt, total, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import LR, WEIGHT_DECAY, gradient

__all__ = ["lbsgd"]

INF = float("inf")


@family(
    "lbsgd",
    options=(
        Option(
            "momentum",
            {
                "none": "no momentum",
                "folded": "the buffer holds displacements, each with its own update's learning rate",
            },
        ),
        Option("decay", {"none": "no weight decay", "l2": "λw joins the gathered gradient"}),
        Option(
            "warmup",
            {
                "linear": "κ rises linearly",
                "power2": "κ rises with the square",
                "sqrt": "κ rises with the root",
                "none": "κ is 1, and B after the warm-up",
                "lars": "κ follows the norms of parameter and gradient",
            },
        ),
    ),
    hyperparameters=(
        LR,
        Hyper("momentum", 0.9, 0.0, INF, "momentum coefficient μ", 0.0),
        WEIGHT_DECAY,
        Hyper("batch_scale", 1.0, 1.0, INF, "B: gradients in a batch"),
        Hyper("warmup_calls", 160.0, 0.0, INF, "W: calls that the warm-up lasts"),
        Hyper("first_call", 0.0, 0.0, INF, "calls that count as made before the first"),
    ),
    slots=(
        Slot("momentum_buffer", "M: displacements"),
        Slot("cum_grad", "G: gradients gathered since the last update"),
    ),
    source="mxnet/optimizer/optimizer.py (LBSGD)",
)
def lbsgd(
    u: Update, *, momentum: OptionValue, decay: OptionValue, warmup: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """SGD on gathered gradients."""
    scale, call = u.hyper("batch_scale"), u.let("call", u.hyper("first_call") + (u.step + 1))
    due = (call - scale * floor(call / scale)).equals(0)
    gathered = u.slot("cum_grad") + u.grad
    u.grad = u.let("g_mean", gathered / scale)
    factor = _lars(u, decay) if warmup == "lars" else _ramp(u, warmup, call, scale)
    lr = u.kernel(u.let("step_size", u.hyper("lr") * factor))
    g, w = gradient(u, decay), u.param
    new = {"cum_grad": where(due, 0.0, gathered)}
    if momentum == "none":
        return {"param": where(due, w - lr * g, w), **new}
    b = u.slot("momentum_buffer")
    moved = u.kernel(u.hyper("momentum")) * b - lr * g
    return {"param": where(due, w + moved, w), "momentum_buffer": where(due, moved, b), **new}


def _ramp(u: Update, warmup: OptionValue, call: Value, scale: Value) -> Value:
    """κ of a warm-up over `warmup_calls`."""
    calls = u.hyper("warmup_calls")
    length = maximum(calls, 1.0)
    rise: Value | float = 1.0
    if warmup == "linear":
        rise = 1 + (scale - 1) * call / length
    elif warmup == "power2":
        rise = 1 + (scale - 1) * (call * call) / (length * length)
    elif warmup == "sqrt":
        rise = 1 + (scale - 1) * sqrt(call / length)
    return where(call >= calls, scale, rise)


def _lars(u: Update, decay: OptionValue) -> Value:
    """κ from the norms of the parameter and of the raw mean gradient."""
    weights, gradients = total(u.param * u.param), total(u.grad * u.grad)
    if decay == "l2":
        gradients = gradients + u.hyper("weight_decay") * weights
    return minimum(maximum(sqrt(weights / (gradients + 1e-18)), 0.01), 100.0)
