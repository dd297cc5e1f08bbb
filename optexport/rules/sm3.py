"""SM3: one accumulator a row, a column, …, the least of them bounding each element's own.

Anil et al. 2019, "Memory-Efficient Adaptive Optimization" (arXiv:1901.11150), Algorithm SM3-II, its
cover being the slices along each axis.

    ν = minᵢ μᵢ + ĝ²                     μᵢ the accumulator of axis i
    μᵢ ← max of ν over the other axes
    m ← β1·m + (1−β1)·ĝ/√(ν + ε)
    w ← w − η·m
"""

from collections.abc import Mapping

from ..errors import HyperparameterError
from ..ir import Value, max_axis, minimum, sqrt
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["MOST_AXES", "sm3"]

INF = float("inf")
MOST_AXES = 5
_RANKS = tuple(str(n) for n in range(1, MOST_AXES + 1))


def _fit(options: Mapping[str, OptionValue], shape: tuple[int, ...]) -> dict[str, OptionValue]:
    if not 1 <= len(shape) <= MOST_AXES:
        raise HyperparameterError(
            f"sm3: expected a parameter of 1 to {MOST_AXES} axes, found shape {list(shape)}; reshape it"
        )
    return {**options, "rank": str(len(shape))}


@family(
    "sm3",
    options=(
        Option(
            "rank", {n: f"a parameter with {n} ax{'is' if n == '1' else 'es'}" for n in _RANKS}, default="2"
        ),
        DECAY,
    ),
    hyperparameters=(
        LR,
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        Hyper("eps", 1e-8, 0.0, INF, "ε under the root"),
        WEIGHT_DECAY,
    ),
    slots=(
        *(
            Slot(f"cover_{i}", f"largest ν of each slice along axis {i}", shape=f"only:{i}")
            for i in range(MOST_AXES)
        ),
        Slot("exp_avg", "running mean m of the scaled gradient"),
    ),
    source="optax/_src/transform.py (scale_by_sm3)",
    fit=_fit,
    fits=tuple({"rank": n} for n in _RANKS),
)
def sm3(u: Update, *, rank: OptionValue, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """Adagrad with the memory of a row and a column."""
    lr, beta1 = u.kernel(u.hyper("lr")), u.kernel(u.hyper("beta1"))
    g, w = gradient(u, decay), decay_first(u, decay)
    axes = range(int(str(rank)))

    least = u.slot("cover_0")
    for i in axes[1:]:
        least = minimum(least, u.slot(f"cover_{i}"))
    nu = u.let("cover", least + g * g)
    new = {}
    for i in axes:
        cover = nu
        for other in axes:
            cover = cover if other == i else max_axis(cover, other)
        new[f"cover_{i}"] = cover  # ν itself where there is one axis
    scaled = g / sqrt(nu + u.kernel(u.hyper("eps")))  # 0 where ν is 0: ĝ is
    m = beta1 * u.slot("exp_avg") + (1 - beta1) * scaled
    return {"param": w - lr * m, **new, "exp_avg": m}
