"""Rows of the rprop family."""

from ..record import optax, paddle, torch

__all__ = ["ROWS"]

ROWS = [
    torch("Rprop", "defaults", lr=0.01),
    torch("Rprop", "narrow range and ascent", lr=0.1, etas=(0.3, 1.7), step_sizes=(0.05, 0.3), maximize=True),
    optax("rprop", "defaults", learning_rate=0.01),
    optax(
        "rprop",
        "narrow range",
        learning_rate=0.1,
        eta_minus=0.3,
        eta_plus=1.7,
        min_step_size=0.05,
        max_step_size=0.3,
    ),
    paddle("Rprop", "defaults", learning_rate=0.01),
    paddle(
        "Rprop", "bounds that hold", learning_rate=0.01, learning_rate_range=(5e-3, 0.02), etas=(0.7, 1.5)
    ),
]
