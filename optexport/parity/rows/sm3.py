"""Rows of the sm3 family."""

from ..record import optax

__all__ = ["ROWS"]

SHAPES = {"w": (7, 5), "v": (3, 6), "b": (5,), "k": (2, 3, 4)}

ROWS = [
    optax("sm3", "defaults", learning_rate=0.01, shapes=SHAPES),
    optax("sm3", "changed momentum", learning_rate=0.1, momentum=0.5, shapes=SHAPES),
]
