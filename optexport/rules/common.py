"""The choices that every family shares: what becomes of the raw gradient, and where decay enters.

ĝ = C(N(r·(±g)) + λw)     the order of clip C and decay being the option ``clip``, N the clip by norm

What stands around a whole update (accumulation, loss scaling, averages) is in ``wrapped.py``.
"""

from __future__ import annotations

from ..ir import Value
from ..transforms import centralize, clip_norm, clip_value, rescale
from .base import Hyper, Option, OptionValue, Slot, Update

__all__ = [
    "BETA",
    "DECAY",
    "EPS",
    "GRADIENT_HYPERPARAMETERS",
    "GRADIENT_OPTIONS",
    "L2_DECAY",
    "LR",
    "SHARED_SLOTS",
    "WEIGHT_DECAY",
    "decay_first",
    "gradient",
    "signed_and_rescaled",
]

INF = float("inf")

LR = Hyper("lr", 1e-3, -INF, INF, "learning rate of this step")
WEIGHT_DECAY = Hyper(
    "weight_decay", 0.0, -INF, INF, "weight decay λ; what it multiplies is the option `decay`", 0.0
)
EPS = Hyper("eps", 1e-8, 0.0, INF, "ε; where it stands is the option `eps`", 0.0)


L2_DECAY = Option("decay", {"none": "no weight decay", "l2": "λw joins the gradient"})
# What `gradient` and `decay_first` do with weight decay; rules with a place of their own for it say more.
DECAY = Option("decay", {**L2_DECAY.choices, "decoupled": "w·(1−ηλ) before the update"})


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
    Option(
        "clip_norm",
        {
            "none": "no norm is bounded",
            "tensor": "each gradient's norm to `max_norm`, before decay and the elementwise clip",
            "tensor_eps": "the same, `max_norm_eps` added to the norm (PyTorch, one parameter at a time)",
            "rms": "each gradient's root mean square to `max_norm` (Optax clip_by_block_rms)",
            "global": "the norm of all gradients of the step together to `max_norm` (Optax)",
            "global_eps": "the same, `max_norm_eps` added to the norm (PyTorch, MXNet)",
            "global_strict": "as global; where that norm is no finite number every gradient is NaN (Keras)",
        },
        default="none",
    ),
    Option(
        "centralize",
        {
            False: "the gradient's mean stays",
            True: "its mean over all axes but the first is taken out, before any clip; not of vectors",
        },
        default=False,
    ),
    Option(
        "accumulate",
        {
            "none": "every call is an update",
            "mean": "`accumulation_steps` calls make one, on their mean; the slot holds the sum (Keras)",
            "running_mean": "the same; the slot holds the mean so far (Optax)",
            "sum": "`accumulation_steps` calls make one, on the sum of their gradients",
        },
        default="none",
    ),
    Option(
        "overflow",
        {
            "none": "gradients are taken as they are, NaN and infinity included",
            "skip": "a call does nothing where any gradient of the step is no finite number",
            "skip_limited": "the same, but not more than `max_bad_updates` times in a row (Optax)",
            "static": "gradients are divided by `loss_scale`; as skip",
            "dynamic": "the loss scale is a slot that overflows shrink and calm calls grow (PyTorch, Keras)",
        },
        default="none",
    ),
    Option(
        "lookahead",
        {
            "none": "no slow weights",
            "sync": "slow weights follow every `sync_period` updates, and the parameter returns to them",
        },
        default="none",
    ),
    Option(
        "average",
        {
            "none": "no average of the parameter",
            "ema": "exponential, the first new parameter being the first average",
            "ema_from_start": "exponential, the parameter before the first update being the first average",
            "ema_overwrite": "as ema; every `average_period` updates the parameter becomes it (Keras)",
            "mean": "the mean of all new parameters (stochastic weight averaging)",
        },
        default="none",
    ),
)
GRADIENT_HYPERPARAMETERS = (
    Hyper("rescale_grad", 1.0, -INF, INF, "factor on the raw gradient", 1.0),
    Hyper("clip_gradient", INF, 0.0, INF, "bound of the elementwise clip", INF),
    Hyper("max_norm", INF, 0.0, INF, "bound of the norm", INF),
    Hyper("max_norm_eps", 0.0, 0.0, INF, "ε added to the norm (PyTorch 1e-6, MXNet 1e-8)", 0.0),
    Hyper("accumulation_steps", 1.0, 1.0, 2.0**31, "calls that make one update", 1.0, whole=True),
    Hyper("loss_scale", 1.0, 2.0**-126, 2.0**127, "factor of the loss; the first one where it is dynamic"),
    Hyper("growth_factor", 2.0, 1.0, INF, "what the loss scale is multiplied by after calm calls"),
    Hyper("backoff_factor", 0.5, 0.0, 1.0, "what it is multiplied by after an overflow"),
    Hyper("growth_interval", 2000.0, 1.0, 2.0**31, "calls without overflow before it grows", whole=True),
    Hyper("max_bad_updates", 0.0, 0.0, 2.0**31, "overflows in a row that are skipped", whole=True),
    Hyper("sync_period", 5.0, 1.0, 2.0**31, "updates between two of the slow weights", whole=True),
    Hyper("slow_step_size", 0.5, 0.0, 1.0, "share of the way that the slow weights go"),
    Hyper("average_decay", 0.99, 0.0, 1.0, "decay rate ρ of the average"),
    Hyper("average_period", 1.0, 1.0, 2.0**31, "updates between two overwritings", whole=True),
)
SHARED_SLOTS = (
    Slot("accumulated_grad", "gradients since the last update: their sum, or their mean so far"),
    Slot("slow_weights", "the parameter as Lookahead's slow weights have it", init="param"),
    Slot("weight_average", "average of the parameter over its updates", init="param"),
    Slot("updates", "completed calls that no overflow skipped", shape="scalar", dtype="float64"),
    Slot("bad_updates", "overflows in a row", shape="scalar", dtype="float64"),
    Slot("loss_scale", "factor of the loss", init="loss_scale", shape="scalar", dtype="float32"),
    Slot("growth_tracker", "calls since the loss scale changed", shape="scalar", dtype="float64"),
)


def signed_and_rescaled(u: Update) -> Value:
    """The raw gradient with its sign and its factor."""
    g = -u.grad if u.options["maximize"] else u.grad
    return rescale(g, u.kernel(u.hyper("rescale_grad"))) if u.options["rescale"] else g


def gradient(u: Update, decay: OptionValue) -> Value:
    """The gradient as the rule's own equations see it.

    Order: sign, rescale, centralise, clip by norm, clip (if before decay), ``+ λw`` (if decay is ``l2``), clip (if
    after).
    """
    o, g = u.options, signed_and_rescaled(u)
    if o["centralize"]:
        g = centralize(g)
    if o["clip_norm"] != "none":
        kind, bound = str(o["clip_norm"]), u.hyper("max_norm")
        eps = u.hyper("max_norm_eps") if kind.endswith("_eps") else None
        g = clip_norm(g, kind.removesuffix("_eps"), bound, eps)
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
