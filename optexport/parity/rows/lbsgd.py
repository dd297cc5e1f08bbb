"""Rows of the lbsgd family."""

from ..record import mxnet

__all__ = ["ROWS"]

ROWS = [
    mxnet(
        "lbsgd",
        "linear",
        learning_rate=0.01,
        batch_scale=3,
        warmup_epochs=2,
        updates_per_epoch=8,
        momentum=0.9,
    ),
    mxnet(
        "lbsgd",
        "power2 from the second epoch, decay, clip, rescale",
        learning_rate=0.01,
        batch_scale=2,
        warmup_epochs=4,
        updates_per_epoch=6,
        begin_epoch=1,
        warmup_strategy="power2",
        wd=0.1,
        clip_gradient=0.3,
        rescale_grad=0.5,
    ),
    mxnet(
        "lbsgd",
        "sqrt",
        learning_rate=0.01,
        batch_scale=4,
        warmup_epochs=1,
        updates_per_epoch=20,
        warmup_strategy="sqrt",
    ),
    mxnet(
        "lbsgd",
        "no rise",
        learning_rate=0.01,
        batch_scale=2,
        warmup_epochs=1,
        updates_per_epoch=9,
        warmup_strategy="no",
    ),
    mxnet(
        "lbsgd",
        "lars",
        learning_rate=0.01,
        batch_scale=3,
        begin_epoch=1,
        updates_per_epoch=4,
        warmup_strategy="lars",
        momentum=0.5,
        wd=0.1,
        clip_gradient=0.3,
    ),
    mxnet("lbsgd", "lars, one gradient a batch", learning_rate=0.01, begin_epoch=1, warmup_strategy="lars"),
    # A norm far above the parameter's, for the lower bound of the ratio.
    mxnet(
        "lbsgd",
        "lars, a high spike",
        learning_rate=0.01,
        batch_scale=3,
        begin_epoch=1,
        warmup_strategy="lars",
        spike=4096.0,
    ),
    mxnet(
        "lbsgd",
        "lars, a high spike, decay",
        learning_rate=0.01,
        batch_scale=1,
        begin_epoch=1,
        warmup_strategy="lars",
        momentum=0.5,
        wd=1e-30,
        clip_gradient=0.3,
        spike=4096.0,
    ),
]
