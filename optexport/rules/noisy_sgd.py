"""SGD with noise that dies down.

Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks"
(arXiv:1511.06807), section 3.

    w ← w − η·( ĝ + √(ν/tᵞ)·ξ )         ξ: independent standard normal numbers
"""

from collections.abc import Mapping

from ..ir import Value, sqrt
from .base import Hyper, OptionValue, Update, family
from .common import DECAY, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["noisy_sgd"]

INF = float("inf")


@family(
    "noisy_sgd",
    options=(DECAY,),
    hyperparameters=(
        LR,
        Hyper("noise_variance", 0.01, 0.0, INF, "variance ν of the first update's noise", 0.0),
        Hyper("noise_decay", 0.55, 0.0, INF, "exponent γ with which it falls"),
        WEIGHT_DECAY,
    ),
    slots=(),
    source="optax/_src/transform.py (add_noise)",
)
def noisy_sgd(u: Update, *, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """Gradient descent with gradient noise."""
    g, w, t = gradient(u, decay), decay_first(u, decay), u.let("t", u.step + 1)
    spread = u.let("spread", sqrt(u.hyper("noise_variance") / t ** u.hyper("noise_decay")))
    return {"param": w - u.kernel(u.hyper("lr")) * (g + u.kernel(spread) * u.tracer.noise)}
