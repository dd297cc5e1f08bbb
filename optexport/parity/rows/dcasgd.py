"""Rows of the dcasgd family."""

from ..record import mxnet

__all__ = ["ROWS"]

ROWS = [
    mxnet("dcasgd", "plain", learning_rate=0.1),
    mxnet(
        "dcasgd",
        "decay, clip, rescale",
        learning_rate=0.1,
        lamda=0.5,
        wd=0.1,
        clip_gradient=0.3,
        rescale_grad=0.5,
    ),
]
