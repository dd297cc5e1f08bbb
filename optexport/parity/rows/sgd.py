"""Rows of the sgd family."""

from ..record import PADDLE_DECAY, keras, mlx, mxnet, onnx, optax, ort, paddle, torch

__all__ = ["ROWS"]

ROWS = [
    optax("sgd", "plain", learning_rate=0.1),
    optax("sgd", "momentum", learning_rate=0.1, momentum=0.9),
    optax("sgd", "nesterov", learning_rate=0.05, momentum=0.5, nesterov=True),
    torch("SGD", "plain", lr=0.1),
    torch("SGD", "huge lr", lr=1e3, momentum=0.5),
    torch("SGD", "momentum and decay", lr=0.1, momentum=0.9, weight_decay=0.1),
    torch("SGD", "dampening", lr=0.1, momentum=0.9, dampening=0.3),
    torch(
        "SGD", "dampening and ascent", lr=0.05, momentum=0.5, dampening=0.9, maximize=True, weight_decay=0.01
    ),
    torch("SGD", "nesterov", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    mxnet("sgd", "plain and decay", learning_rate=0.1, wd=0.01),
    mxnet(
        "sgd",
        "momentum, rescale, clip",
        learning_rate=0.1,
        momentum=0.9,
        wd=0.1,
        rescale_grad=0.5,
        clip_gradient=0.3,
    ),
    mxnet("sgd", "huge lr", learning_rate=1e3, momentum=0.5),
    mxnet("nag", "decay", learning_rate=0.1, momentum=0.9, wd=0.1),
    mxnet(
        "nag",
        "clip and rescale",
        learning_rate=0.1,
        momentum=0.9,
        wd=0.1,
        rescale_grad=0.3,
        clip_gradient=0.3,
    ),
    onnx("Momentum", "T from 0", lr=0.1, alpha=0.9, beta=0.5, norm_coefficient=0.1, t0=0),
    onnx("Momentum", "T from 1, nesterov", lr=0.1, alpha=0.9, beta=0.7, mode="nesterov", t0=1),
    ort("SGDOptimizerV2", "plain", lr=0.1),
    keras("SGD", "plain and decay", learning_rate=0.1, weight_decay=0.1),
    keras("SGD", "momentum", learning_rate=0.1, momentum=0.9, weight_decay=0.1, clipvalue=0.4),
    keras("SGD", "nesterov", learning_rate=0.1, momentum=0.8, nesterov=True, loss_scale_factor=4.0),
    mlx("SGD", "plain", learning_rate=0.1),
    mlx("SGD", "L2 and heavy ball", learning_rate=0.1, momentum=0.9, weight_decay=0.01),
    mlx("SGD", "dampening", learning_rate=0.1, momentum=0.9, dampening=0.5),
    mlx("SGD", "Nesterov and L2", learning_rate=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    mlx("SGD", "L2 alone", learning_rate=0.1, weight_decay=0.1),
    paddle("SGD", "plain", learning_rate=0.1),
    paddle("SGD", "L2", learning_rate=0.1, weight_decay=0.01, floor=PADDLE_DECAY),
    paddle("Momentum", "defaults", learning_rate=0.1),
    paddle(
        "Momentum",
        "Nesterov, L2",
        learning_rate=0.1,
        momentum=0.8,
        use_nesterov=True,
        weight_decay=0.1,
    ),
    paddle("Momentum", "L2", learning_rate=0.1, weight_decay=0.1),
    paddle("Momentum", "Nesterov", learning_rate=0.1, use_nesterov=True),
]
