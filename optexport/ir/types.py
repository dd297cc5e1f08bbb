"""Types of values: six of them, and how they combine.

Scalars (step, hyperparameters, powers of beta) are float64 unless a rule says float32, because that
is where native optimizers keep them: on the host, in double. A scalar is rounded to the tensor's
dtype where it meets a tensor. Tensors have the shape and dtype of the parameter; arrays have its dtype
and another shape (a row of means, a Gram matrix, a history) and broadcast as NumPy does.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ARRAY", "BOOL", "FLOAT32", "FLOAT64", "MASK", "TENSOR", "Type", "join"]


class Type(Enum):
    """Type of one value of a program; the enum's value is its name on the wire."""

    FLOAT64 = "float64"  # scalar
    FLOAT32 = "float32"  # scalar, every operation on it rounded to float32
    TENSOR = "tensor"  # real, shaped and typed like the parameter
    ARRAY = "array"  # real, of another shape, typed like the parameter
    BOOL = "bool"  # scalar truth value
    MASK = "mask"  # tensor of truth values

    @property
    def is_tensor(self) -> bool:
        return self in (Type.TENSOR, Type.ARRAY, Type.MASK)

    @property
    def is_truth(self) -> bool:
        return self in (Type.BOOL, Type.MASK)


FLOAT64, FLOAT32, TENSOR, ARRAY = Type.FLOAT64, Type.FLOAT32, Type.TENSOR, Type.ARRAY
BOOL, MASK = Type.BOOL, Type.MASK


def join(types: list[Type]) -> Type:
    """Type of an elementwise operation on real operands: a tensor wins, then an array,
    then float64.

    Constants adapt to what they meet, so `trace` leaves them out of ``types``.
    """
    if TENSOR in types:
        return TENSOR
    if ARRAY in types:
        return ARRAY
    return FLOAT64 if FLOAT64 in types or not types else FLOAT32
