"""Rows of the muon family."""

from typing import Any

from ..record import keras, mlx, optax, torch

__all__ = ["ROWS"]

MATRICES = {"w": (7, 5), "v": (4, 6), "s": (3, 3)}
SHAPES = {**MATRICES, "b": (5,), "k": (2, 3, 4)}
# Keras' norm is float32, 2⁻²⁴ off; Newton–Schulz magnifies what is small by at most a at each
# iteration, and a run of 30 updates is as long as 16.5 at the first rate (of lr·s each, s ≤ 0.53).
NORM32 = 2.0**-24 * 16.5
# MLX's fused product takes c as float32, also 2⁻²⁴ off; its steps have the length √(7/5) at most.
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
    keras("Muon", "defaults", learning_rate=0.001, shapes=SHAPES, floor=NORM32 * 3.4445**5 * 0.001 * 0.53),
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
        floor=NORM32 * 2.0**3 * 0.02,
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
        floor=NORM32 * 3.4445**5 * 0.001 * 0.53,
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
        floor=NORM32 * 2.0**3 * 0.02,
    ),
    mlx(
        "Muon",
        "defaults",
        learning_rate=0.001,
        shapes={**MATRICES, "b": (5,)},
        floor=NORM32 * 3.4445**5 * 0.001 * 1.4**0.5,
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
        floor=NORM32 * 3.4445**3 * 0.02 * 1.4**0.5,
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
        floor=NORM32 * 3.4445**3 * 0.02 * 1.4**0.5,
    ),
    mlx(
        "Muon",
        "no memory, L2",
        learning_rate=0.001,
        momentum=0.0,
        weight_decay=1e-8,
        shapes={**MATRICES, "b": (5,)},
        floor=NORM32 * 3.4445**5 * 0.001 * 1.4**0.5,
    ),
]
