"""Rows of the adafactor family."""

from ..record import F32, MLX32, keras, mlx, optax, torch

__all__ = ["ROWS"]

# Rows > columns, columns > rows, a square, a vector, and tensors whose two largest axes are the last
# two, the first and the last, and the first two.
SHAPES = {"w": (7, 5), "v": (4, 6), "s": (3, 3), "b": (5,), "k": (2, 3, 4), "i": (6, 2, 5), "j": (5, 4, 2)}
EPS64 = 2.0**-52
# Optax computes b = 1 − t^−κ in float32: t, the power and the difference each round by 2⁻²⁴.
DECAY32 = 8 * 2.0**-24
# Keras computes every mean in float32: those of rows, of columns, of R, of u² and of w².
MEANS32 = 8 * 2.0**-24

# ε and the clip where they show.
WIDE_MLX = {"eps": (1e-2, 0.5), "clip_threshold": 0.5}

# MLX takes 1 − b, which is t^−κ, from a b in float32.
LATE_MLX = {"done": 20000, "floor": 2.0**-24 * 20030**0.8}

ROWS = [
    torch("Adafactor", "defaults", lr=0.01, eps=(EPS64, 1e-3), shapes=SHAPES),
    torch(
        "Adafactor",
        "decay, large eps, ascent",
        lr=0.3,
        eps=(0.05, 0.1),
        weight_decay=0.1,
        beta2_decay=-0.5,
        d=1.2,
        maximize=True,
        shapes=SHAPES,
    ),
    # The cap 1/√t lies on both sides of the rate.
    torch("Adafactor", "large rate", lr=0.3, eps=(0.05, 1e-3), d=1.2, shapes=SHAPES),
    torch(
        "Adafactor",
        "machine epsilon",
        lr=0.1,
        shapes=SHAPES,
        dtypes=F32,
        reason="eps None is the machine epsilon of the dtype; the rule has float32's",
    ),
    keras("Adafactor", "defaults", learning_rate=0.001, shapes=SHAPES, floor=MEANS32),
    keras(
        "Adafactor",
        "decay and changed constants",
        learning_rate=0.3,
        weight_decay=0.1,
        beta_2_decay=-0.5,
        epsilon_1=1e-3,
        epsilon_2=0.9,
        clip_threshold=0.8,
        shapes=SHAPES,
        floor=MEANS32,
    ),
    keras(
        "Adafactor",
        "large rate",
        learning_rate=0.3,
        epsilon_1=1e-3,
        clip_threshold=0.8,
        shapes=SHAPES,
        floor=MEANS32,
    ),
    optax("adafactor", "not factored by default", learning_rate=0.01, shapes=SHAPES, floor=DECAY32),
    optax(
        "adafactor",
        "not factored, eps and threshold",
        learning_rate=0.01,
        eps=1e-3,
        clipping_threshold=0.8,
        shapes=SHAPES,
        floor=DECAY32,
    ),
    optax(
        "adafactor", "factored", learning_rate=0.05, min_dim_size_to_factor=1, shapes=SHAPES, floor=DECAY32
    ),
    optax(
        "adafactor",
        "factored, eps and threshold",
        learning_rate=0.05,
        min_dim_size_to_factor=1,
        eps=1e-3,
        clipping_threshold=0.8,
        shapes=SHAPES,
        floor=DECAY32,
    ),
    # t⁰ has no digits to lose, so that the rounding of e to float32 is seen.
    optax(
        "adafactor",
        "momentum, last gradient",
        learning_rate=0.1,
        min_dim_size_to_factor=4,
        momentum=0.7,
        weight_decay_rate=0.01,
        decay_rate=0.0,
        eps=1e-3,
        shapes=SHAPES,
    ),
    optax(
        "adafactor",
        "some factored, momentum, decay",
        learning_rate=0.1,
        min_dim_size_to_factor=4,
        momentum=0.7,
        weight_decay_rate=0.01,
        decay_rate=0.5,
        eps=1e-3,
        clipping_threshold=0.8,
        shapes=SHAPES,
        floor=DECAY32,
    ),
    optax(
        "adafactor",
        "bare",
        learning_rate=0.1,
        factored=False,
        eps=1e-3,
        multiply_by_parameter_scale=False,
        clipping_threshold=None,
        shapes=SHAPES,
        floor=DECAY32,
    ),
    mlx("Adafactor", "defaults", F32, MLX32, drop=1.0),
    # The rate is 0.01 until 1/√t is less.
    mlx("Adafactor", "capped by the step", F32, MLX32, drop=1.0, **WIDE_MLX, **LATE_MLX),
    mlx("Adafactor", "own rate", F32, MLX32, learning_rate=0.1, relative_step=False),
    mlx("Adafactor", "own rate, large eps", F32, MLX32, learning_rate=0.1, relative_step=False, **WIDE_MLX),
    mlx(
        "Adafactor",
        "plain, decay, large eps",
        F32,
        MLX32,
        learning_rate=0.1,
        relative_step=False,
        scale_parameter=False,
        weight_decay=0.1,
        decay_rate=-0.6,
        **WIDE_MLX,
    ),
    mlx("Adafactor", "momentum", F32, MLX32, learning_rate=0.1, relative_step=False, beta_1=0.9, **WIDE_MLX),
    mlx(
        "Adafactor",
        "more axes, momentum",
        F32,
        MLX32,
        beta_1=0.5,
        drop=1.0,
        shapes={"w": (3, 4, 5), "t": (5, 3), "b": (5,), "s": ()},
        eps=(1e-2, 0.5),
        clip_threshold=1.2,
        **LATE_MLX,
    ),
    mlx(
        "Adafactor",
        "more axes, momentum, from the start",
        F32,
        MLX32,
        beta_1=0.5,
        drop=1.0,
        eps=(1e-2, 0.5),
        clip_threshold=5.0,
        shapes={"w": (3, 4, 5), "t": (5, 3), "b": (5,), "s": ()},
    ),
]
