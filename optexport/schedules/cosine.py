"""Half a cosine from base to end. Loshchilov & Hutter 2017, "SGDR" (arXiv:1608.03983), equation 5.

    η = end + (base − end) · ((1 + cos(π·k/total))/2)^power

after = hold      then ``end`` for ever
after = mirror    it goes up again, and down, with period 2·total (PyTorch)
"""

from ..ir import Value, cos, floor, log, maximum, minimum, where
from ..rules.base import Hyper, Option, OptionValue
from .base import BASE, END, INF, TOTAL, Clock, plan

__all__ = ["cosine", "cosine_restarts"]

PI = 3.141592653589793
POWER = Hyper("power", 1.0, 0.0, INF, "power of the cosine term")


@plan(
    "cosine",
    options=(
        Option(
            "after",
            {"hold": "after `total` the value is `end`", "mirror": "the cosine goes on"},
            default="hold",
        ),
    ),
    hyperparameters=(BASE, END, TOTAL, POWER),
    source="torch CosineAnnealingLR; MXNet CosineScheduler; optax.cosine_decay_schedule; keras CosineDecay",
)
def cosine(s: Clock, *, after: OptionValue) -> Value:
    """end + (base − end)·((1 + cos(πk/total))/2)^power"""
    total, end = s.hyper("total"), s.hyper("end")
    k = s.k if after == "mirror" else minimum(s.k, total)
    falling = s.let("falling", ((1 + cos(PI * k / total)) / 2) ** s.hyper("power"))
    return end + (s.hyper("base") - end) * falling


@plan(
    "cosine_restarts",
    options=(
        Option(
            "growth",
            {
                "none": "every cycle is as long as the first",
                "geometric": "each is `stretch` times the one before",
            },
        ),
    ),
    hyperparameters=(
        BASE,
        END,
        Hyper("cycle", 10.0, 1.0, INF, "counts of the first cycle"),
        Hyper("stretch", 2.0, 1.0, INF, "length of a cycle over that of the one before"),
        Hyper("shrink", 1.0, 0.0, INF, "height of a cycle over that of the one before"),
    ),
    source="torch CosineAnnealingWarmRestarts; keras CosineDecayRestarts",
)
def cosine_restarts(s: Clock, *, growth: OptionValue) -> Value:
    """end + (base − end)·shrinkⁿ·(1 + cos(π·(k − begin of cycle n)/length of cycle n))/2"""
    first, end = s.hyper("cycle"), s.hyper("end")
    if growth == "none":
        n = s.let("n", floor(s.k / first))
        into, length = s.k - n * first, first
    else:
        m = s.hyper("stretch")

        def begin(n: Value) -> Value:
            return first * (m**n - 1) / (m - 1)

        # The logarithm may miss a cycle's first count by rounding: correct it by one, both ways.
        n = floor(log(s.k / first * (m - 1) + 1) / log(m))
        n = where(begin(n + 1) <= s.k, n + 1, n)
        n = s.let("n", where(s.k < begin(n), maximum(n - 1, 0), n))
        into, length = s.k - begin(n), first * m**n
    height = (s.hyper("base") - end) * s.hyper("shrink") ** n
    return end + height * (1 + cos(PI * into / length)) / 2
