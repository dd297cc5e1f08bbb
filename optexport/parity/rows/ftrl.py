"""Rows of the ftrl family."""

from ..record import F32, STATE32, keras, mxnet

__all__ = ["ROWS"]

ROWS = [
    mxnet("ftrl", "plain", F32, STATE32, learning_rate=0.1, wd=0.05),
    mxnet(
        "ftrl",
        "both penalties, clip, rescale",
        F32,
        STATE32,
        learning_rate=0.3,
        lamda1=0.2,
        beta=0.5,
        wd=0.3,
        clip_gradient=0.5,
        rescale_grad=0.5,
    ),
    keras(
        "Ftrl",
        "both penalties",
        learning_rate=0.1,
        l1_regularization_strength=0.2,
        l2_regularization_strength=0.1,
        beta=0.5,
    ),
    keras(
        "Ftrl",
        "shrinkage and power",
        learning_rate=0.3,
        learning_rate_power=-0.6,
        initial_accumulator_value=0.5,
        l1_regularization_strength=0.1,
        l2_regularization_strength=0.05,
        l2_shrinkage_regularization_strength=0.1,
        weight_decay=0.1,
        beta=0.2,
    ),
]
