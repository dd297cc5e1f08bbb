"""Stochastic gradient descent: plain, heavy ball, Nesterov.

Polyak 1964 (heavy ball); Sutskever et al. 2013, "On the importance of initialization and momentum
in deep learning" (Nesterov's method as a momentum rule).

    unfolded   B ← μB + (1−τ)ĝ      w ← w − ηB              Nesterov  w ← w − η(ĝ + μB)
    folded     M ← μM − ηĝ          w ← w + M               Nesterov  w ← w + μM − ηĝ

Folding puts the learning rate into the buffer. With a constant η the two are the same run
(M = −ηB); when η changes they are not.
"""

from collections.abc import Mapping

from ..ir import Value, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import DECAY, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["sgd"]


@family(
    "sgd",
    options=(
        Option(
            "momentum",
            {
                "none": "no momentum, no state",
                "unfolded": "the buffer holds gradients; the learning rate multiplies it (PyTorch, Optax, ONNX)",
                "folded": "the buffer holds displacements, each with its own step's learning rate (MXNet, Keras)",
            },
        ),
        Option(
            "nesterov",
            {
                "none": "heavy ball",
                "lookahead": "the step taken is ĝ + μ·(new buffer)",
                "lookahead_reread": "as lookahead, but the stored buffer decays the *new* parameter (MXNet NAG)",
            },
        ),
        Option(
            "dampening",
            {
                "none": "the buffer takes ĝ whole",
                "always": "it takes (1−τ)ĝ",
                "not_first": "it takes (1−τ)ĝ, but ĝ whole at the first update",
            },
        ),
        DECAY,
    ),
    hyperparameters=(
        LR,
        Hyper("momentum", 0.9, 0.0, float("inf"), "momentum coefficient μ", 0.0),
        Hyper("dampening", 0.0, -float("inf"), 1.0, "dampening τ", 0.0),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot(
            "momentum_buffer", "accumulated gradients, or displacements where the learning rate is folded in"
        ),
    ),
    source="torch/optim/sgd.py; mxnet src/operator/optimizer_op-inl.h; keras/src/optimizers/sgd.py; "
    "onnx/defs/training/defs.cc (Momentum)",
)
def sgd(
    u: Update,
    *,
    momentum: OptionValue,
    nesterov: OptionValue,
    dampening: OptionValue,
    decay: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """w − ηĝ, with a memory of past gradients."""
    lr = u.kernel(u.hyper("lr"))
    g, w = gradient(u, decay), decay_first(u, decay)
    if momentum == "none":
        return {"param": w - lr * g}

    mu, b = u.kernel(u.hyper("momentum")), u.slot("momentum_buffer")
    gain = _gain(u, dampening)
    fresh = g if gain is None else gain * g
    if momentum == "unfolded":
        b = mu * b + fresh
        return {"param": w - lr * (b if nesterov == "none" else g + mu * b), "momentum_buffer": b}

    b = mu * b - lr * fresh
    if nesterov == "none":
        return {"param": w + b, "momentum_buffer": b}
    w = w + mu * b - lr * g
    if nesterov == "lookahead_reread" and decay == "l2":
        # MXNet's kernel has written w when it stores the momentum, so λ meets the new parameter.
        b = b - lr * (u.kernel(u.hyper("weight_decay")) * (w - u.param))
    return {"param": w, "momentum_buffer": b}


def _gain(u: Update, dampening: OptionValue) -> Value | None:
    """What the buffer takes of the gradient, None for all of it."""
    if dampening == "none":
        return None
    gain = 1 - u.kernel(u.hyper("dampening"))
    return gain if dampening == "always" else where(u.step.equals(0), 1.0, gain)
