"""Gradient accumulation: k calls make one update.

The gradients of k calls are averaged or summed; the k-th call updates, the others leave everything
but the accumulator as it is. ``n`` counts the gradients that it holds already.

    mean           A ← A + g             the update sees A/k            (Keras)
    running_mean   A ← A + (g − A)/(n+1)  the update sees A              (Optax MultiSteps)
    sum            A ← A + g             the update sees A              (Optax, use_grad_mean=False)

The accumulator starts again at 0 after the k-th call.
"""

from ..ir import Value, floor, where
from .counting import multiple, remainder

__all__ = ["accumulate"]


def accumulate(g: Value, held: Value, calls: Value, k: Value, kind: str) -> tuple[Value, Value, Value, Value]:
    """One call.

    held: the accumulator. calls: completed calls before this one.
    Returns the gradient that an update sees, the new accumulator, whether this call updates, and the
    number of completed updates before it.
    """
    updates = multiple(calls + 1, k)
    if kind == "running_mean":
        seen = grown = held + (g - held) / (remainder(calls, k) + 1)
    else:
        grown = held + g
        seen = grown / k if kind == "mean" else grown
    return seen, where(updates, 0.0, grown), updates, floor(calls / k)
