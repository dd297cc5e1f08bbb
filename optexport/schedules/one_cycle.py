"""Up to a peak and down to almost nothing. Smith & Topin 2018, "Super-Convergence" (arXiv:1708.07120).

    initial = base/div      lowest = initial/final_div
    initial → base → lowest                   in phases that end at rise·total − 1 and total − 1
    initial → base → initial → lowest         three phases: rise·total − 1, 2·rise·total − 2, total − 1

The momentum cycles the other way: top → bottom → top.
"""

from ..ir import Value, cos, minimum, where
from ..rules.base import Hyper, Option, OptionValue
from .base import BASE, INF, TOTAL, Clock, plan
from .cosine import PI

__all__ = ["one_cycle", "one_cycle_momentum"]

ANNEAL = Option("anneal", {"cosine": "half cosines between", "linear": "straight lines between"})
PHASES = Option("phases", {"two": "up, down", "three": "up, down to the initial value, down to the lowest"})
RISE = Hyper("rise", 0.3, 0.0, 1.0, "part of the counts in which it rises")


def _between(s: Clock, start: Value, end: Value, part: Value, anneal: OptionValue) -> Value:
    if anneal == "linear":
        return (end - start) * part + start
    return end + (start - end) / 2 * (cos(PI * part) + 1)


def _phases(s: Clock, values: list[Value], anneal: OptionValue) -> Value:
    """Between each two of ``values``, in as many phases; the last one holds after its end."""
    total, rise = s.hyper("total"), s.hyper("rise")
    # A count of `total` is past the end, and PyTorch takes it: the last phase is then extrapolated.
    k = s.let("k", minimum(s.k, total))
    ends = [*[rise * total - 1, 2 * rise * total - 2][: len(values) - 2], total - 1]
    starts = [s.const(0), *ends[:-1]]
    out = None
    for i in reversed(range(len(ends))):
        part = (k - starts[i]) / (ends[i] - starts[i])
        value = _between(s, values[i], values[i + 1], part, anneal)
        out = value if out is None else where(k <= ends[i], value, out)
    assert out is not None
    return out


@plan(
    "one_cycle",
    options=(ANNEAL, PHASES),
    hyperparameters=(
        BASE,
        TOTAL,
        RISE,
        Hyper("div", 25.0, 0.0, INF, "peak over initial value"),
        Hyper("final_div", 1e4, 0.0, INF, "initial over lowest value"),
    ),
    source="torch OneCycleLR",
)
def one_cycle(s: Clock, *, anneal: OptionValue, phases: OptionValue) -> Value:
    """initial → base → (initial →) lowest"""
    peak = s.hyper("base")
    initial = s.let("initial", peak / s.hyper("div"))
    lowest = s.let("lowest", initial / s.hyper("final_div"))
    middle = [initial] if phases == "three" else []
    return _phases(s, [initial, peak, *middle, lowest], anneal)


@plan(
    "one_cycle_momentum",
    options=(ANNEAL, PHASES),
    hyperparameters=(
        Hyper("top", 0.95, -INF, INF, "momentum at both ends"),
        Hyper("bottom", 0.85, -INF, INF, "momentum at the peak of the learning rate"),
        TOTAL,
        RISE,
    ),
    source="torch OneCycleLR (cycle_momentum)",
)
def one_cycle_momentum(s: Clock, *, anneal: OptionValue, phases: OptionValue) -> Value:
    """top → bottom → top (→ top)"""
    top, bottom = s.hyper("top"), s.hyper("bottom")
    return _phases(s, [top, bottom, top, *([top] if phases == "three" else [])], anneal)
