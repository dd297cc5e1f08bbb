"""RMSprop.

Tieleman & Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning"; Graves 2013,
"Generating Sequences With Recurrent Neural Networks" (arXiv:1308.0850), eq. 38–45 (centered).

    n ← αn + (1−α)ĝ²
    a ← αa + (1−α)ĝ                   centered: d = n − a², else d = n
    eps = outside   u = ĝ / (√d + ε)
    eps = inside    u = ĝ / √(d + ε)

    none       w ← w − ηu
    unfolded   B ← μB + u             w ← w − ηB
    folded     B ← μB − ηu            w ← w + B
    positive   B ← μB + ηu            w ← w − B

Nesterov's step is u + μB for B (times η, or with ηu, where folded). Bias correction divides n and a
by c = 1 − αᵗ.
"""

from collections.abc import Mapping

from ..ir import Value, sqrt
from ..transforms import clip_value
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, EPS, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["rmsprop"]

INF = float("inf")


@family(
    "rmsprop",
    options=(
        Option("eps", {"outside": "√d + ε", "inside": "√(d + ε)"}),
        Option(
            "centered",
            {False: "d is the mean square", True: "d is the variance: mean square less squared mean"},
        ),
        Option(
            "momentum",
            {
                "none": "no momentum",
                "unfolded": "the learning rate multiplies the buffer (PyTorch)",
                "folded": "the learning rate is inside the buffer, which is added (MXNet, Optax)",
                "folded_positive": "the learning rate is inside the buffer, which is subtracted (Keras)",
            },
        ),
        DECAY,
        Option(
            "nesterov",
            {False: "the step is the buffer", True: "the step is u + μ·(new buffer), folded or not (Optax)"},
            default=False,
        ),
        Option(
            "bias_correction",
            {False: "running means as they are", True: "divided by c = 1 − αᵗ (Optax)"},
            default=False,
        ),
        Option(
            "clip_weights", {False: "the new parameter as it is", True: "clipped to ±`clip_weights` (MXNet)"}
        ),
    ),
    hyperparameters=(
        LR,
        BETA("alpha", 0.99, "decay rate α of the running averages"),
        EPS,
        Hyper("momentum", 0.0, 0.0, INF, "momentum coefficient μ", 0.0),
        WEIGHT_DECAY,
        Hyper("clip_weights", INF, 0.0, INF, "bound of the new parameter", INF),
    ),
    slots=(
        Slot("square_avg", "running mean n of the squared gradient"),
        Slot("grad_avg", "running mean a of the gradient"),
        Slot(
            "momentum_buffer",
            "B: normalised gradients, or displacements where the learning rate is folded in",
        ),
    ),
    source="torch/optim/rmsprop.py; mxnet src/operator/optimizer_op-inl.h (RMSProp, RMSPropAlex); "
    "keras/src/optimizers/rmsprop.py",
)
def rmsprop(
    u: Update,
    *,
    eps: OptionValue,
    centered: OptionValue,
    momentum: OptionValue,
    decay: OptionValue,
    nesterov: OptionValue,
    bias_correction: OptionValue,
    clip_weights: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """The gradient over the root of its running mean square."""
    lr, alpha, epsilon = (u.kernel(u.hyper(h)) for h in ("lr", "alpha", "eps"))
    g, w = gradient(u, decay), decay_first(u, decay)

    n = alpha * u.slot("square_avg") + (1 - alpha) * (g * g)
    new = {"square_avg": n}
    c = u.let("c", 1 - u.hyper("alpha") ** (u.step + 1)) if bias_correction else None
    d = n if c is None else n / c
    if centered:
        a = new["grad_avg"] = alpha * u.slot("grad_avg") + (1 - alpha) * g
        a = a if c is None else a / c
        d = d - a * a
    denominator = sqrt(d) + epsilon if eps == "outside" else sqrt(d + epsilon)
    direction = g / u.let("denominator", denominator)

    if momentum == "none":
        w = w - lr * direction
    else:
        mu, b = u.kernel(u.hyper("momentum")), u.slot("momentum_buffer")
        fresh = direction if momentum == "unfolded" else lr * direction
        b = mu * b - fresh if momentum == "folded" else mu * b + fresh
        step = b
        if nesterov:
            step = mu * b - fresh if momentum == "folded" else fresh + mu * b
        if momentum == "folded":
            w = w + step
        else:
            w = w - (lr * step if momentum == "unfolded" else step)
        new["momentum_buffer"] = b
    if clip_weights:
        w = clip_value(w, u.kernel(u.hyper("clip_weights")))
    return {"param": w, **new}
