"""Rows of the signum family."""

from ..record import mxnet, optax

__all__ = ["ROWS"]

ROWS = [
    mxnet("signum", "defaults", learning_rate=0.01),
    mxnet(
        "signum",
        "both decays, clip, rescale",
        learning_rate=0.1,
        momentum=0.7,
        wd=0.1,
        wd_lh=0.2,
        clip_gradient=0.3,
        rescale_grad=0.5,
    ),
    mxnet("signum", "SignSGD", learning_rate=0.01, momentum=0.0),
    mxnet(
        "signum",
        "SignSGD, decay",
        learning_rate=0.1,
        momentum=0.0,
        wd=0.1,
        clip_gradient=0.3,
        rescale_grad=-0.5,
    ),
    optax("sign_sgd", "plain", learning_rate=0.01),
    optax("sign_sgd", "huge lr", learning_rate=10.0),
    optax("signum", "plain", learning_rate=0.01),
    optax("signum", "short memory", learning_rate=0.1, beta=0.5),
]
