"""Adagrad with one accumulator a row of a matrix.

Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", JMLR 12, with the squared gradient averaged over each row (MXNet, for embeddings).

    s_i ← s_i + mean_j(ĝ_ij²)
    w   ← w − ηĝ / √(s + ε)
"""

from collections.abc import Mapping

from ..errors import HyperparameterError
from ..ir import Value, mean_axis, sqrt
from .base import OptionValue, Slot, Update, family
from .common import EPS, LR, gradient

__all__ = ["group_adagrad"]


def _matrices(options: Mapping[str, OptionValue], shape: tuple[int, ...]) -> Mapping[str, OptionValue]:
    if len(shape) != 2:
        raise HyperparameterError(
            f"group_adagrad: expected a matrix, found shape {shape}; give other parameters another optimizer"
        )
    return options


@family(
    "group_adagrad",
    options=(),
    hyperparameters=(LR, EPS),
    slots=(Slot("sum", "sum s of each row's mean squared gradient, (rows, 1)", shape="without:-1"),),
    source="mxnet/optimizer/contrib.py (GroupAdaGrad)",
    fit=_matrices,
)
def group_adagrad(u: Update, **_: OptionValue) -> Mapping[str, Value]:
    """The gradient over the root of its row's sum of squared gradients."""
    lr, epsilon, g = u.kernel(u.hyper("lr")), u.kernel(u.hyper("eps")), gradient(u, "none")
    s = u.slot("sum") + mean_axis(g * g, -1)
    return {"param": u.param - lr * g / u.let("denominator", sqrt(s + epsilon)), "sum": s}
