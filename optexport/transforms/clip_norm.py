"""Clipping by norm: a gradient that is too long is shortened, its direction stays.

Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks"
(arXiv:1211.5063), Algorithm 1.

    g·min(1, C / N)     or     g·min(1, C / (N + ε))

N is the norm of one tensor, its root mean square, or the norm of all gradients of the step together.
Keras and Optax have no ε, PyTorch's is 1e-6, MXNet's 1e-8.
"""

from ..ir import Value, group_sum, mean, minimum, norm, sqrt, total, where

__all__ = ["clip_norm"]


def clip_norm(g: Value, kind: str, bound: Value, eps: Value | None = None) -> Value:
    """The gradient, shortened so that the norm of ``kind`` stays within ``bound``.

    kind: ``tensor``, ``rms``, ``global``, or ``global_strict``: a global norm that is no finite
        number makes every gradient NaN (Keras).
    """
    if kind == "tensor":
        length = norm(g)
    elif kind == "rms":
        length = sqrt(mean(g * g))
    else:
        length = sqrt(group_sum(total(g * g)))
    factor = minimum(1.0, bound / (length if eps is None else length + eps))
    if kind == "global_strict":
        # N − N is 0 where N is finite, and NaN elsewhere.
        factor = where((length - length).equals(0.0), factor, length - length)
    return factor * g
