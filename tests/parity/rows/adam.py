"""Rows of the adam family."""

from tests.parity.record import ADAM_TEXT, keras, mxnet, onnx, ort, torch

ROWS = [
    torch("Adam", "defaults", lr=0.001),
    torch("Adam", "L2 and large eps", lr=0.01, weight_decay=0.1, eps=1e-3),
    torch("Adam", "amsgrad and ascent", lr=0.01, amsgrad=True, maximize=True, betas=(0.5, 0.9)),
    torch("AdamW", "decay and changed betas", lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)),
    torch("AdamW", "huge lr", lr=10.0, weight_decay=0.01, eps=1e-2),
    torch("AdamW", "amsgrad", lr=0.01, weight_decay=0.1, amsgrad=True),
    mxnet("adam", "defaults", learning_rate=0.001, floor=0.001 * ADAM_TEXT),
    mxnet(
        "adam",
        "decay inside the clip",
        learning_rate=0.01,
        wd=0.1,
        epsilon=1e-3,
        rescale_grad=0.3,
        clip_gradient=0.5,
        floor=0.01 * ADAM_TEXT,
    ),
    mxnet(
        "adam",
        "counting from 10",
        learning_rate=0.01,
        begin_num_update=10,
        beta1=0.5,
        beta2=0.9,
        floor=0.01 * ADAM_TEXT,
    ),
    mxnet("adamw_update", "eta, decay, clip", learning_rate=0.01, wd=0.1, eta=0.5, clip_gradient=0.3),
    onnx("Adam", "T from 0", lr=0.01, alpha=0.9, beta=0.99, epsilon=1e-3, norm_coefficient=0.1, t0=0),
    onnx("Adam", "T from 1, post decay", lr=0.01, alpha=0.8, beta=0.9, norm_coefficient_post=0.01, t0=1),
    ort("AdamWOptimizer", "mode 0", lr=0.01, weight_decay=0.1, adam_mode=0, epsilon=1e-4),
    ort(
        "AdamWOptimizer", "mode 1", lr=0.01, weight_decay=0.1, adam_mode=1, alpha=0.8, beta=0.95, epsilon=1e-4
    ),
    ort(
        "AdamWOptimizer",
        "mode 1 uncorrected",
        lr=0.01,
        weight_decay=0.1,
        adam_mode=1,
        correct_bias=0,
        epsilon=1e-3,
    ),
    keras("Adam", "defaults", learning_rate=0.001),
    keras("Adam", "amsgrad and large eps", learning_rate=0.01, amsgrad=True, epsilon=1e-3, beta_2=0.9),
    keras("AdamW", "decay and changed betas", learning_rate=0.01, weight_decay=0.1, beta_1=0.8, beta_2=0.95),
]
