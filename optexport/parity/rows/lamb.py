"""Rows of the lamb family."""

import math
from typing import Any

from ..bounds import LAMBDA
from ..record import correction32, keras, mxnet, optax, paddle

__all__ = ["ROWS"]

# MXNet's kernel has both norms in float32, sums of 35 squares: 2·35 roundings of 2⁻²⁴, halved by the root, add up as
# `bounds` has it. A tensor that hardly moves is rounded alike in each update, so over a run, as long as its rates, they
# add up whole.
NORMS32 = LAMBDA * math.sqrt(2 * 35) / 2 * 2.0**-24


def norm16(rate: float, steps: int = 30) -> float:
    """With masters the class squares the float16 parameters in float16: each is rounded by at most 2⁻¹¹
    before and after, and by 2⁻²⁵ where the square is subnormal; a parameter that starts at 0 is as
    small as the rate. A norm keeps half of that, and an update is as long as η‖w‖."""
    return steps * rate * (3 * 2.0**-11 + 2.0**-25 / rate**2) / 2


# A parameter that starts at 0 has no norm.
SHAPES = {"w": (7, 5), "b": (5,), "zero": (4,)}
# Its first update has no norm in it, so that nothing but the rounding of u to float32 is left to see.
FIRST: dict[str, Any] = {"shapes": {"zero": (4,)}, "steps": 1}

ROWS = [
    mxnet(
        "lamb",
        "defaults",
        learning_rate=0.001,
        floor=0.03 * NORMS32,
        floor16=norm16(0.001),
        shapes=SHAPES,
    ),
    mxnet(
        "lamb",
        "decay, clip, bounds",
        learning_rate=0.01,
        wd=0.1,
        epsilon=1e-3,
        beta1=0.8,
        beta2=0.95,
        rescale_grad=0.3,
        clip_gradient=0.5,
        lower_bound=0.5,
        upper_bound=2.0,
        floor=0.3 * NORMS32,
        floor16=norm16(0.01),
        shapes=SHAPES,
    ),
    mxnet(
        "lamb",
        "uncorrected, lower bound",
        learning_rate=0.01,
        wd=0.05,
        bias_correction=False,
        lower_bound=3.0,
        floor=3 * NORMS32,
        shapes=SHAPES,
    ),
    mxnet("lamb", "first update of 0", learning_rate=0.001, **FIRST),
    mxnet(
        "lamb",
        "bounds, first update of 0",
        learning_rate=0.01,
        wd=0.1,
        epsilon=1e-3,
        rescale_grad=0.3,
        clip_gradient=0.5,
        lower_bound=0.0,
        upper_bound=2.0,
        **FIRST,
    ),
    mxnet(
        "lamb",
        "uncorrected, first update of 0",
        learning_rate=0.01,
        wd=0.05,
        bias_correction=False,
        lower_bound=0.0,
        upper_bound=2.0,
        **FIRST,
    ),
    optax("lamb", "defaults", learning_rate=0.001, shapes=SHAPES, floor32=correction32(0.999)),
    optax(
        "lamb",
        "decay and root eps",
        learning_rate=0.01,
        weight_decay=0.1,
        eps=1e-3,
        eps_root=1e-3,
        b2=0.9,
        shapes=SHAPES,
    ),
    keras("Lamb", "defaults", learning_rate=0.001),
    keras(
        "Lamb",
        "decay and changed betas",
        learning_rate=0.01,
        weight_decay=0.1,
        beta_1=0.8,
        beta_2=0.95,
        shapes=SHAPES,
    ),
    paddle("Lamb", "defaults", learning_rate=0.01, floor=correction32(0.999), shapes=SHAPES),
    paddle(
        "Lamb",
        "decay, changed betas",
        learning_rate=0.1,
        lamb_weight_decay=0.1,
        beta1=0.5,
        beta2=0.9,
        epsilon=1e-2,
        floor=correction32(0.9),
        shapes=SHAPES,
    ),
    paddle(
        "Lamb",
        "no decay, adapted",
        learning_rate=0.1,
        lamb_weight_decay=0.0,
        always_adapt=True,
        beta2=0.9,
        epsilon=1e-2,
        floor=correction32(0.9),
        shapes=SHAPES,
    ),
]
