"""Centralisation: a gradient's mean over everything but its first axis is taken out.

Yong et al. 2020, "Gradient Centralization: A New Optimization Technique for Deep Neural Networks"
(arXiv:2004.01461), equation 1.

    g − mean_rest(g)

The first axis is that of the outputs in PyTorch's layout. Vectors stay as they are.
"""

from ..ir import Value, mean_rest

__all__ = ["centralize"]


def centralize(g: Value) -> Value:
    """The gradient with mean 0 for each item of the first axis."""
    return g - mean_rest(g)
