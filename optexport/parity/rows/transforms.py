"""Rows of what every family has: clipping by norm, accumulation, averages."""

from ..record import keras

__all__ = ["ROWS"]

ROWS = [
    keras("SGD", "norm of each gradient", learning_rate=0.1, momentum=0.9, clipnorm=0.7, weight_decay=0.1),
    keras("Adam", "norm of all gradients", learning_rate=0.01, global_clipnorm=1.5),
    keras(
        "Adam",
        "accumulation, loss scale and clip",
        learning_rate=0.01,
        gradient_accumulation_steps=3,
        global_clipnorm=0.9,
        loss_scale_factor=4.0,
        weight_decay=0.1,
    ),
    keras("SGD", "average", learning_rate=0.1, use_ema=True, ema_momentum=0.8),
    keras(
        "RMSprop",
        "average that overwrites, accumulation",
        learning_rate=0.01,
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=3,
        gradient_accumulation_steps=3,
    ),
]
