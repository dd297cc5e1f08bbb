"""Rows of the lars family."""

from ..record import mxnet, optax

__all__ = ["ROWS"]

# MXNet computes a layer's rate in float32: two sums of 35 squares, a product and a quotient.
RATE32 = 40 * 2.0**-24

# With masters the class squares the float16 parameters and gradients in float16: each parameter and each
# square is rounded by at most 2⁻¹¹, half of which a norm keeps, and the rate is a quotient of two.
RATE16 = 2.0**-10

# A parameter that starts at 0 has no norm.
SHAPES = {"w": (7, 5), "b": (5,), "zero": (4,)}

ROWS = [
    mxnet(
        "lars",
        "momentum and decay",
        learning_rate=1.0,
        momentum=0.9,
        wd=0.1,
        eta=0.01,
        momentum_correction=False,
        shapes=SHAPES,
        floor=RATE32,
        floor16=RATE16,
    ),
    mxnet(
        "lars",
        "clip and rescale",
        learning_rate=0.5,
        momentum=0.8,
        wd=0.05,
        eta=0.1,
        eps=1e-2,
        rescale_grad=0.3,
        clip_gradient=0.5,
        momentum_correction=False,
        floor=RATE32,
        floor16=RATE16,
    ),
    mxnet(
        "lars",
        "no momentum",
        learning_rate=0.5,
        eta=0.1,
        eps=1e-2,
        shapes=SHAPES,
        floor=RATE32,
        floor16=RATE16,
    ),
    # The learning rate stays, so that the correction of momentum has nothing to correct.
    mxnet(
        "lars",
        "constant rate",
        learning_rate=0.5,
        momentum=0.9,
        eta=0.1,
        eps=1e-2,
        wd=0.1,
        drop=1.0,
        floor=RATE32,
        floor16=RATE16,
    ),
    mxnet(
        "lars",
        "names",
        learning_rate=0.5,
        momentum=0.9,
        eta=0.1,
        eps=1e-2,
        wd=0.1,
        momentum_correction=False,
        param_idx2name={0: "a_weight", 1: "a_gamma"},
        shapes={"a_weight": (7, 5), "a_gamma": (5,)},
        floor=RATE32,
        floor16=RATE16,
    ),
    optax("lars", "small eps", learning_rate=0.1, eps=1e-2, shapes=SHAPES),
    optax(
        "lars",
        "decay",
        learning_rate=1.0,
        weight_decay=0.1,
        trust_coefficient=0.1,
        eps=1e-2,
        momentum=0.8,
        shapes=SHAPES,
    ),
    optax(
        "lars", "nesterov", learning_rate=1.0, trust_coefficient=0.05, nesterov=True, eps=1e-2, shapes=SHAPES
    ),
]
