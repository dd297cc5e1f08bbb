"""The running averages that Adam's relatives share, their corrections, and Nesterov's look ahead.

    m ← β1·m + (1−β1)·ĝ          c1 = 1 − β1ᵗ
    v ← β2·v + (1−β2)·ĝ²         c2 = 1 − β2ᵗ

Dozat 2016, "Incorporating Nesterov Momentum into Adam", Algorithm 2, looks one update ahead: the mean
with the weight that it will have then, and the gradient with its own.

    m̂ = β1·m / (1 − β1ᵗ⁺¹) + (1−β1)·ĝ / (1 − β1ᵗ)
"""

from __future__ import annotations

from ..ir import Value, sqrt
from .base import Update

__all__ = ["corrected_mean", "correction", "mean", "mean_square", "root"]


def mean(u: Update, g: Value, slot: str = "exp_avg", beta: str = "beta1") -> Value:
    """The running mean after ``g`` (tensor)."""
    b = u.kernel(u.hyper(beta))
    return b * u.slot(slot) + (1 - b) * g


def mean_square(u: Update, g: Value, slot: str = "exp_avg_sq", beta: str = "beta2") -> Value:
    """The running mean of squares after ``g`` (tensor)."""
    return mean(u, g * g, slot, beta)


def correction(u: Update, beta: str, label: str) -> Value:
    """1 − βᵗ of the update in progress, in double, called ``label`` where it is printed."""
    return u.let(label, 1 - u.hyper(beta) ** u.let("t", u.step + 1))


def corrected_mean(u: Update, m: Value, g: Value, nesterov: bool) -> Value:
    """m̂ (tensor): m/c1, or Nesterov's."""
    c1 = correction(u, "beta1", "c1")
    if not nesterov:
        return u.let("m_hat", m / u.kernel(c1))
    beta1 = u.hyper("beta1")
    ahead = u.let("c1_next", 1 - beta1 ** (u.let("t", u.step + 1) + 1))
    return u.let("m_hat", u.kernel(beta1 / ahead) * m + u.kernel((1 - beta1) / c1) * g)


def root(u: Update, v: Value, eps_root: bool) -> Value:
    """√v̂ (tensor): √(v/c2 + ε_root), or √v/√c2 without."""
    c2 = correction(u, "beta2", "c2")
    if eps_root:
        return sqrt(v / u.kernel(c2) + u.kernel(u.hyper("eps_root")))
    return sqrt(v) / u.kernel(sqrt(c2))
