"""Lion.

Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms" (arXiv:2302.06675), Algorithm 2.

    w ← w − η·( sign(β1·m + (1−β1)·ĝ) + λ·w )
    m ← β2·m + (1−β2)·ĝ
"""

from collections.abc import Mapping

from ..ir import Value, sign
from .base import Hyper, OptionValue, Slot, Update, family
from .common import BETA, DECAY, WEIGHT_DECAY, decay_first, gradient
from .moments import mean

__all__ = ["lion"]

INF = float("inf")


@family(
    "lion",
    options=(DECAY,),
    hyperparameters=(
        Hyper("lr", 1e-4, -INF, INF, "learning rate of this step"),
        BETA("beta1", 0.9, "share β1 of the mean in the sign"),
        BETA("beta2", 0.99, "decay rate β2 of the mean"),
        WEIGHT_DECAY,
    ),
    slots=(Slot("exp_avg", "running mean m of the gradient"),),
    source="optax/_src/transform.py (scale_by_lion); keras/src/optimizers/lion.py",
)
def lion(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """A step of η in every coordinate: the sign of a mean that gives the newest gradient more."""
    g, w = gradient(u, decay), decay_first(u, decay)
    direction = sign(mean(u, g, beta="beta1"))
    return {"param": w - u.kernel(u.hyper("lr")) * direction, "exp_avg": mean(u, g, beta="beta2")}
