"""The demonstration's network in NumPy, for float64: what a run needs besides its optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["loss_and_gradients"]


def loss_and_gradients(
    params: Mapping[str, np.ndarray], images: np.ndarray, labels: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean cross-entropy of a batch and its gradients, in the parameters' own precision.

    params: ``hidden.weight``, ``hidden.bias``, ``output.weight``, ``output.bias`` as PyTorch's Linear
        has them. images: (n, 64), 0..16. labels: (n,), 0..9.
    """
    x = images.astype(params["hidden.weight"].dtype) / 16
    hidden = np.tanh(x @ params["hidden.weight"].T + params["hidden.bias"])
    scores = hidden @ params["output.weight"].T + params["output.bias"]
    scores -= scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    loss = -log_p[rows, labels].mean()

    d_scores = np.exp(log_p)
    d_scores[rows, labels] -= 1
    d_scores /= len(labels)
    d_hidden = (d_scores @ params["output.weight"]) * (1 - hidden**2)
    return float(loss), {
        "hidden.weight": d_hidden.T @ x,
        "hidden.bias": d_hidden.sum(axis=0),
        "output.weight": d_scores.T @ hidden,
        "output.bias": d_scores.sum(axis=0),
    }
