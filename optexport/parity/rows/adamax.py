"""Rows of the adamax family."""

from ..record import PADDLE_DECAY, correction32, keras, mlx, mxnet, optax, paddle, torch

__all__ = ["ROWS"]

# MXNet divides 0 by 0 where an element's gradients were all 0: NaN, in the rule as well.
ROWS = [
    torch("Adamax", "L2 and large eps", lr=0.01, weight_decay=0.1, eps=1e-2),
    torch("Adamax", "ascent and changed betas", lr=0.1, betas=(0.5, 0.9), maximize=True),
    optax("adamax", "large eps", learning_rate=0.01, eps=1e-2),
    optax("adamaxw", "decay and changed betas", learning_rate=0.01, weight_decay=0.1, b1=0.5, b2=0.9),
    mxnet("adamax", "decay", learning_rate=0.01, wd=0.1),
    mxnet(
        "adamax",
        "decay inside the clip, changed betas",
        learning_rate=0.01,
        beta1=0.5,
        beta2=0.9,
        wd=0.1,
        rescale_grad=0.3,
        clip_gradient=0.3,
    ),
    keras("Adamax", "decay and large eps", learning_rate=0.01, weight_decay=0.1, epsilon=1e-2),
    keras("Adamax", "changed betas and clip", learning_rate=0.1, beta_1=0.5, beta_2=0.9, clipvalue=0.3),
    mlx("Adamax", "defaults", learning_rate=0.002),
    mlx("Adamax", "large eps, changed betas", learning_rate=0.01, betas=(0.5, 0.9), eps=1e-2),
    paddle("Adamax", "defaults", learning_rate=0.002, floor=correction32(0.9)),
    paddle(
        "Adamax",
        "L2 and large eps",
        learning_rate=0.01,
        beta1=0.5,
        beta2=0.9,
        epsilon=1e-2,
        weight_decay=0.1,
        floor=PADDLE_DECAY + correction32(0.5),
    ),
]
