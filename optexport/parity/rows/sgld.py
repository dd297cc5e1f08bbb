"""Rows of the sgld family. The noise is given, and the framework's own draws are made of it."""

from ..record import mxnet

__all__ = ["ROWS"]

ROWS = [
    mxnet("sgld", "plain", learning_rate=0.1),
    mxnet("sgld", "decay, clip, rescale", learning_rate=0.01, wd=0.1, clip_gradient=0.3, rescale_grad=0.5),
]
