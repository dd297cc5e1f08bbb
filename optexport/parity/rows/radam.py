"""Rows of the radam family."""

import math

from ..record import PADDLE_DECAY, optax, paddle, torch

__all__ = ["ROWS"]


def rectification32(lr: float, beta2: float, updates: int = 30) -> float:
    """Without 64-bit JAX, Optax computes ρ = ρ∞ − 2tβ2ᵗ/c2 in float32. β2ᵗ and c2 = 1 − β2ᵗ round by 2⁻²⁴
    of 1 each, which the division by c2 magnifies; ρ is what is left of two numbers near ρ∞; r follows ρ
    with the slope r / 2(ρ − 4). A coordinate moves by about η·r in an update."""
    inf, moved = 2 / (1 - beta2) - 1, 0.0
    for t in range(1, updates + 1):
        c2 = 1 - beta2**t
        taken = 2 * t * beta2**t / c2
        rho = inf - taken
        if rho >= 5:
            r = math.sqrt((rho - 4) * (rho - 2) * inf / ((inf - 4) * (inf - 2) * rho))
            moved += lr * r / (2 * (rho - 4)) * taken * 2 * 2.0**-24 / c2
    return moved


PADDLE_RHO = "in float32 Paddle subtracts two numbers near ρ∞, and ρ loses its digits"

# At β2 = 0.845 ρ is 5.03 at update 6: between 5 and a threshold that is 1 % higher.
ROWS = [
    torch("RAdam", "L2 and large eps", lr=0.01, weight_decay=0.1, eps=1e-2, betas=(0.9, 0.845)),
    torch(
        "RAdam",
        "decoupled decay and changed betas",
        lr=0.01,
        weight_decay=0.1,
        decoupled_weight_decay=True,
        betas=(0.5, 0.845),
    ),
    torch("RAdam", "ascent", lr=0.1, maximize=True, betas=(0.9, 0.845)),
    optax("radam", "large eps", learning_rate=0.01, eps=1e-2, floor32=rectification32(0.01, 0.999)),
    optax("radam", "root eps, threshold", learning_rate=0.01, b1=0.5, b2=0.9, eps_root=1e-2, threshold=4.5),
    optax("radam", "nesterov", learning_rate=0.1, b2=0.99, eps=1e-3, nesterov=True),
    paddle("RAdam", "defaults", ("float64",), PADDLE_RHO, learning_rate=0.01),
    paddle(
        "RAdam", "soon rectified", ("float64",), PADDLE_RHO, learning_rate=0.01, beta2=0.845, epsilon=1e-2
    ),
    paddle(
        "RAdam",
        "L2, soon rectified",
        ("float64",),
        PADDLE_RHO,
        learning_rate=0.01,
        beta1=0.8,
        beta2=0.845,
        weight_decay=0.1,
        epsilon=1e-2,
        floor=PADDLE_DECAY,
    ),
]
