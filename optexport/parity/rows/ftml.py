"""Rows of the ftml family."""

from ..record import correction32, mxnet

__all__ = ["ROWS"]

ROWS = [
    mxnet("ftml", "plain", learning_rate=0.01, floor32=correction32(0.999)),
    mxnet(
        "ftml",
        "decay inside the clip, large eps",
        learning_rate=0.1,
        beta1=0.4,
        beta2=0.9,
        epsilon=1e-2,
        wd=0.1,
        clip_gradient=0.5,
        rescale_grad=0.5,
    ),
]
