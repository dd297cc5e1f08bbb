"""SGLD: stochastic gradient Langevin dynamics.

Welling & Teh 2011, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", ICML, equation 4.

    w ← w − η/2·ĝ + √η·ξ         ξ: independent standard normal numbers
"""

from collections.abc import Mapping

from ..ir import Value, sqrt
from .base import OptionValue, Update, family
from .common import L2_DECAY, LR, WEIGHT_DECAY, gradient

__all__ = ["sgld"]


@family(
    "sgld",
    options=(L2_DECAY,),
    hyperparameters=(LR, WEIGHT_DECAY),
    slots=(),
    source="mxnet/optimizer/optimizer.py (SGLD)",
)
def sgld(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """Half a gradient step, and noise of the learning rate's variance."""
    lr, g = u.kernel(u.hyper("lr")), gradient(u, decay)
    return {"param": u.param - lr / 2 * g + sqrt(lr) * u.tracer.noise}
