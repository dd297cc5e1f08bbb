"""Rows of the muon family."""

import math
from typing import Any

import numpy as np

from ..bounds import LAMBDA
from ..record import keras, mlx, optax, torch

__all__ = ["ROWS"]

MATRICES = {"w": (7, 5), "v": (4, 6), "s": (3, 3)}
SHAPES = {**MATRICES, "b": (5,), "k": (2, 3, 4)}
# A run of 30 updates has 15 at the first rate and 15 at a tenth of it, of lr·s each: s ≤ 0.53 in Keras, √(7/5) in MLX.
# Keras' norm is rounded anew in each, which adds up as `bounds` has it; MLX' c is the same number in all.
RANDOM, STEADY = LAMBDA * math.sqrt(15 + 15 * 0.1**2), 15 + 15 * 0.1
TORCHS, THREE, GENTLE = (3.4445, -4.7750, 2.0315, 5), (3.4445, -4.7750, 2.0315, 3), (2.0, -1.5, 0.5, 3)


def magnified(a: float, b: float, c: float, steps: int) -> tuple[float, float]:
    """What Newton–Schulz, σ ← aσ + bσ³ + cσ⁵ of each singular value, makes of a relative error of the norm that all
    σ are divided by (Keras takes it in float32), and of one of c (MLX' fused product takes that in float32): max |σφ'(σ)|
    and max Σ |∂φ/∂c|·c over σ in (0, 1], φ the iterations in a row."""
    sigma = np.logspace(-8, 0, 20001)
    values, slopes = [sigma], []
    for _ in range(steps):
        x = values[-1]
        slopes.append(a + 3 * b * x**2 + 5 * c * x**4)
        values.append(a * x + b * x**3 + c * x**5)
    behind = [np.prod(slopes[k + 1 :], axis=0) for k in range(steps)]
    of_c = sum(np.abs(c * x**5 * rest) for x, rest in zip(values, behind, strict=False))
    return float(np.abs(sigma * np.prod(slopes, axis=0)).max()), float(np.max(of_c))


def keras_floor(lr: float, coefficients: tuple[float, float, float, int], scale: float = 0.53) -> float:
    return 2.0**-24 * RANDOM * magnified(*coefficients)[0] * lr * scale


def mlx_floor(lr: float, coefficients: tuple[float, float, float, int]) -> float:
    c = coefficients[2]
    return abs(float(np.float32(c)) / c - 1) * STEADY * magnified(*coefficients)[1] * lr * math.sqrt(1.4)


# Keras writes B + (ĝ − (1−μ)B).
TINY: dict[str, Any] = {
    "dtypes": ("float64",),
    "reason": "in float32 the tiny step's gradient loses its digits in Keras' difference",
}

ROWS = [
    torch("Muon", "defaults", lr=0.001, shapes=MATRICES),
    # ε is no bfloat16, and lies among the lengths of the run's directions.
    torch("Muon", "large eps", lr=0.001, eps=2.1, shapes=MATRICES),
    torch(
        "Muon",
        "heavy ball, Adam's length",
        lr=0.02,
        weight_decay=0.01,
        momentum=0.8,
        nesterov=False,
        adjust_lr_fn="match_rms_adamw",
        ns_coefficients=(2.0, -1.5, 0.5),
        ns_steps=3,
        eps=6.1,
        shapes=MATRICES,
    ),
    optax("muon", "defaults", learning_rate=0.01, shapes=SHAPES),
    optax("muon", "root eps", learning_rate=0.01, adam_eps_root=1e-3, shapes=SHAPES),
    optax(
        "muon",
        "decay, Adam's length",
        learning_rate=0.02,
        beta=0.8,
        weight_decay=0.1,
        adam_weight_decay=0.05,
        adam_b1=0.8,
        adam_b2=0.95,
        adam_eps_root=1e-3,
        eps=1e-2,
        consistent_rms=0.3,
        ns_coeffs=(2.0, -1.5, 0.5),
        ns_steps=3,
        shapes=SHAPES,
    ),
    optax(
        "muon",
        "heavy ball",
        learning_rate=0.01,
        nesterov=False,
        adam_eps_root=1e-3,
        shapes=SHAPES,
    ),
    keras("Muon", "defaults", learning_rate=0.001, shapes=SHAPES, floor=keras_floor(0.001, TORCHS)),
    keras(
        "Muon",
        "heavy ball, no rms",
        learning_rate=0.02,
        weight_decay=0.1,
        adam_weight_decay=0.05,
        adam_beta_1=0.8,
        adam_beta_2=0.95,
        epsilon=1e-3,
        adam_lr_ratio=0.5,
        momentum=0.8,
        nesterov=False,
        rms_rate=None,
        ns_steps=3,
        muon_a=2.0,
        muon_b=-1.5,
        muon_c=0.5,
        shapes=SHAPES,
        floor=keras_floor(0.02, GENTLE, 1.0),
    ),
    # The tiny step's direction is as short as the constant beside its norm.
    keras(
        "Muon",
        "no memory, Adam's own rate",
        learning_rate=0.001,
        epsilon=1e-3,
        adam_lr_ratio=0.5,
        momentum=0.0,
        shapes=SHAPES,
        **TINY,
        floor=keras_floor(0.001, TORCHS),
    ),
    keras(
        "Muon",
        "no memory",
        learning_rate=0.02,
        weight_decay=0.1,
        adam_weight_decay=0.05,
        momentum=0.0,
        nesterov=False,
        rms_rate=None,
        ns_steps=3,
        muon_a=2.0,
        muon_b=-1.5,
        muon_c=0.5,
        shapes=SHAPES,
        **TINY,
        floor=keras_floor(0.02, GENTLE, 1.0),
    ),
    mlx(
        "Muon",
        "defaults",
        learning_rate=0.001,
        shapes={**MATRICES, "b": (5,)},
        floor=mlx_floor(0.001, TORCHS),
    ),
    mlx(
        "Muon",
        "heavy ball, no decay",
        learning_rate=0.02,
        momentum=0.8,
        nesterov=False,
        weight_decay=0.0,
        ns_steps=3,
        shapes={**MATRICES, "b": (5,)},
        floor=mlx_floor(0.02, THREE),
    ),
    # The tiny step's direction is as short as the constant beside its norm.
    mlx(
        "Muon",
        "no memory",
        learning_rate=0.02,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        ns_steps=3,
        shapes={**MATRICES, "b": (5,)},
        floor=mlx_floor(0.02, THREE),
    ),
    mlx(
        "Muon",
        "no memory, L2",
        learning_rate=0.001,
        momentum=0.0,
        weight_decay=1e-8,
        shapes={**MATRICES, "b": (5,)},
        floor=mlx_floor(0.001, TORCHS),
    ),
]
