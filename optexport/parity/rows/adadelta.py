"""Rows of the adadelta family."""

from ..record import F32, PADDLE_DECAY, STATE32, keras, mlx, mxnet, optax, paddle, torch

__all__ = ["ROWS"]

ROWS = [
    torch("Adadelta", "defaults", lr=1.0),
    torch(
        "Adadelta", "decay, ascent and large eps", lr=0.5, rho=0.8, eps=1e-2, weight_decay=0.1, maximize=True
    ),
    optax("adadelta", "plain", learning_rate=1.0),
    optax("adadelta", "decay and large eps", learning_rate=0.5, rho=0.8, eps=1e-2, weight_decay=0.1),
    mxnet("adadelta", "plain", F32, STATE32, learning_rate=0.1),
    mxnet(
        "adadelta",
        "decay, clip, rescale",
        F32,
        STATE32,
        learning_rate=0.1,
        rho=0.8,
        epsilon=1e-3,
        wd=0.01,
        clip_gradient=0.3,
        rescale_grad=0.5,
    ),
    keras("Adadelta", "defaults", learning_rate=1.0),
    keras(
        "Adadelta",
        "decay and clip",
        learning_rate=0.5,
        rho=0.8,
        epsilon=1e-2,
        weight_decay=0.1,
        clipvalue=0.4,
    ),
    mlx("AdaDelta", "defaults", learning_rate=1.0),
    mlx("AdaDelta", "large eps", learning_rate=0.5, rho=0.8, eps=1e-3),
    paddle("Adadelta", "defaults", learning_rate=1.0),
    paddle(
        "Adadelta",
        "L2 and large eps",
        learning_rate=0.5,
        rho=0.8,
        epsilon=1e-3,
        weight_decay=0.1,
        floor=PADDLE_DECAY,
    ),
]
