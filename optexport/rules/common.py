"""The choices that every family shares: what becomes of the raw gradient, and where decay enters.

ĝ = C(r·(±g) + λw)     the order being the option ``clip``
"""

from __future__ import annotations

from ..ir import Value
from ..transforms import clip_value, rescale
from .base import Hyper, Option, OptionValue, Update

__all__ = [
    "BETA",
    "EPS",
    "GRADIENT_HYPERPARAMETERS",
    "GRADIENT_OPTIONS",
    "LR",
    "WEIGHT_DECAY",
    "decay_first",
    "gradient",
]

INF = float("inf")

LR = Hyper("lr", 1e-3, -INF, INF, "learning rate of this step")
WEIGHT_DECAY = Hyper(
    "weight_decay", 0.0, -INF, INF, "weight decay λ; what it multiplies is the option `decay`", 0.0
)
EPS = Hyper("eps", 1e-8, 0.0, INF, "ε; where it stands is the option `eps`", 0.0)


def BETA(name: str, default: float, doc: str) -> Hyper:  # noqa: N802  (a constructor of hyperparameters)
    """A decay rate of a running average, in [0, 1)."""
    return Hyper(name, default, 0.0, 1.0, doc, below=True)


GRADIENT_OPTIONS = (
    Option("maximize", {False: "descend", True: "ascend: the gradient is negated before anything else"}),
    Option("rescale", {False: "the gradient as it is", True: "multiplied by `rescale_grad` first"}),
    Option(
        "clip",
        {
            "none": "not clipped",
            "before_decay": "elementwise to ±`clip_gradient`, L2 decay added afterwards",
            "after_decay": "elementwise to ±`clip_gradient`, L2 decay included",
        },
    ),
    Option(
        "scalars",
        {
            "float64": "scalars in double, rounded where they meet a tensor",
            "float32": "the kernel receives its scalars in float32, the step size included",
            "attributes": "hyperparameters are float32 attributes of the operator; the learning rate is not",
        },
    ),
)
GRADIENT_HYPERPARAMETERS = (
    Hyper("rescale_grad", 1.0, -INF, INF, "factor on the raw gradient", 1.0),
    Hyper("clip_gradient", INF, 0.0, INF, "bound of the elementwise clip", INF),
)


def gradient(u: Update, decay: OptionValue) -> Value:
    """The gradient as the rule's own equations see it.

    Order: sign, rescale, clip (if before decay), ``+ λw`` (if decay is ``l2``), clip (if after).
    """
    o = u.options
    g = -u.grad if o["maximize"] else u.grad
    if o["rescale"]:
        g = rescale(g, u.kernel(u.hyper("rescale_grad")))
    if o["clip"] == "before_decay":
        g = clip_value(g, u.kernel(u.hyper("clip_gradient")))
    if decay == "l2":
        g = g + u.kernel(u.hyper("weight_decay")) * u.param
    if o["clip"] == "after_decay":
        g = clip_value(g, u.kernel(u.hyper("clip_gradient")))
    return g if g.index == u.grad.index else u.let("g_eff", g)


def decay_first(u: Update, decay: OptionValue) -> Value:
    """The parameter after decoupled decay ``w·(1 − ηλ)``, or as it is."""
    if decay != "decoupled":
        return u.param
    lr, wd = u.kernel(u.hyper("lr")), u.kernel(u.hyper("weight_decay"))
    return u.let("w_decayed", u.param * (1 - lr * wd))
