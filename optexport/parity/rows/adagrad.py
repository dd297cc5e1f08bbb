"""Rows of the adagrad family."""

from ..record import F32, PADDLE_DECAY, STATE32, keras, mlx, mxnet, onnx, optax, paddle, torch

__all__ = ["ROWS"]

ROWS = [
    optax("adagrad", "defaults", learning_rate=0.1),
    optax("adagrad", "nothing in the sum", learning_rate=0.1, initial_accumulator_value=0.0, eps=0.0),
    optax("adagrad", "large eps", learning_rate=1.0, initial_accumulator_value=1.0, eps=0.1),
    torch("Adagrad", "plain", lr=0.1),
    torch("Adagrad", "all", lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.1, eps=1e-3),
    mxnet(
        "adagrad",
        "decay, clip, rescale",
        F32,
        STATE32,
        learning_rate=0.1,
        wd=0.1,
        clip_gradient=0.3,
        rescale_grad=0.5,
    ),
    mxnet("adagrad", "large eps", F32, STATE32, learning_rate=0.1, eps=0.1),
    onnx("Adagrad", "T from 0", lr=0.1, decay_factor=0.1, norm_coefficient=0.1, t0=0),
    onnx("Adagrad", "T from 1", lr=0.1, decay_factor=0.1, epsilon=1e-2, t0=1),
    keras("Adagrad", "defaults", learning_rate=0.1),
    keras(
        "Adagrad",
        "decay, clip and large eps",
        learning_rate=0.1,
        weight_decay=0.1,
        initial_accumulator_value=0.3,
        epsilon=0.1,
        clipvalue=0.5,
    ),
    mlx("Adagrad", "defaults", learning_rate=0.01),
    mlx("Adagrad", "large eps", learning_rate=0.1, eps=1e-2),
    paddle("Adagrad", "defaults", learning_rate=0.01),
    paddle(
        "Adagrad",
        "L2, large eps, first accumulator",
        learning_rate=0.1,
        epsilon=1e-2,
        weight_decay=0.1,
        initial_accumulator_value=0.1,
        floor=PADDLE_DECAY,
    ),
]
