"""Rows of the nadam family."""

from ..record import PADDLE_DECAY, correction32, keras, mxnet, optax, paddle, torch

__all__ = ["ROWS"]

# Keras takes 1 − β in the variables' dtype: in float32 the rounding of β counts, as with `correction32`.
ONE = {"w": (7, 5)}

ROWS = [
    torch("NAdam", "L2 and large eps", lr=0.01, weight_decay=0.1, eps=1e-2),
    torch(
        "NAdam",
        "decoupled decay and changed betas",
        lr=0.01,
        weight_decay=0.1,
        decoupled_weight_decay=True,
        betas=(0.5, 0.9),
        momentum_decay=0.1,
    ),
    torch("NAdam", "ascent", lr=0.1, maximize=True, momentum_decay=0.5),
    mxnet("nadam", "one tensor", learning_rate=0.01, wd=0.1, epsilon=1e-2, shapes=ONE),
    mxnet("nadam", "two tensors", learning_rate=0.01, wd=0.1, epsilon=1e-2),
    mxnet(
        "nadam",
        "three tensors, decay inside the clip",
        learning_rate=0.01,
        beta1=0.8,
        beta2=0.9,
        schedule_decay=0.1,
        wd=0.1,
        rescale_grad=0.3,
        clip_gradient=0.3,
        shapes={"w": (7, 5), "b": (5,), "c": (3, 2)},
    ),
    keras(
        "Nadam",
        "decay and large eps",
        learning_rate=0.01,
        weight_decay=0.1,
        epsilon=1e-2,
        floor32=correction32(0.999),
    ),
    keras("Nadam", "changed betas and clip", learning_rate=0.1, beta_1=0.5, beta_2=0.9, clipvalue=0.3),
    optax("nadam", "root eps and changed betas", learning_rate=0.01, b1=0.5, b2=0.9, eps=1e-3, eps_root=1e-2),
    optax("nadamw", "decay and large eps", learning_rate=0.01, weight_decay=0.1, eps=1e-2),
    paddle("NAdam", "defaults", learning_rate=0.002, floor32=correction32(0.999)),
    paddle(
        "NAdam",
        "L2, momentum that rises fast",
        learning_rate=0.01,
        beta1=0.8,
        beta2=0.9,
        momentum_decay=0.5,
        weight_decay=0.1,
        epsilon=1e-2,
        floor32=correction32(0.9),
        floor=PADDLE_DECAY,
    ),
]
