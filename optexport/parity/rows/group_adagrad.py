"""Rows of the group_adagrad family."""

from ..record import F32, STATE32, mxnet

__all__ = ["ROWS"]

MATRICES = {"w": (7, 5), "u": (2, 3)}

ROWS = [
    mxnet("groupadagrad", "plain", F32, STATE32, learning_rate=0.1, shapes=MATRICES),
    mxnet(
        "groupadagrad",
        "large eps, clip, rescale",
        F32,
        STATE32,
        learning_rate=0.1,
        eps=0.1,
        clip_gradient=0.3,
        rescale_grad=0.5,
        shapes=MATRICES,
    ),
]
