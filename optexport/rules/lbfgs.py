"""L-BFGS: a quasi-Newton step from the last m differences of gradients and parameters.

Nocedal 1980, "Updating Quasi-Newton Matrices with Limited Storage", Math. Comp. 35; Liu & Nocedal
1989, "On the limited memory BFGS method for large scale optimization", Math. Programming 45;
Nocedal & Wright, "Numerical Optimization", Algorithm 7.4 (two-loop recursion). No line search: the
step has the length that the learning rate says.

    y = g − g_prev,  s = the last step               the pair is kept, newest last
    q = g;  for i = m … 1:  αᵢ = ρᵢ·sᵢᵀq,  q ← q − αᵢyᵢ         ρᵢ = 1 / yᵢᵀsᵢ, 0 where there is no pair
    r = γq                                            γ = yᵀs / yᵀy of the newest pair
    for i = 1 … m:  r ← r + (αᵢ − ρᵢ·yᵢᵀr)·sᵢ
    w ← w − ηr

Every product is over all parameters of the step, as if they were one vector.
"""

from collections.abc import Mapping

from ..ir import Value, absolute, group_sum, item, maximum, minimum, push, sqrt, total, where
from .base import Count, Hyper, Option, OptionValue, Slot, Update, family
from .common import LR, gradient

__all__ = ["lbfgs"]

INF = float("inf")


def _dot(a: Value, b: Value) -> Value:
    return group_sum(total(a * b))


@family(
    "lbfgs",
    options=(
        Count("history", doc="m: pairs that are kept", low=1, high=1000),
        Option(
            "pairs",
            {
                "curved": "a pair is kept where yᵀs > `least_curvature` (PyTorch)",
                "every": "every pair is kept; one with yᵀs = 0 counts for nothing (Optax)",
            },
        ),
        Option(
            "scale",
            {"newest": "γ is that of the newest pair", "one": "γ = 1 (Optax, scale_init_precond=False)"},
        ),
        Option(
            "first",
            {
                "l1": "the first step is −η·min(1, 1/‖g‖₁)·g (PyTorch)",
                "l2": "the first step is −η·min(1, 1/‖g‖₂)·g (Optax)",
                "gradient": "the first step is −ηg",
            },
        ),
        Option(
            "stop",
            {
                "never": "every gradient makes an update",
                "tolerance": "none where max|g| ≤ `tolerance_grad`; the parameter stays where gᵀr < "
                "`tolerance_change` (PyTorch)",
            },
        ),
        Option(
            "last",
            {
                "step": "a slot holds the last step (PyTorch: d and t)",
                "param": "a slot holds the parameter before it (Optax)",
            },
        ),
    ),
    hyperparameters=(
        LR,
        Hyper("least_curvature", 1e-10, 0.0, INF, "what yᵀs must exceed for a pair to be kept"),
        Hyper("tolerance_grad", 1e-7, 0.0, INF, "largest |g| at which nothing is done any more"),
        Hyper("tolerance_change", 1e-9, 0.0, INF, "least decrease gᵀr along the direction for a step"),
    ),
    slots=(
        Slot("gradient_differences", "the m last y, newest last; zeros where there is none", shape="history:history"),
        Slot("parameter_differences", "the m last s, newest last", shape="history:history"),
        Slot("last_grad", "gradient of the last update"),
        Slot("last_step", "what the last update added to the parameter, or would have but for the stop"),
        Slot("last_param", "parameter before the last update"),
        Slot("iterations", "completed iterations", shape="scalar", dtype="float64"),
    ),
    source="torch/optim/lbfgs.py; optax/_src/transform.py (scale_by_lbfgs)",
)  # fmt: skip
def lbfgs(
    u: Update,
    *,
    history: OptionValue,
    pairs: OptionValue,
    scale: OptionValue,
    first: OptionValue,
    stop: OptionValue,
    last: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """The two-loop recursion on the gradient."""
    w, g, count = u.param, gradient(u, "none"), u.step
    if stop == "tolerance":
        count = u.slot("iterations")
    starts = count.equals(0.0)
    y = where(starts, 0.0, g - u.slot("last_grad"))
    moved = u.slot("last_step") if last == "step" else w - u.slot("last_param")
    s = where(starts, 0.0, moved)
    ys, ss = u.slot("gradient_differences"), u.slot("parameter_differences")
    if pairs == "curved":
        kept = _dot(y, s) > u.hyper("least_curvature")
        ys, ss = where(kept, push(ys, y), ys), where(kept, push(ss, s), ss)
    else:
        ys, ss = push(ys, y), push(ss, s)

    r = u.let("r", _two_loops(g, ys, ss, int(history), scale))
    size = u.hyper("lr")
    if first != "gradient":
        length = group_sum(total(absolute(g))) if first == "l1" else sqrt(_dot(g, g))
        size = where(starts, size * minimum(1.0, 1 / length), size)
    step = -size * r
    new = {"param": w + step, "gradient_differences": ys, "parameter_differences": ss, "last_grad": g}
    new["last_step" if last == "step" else "last_param"] = step if last == "step" else w
    return _stopped(u, new, g, r) if stop == "tolerance" else new


def _two_loops(g: Value, ys: Value, ss: Value, m: int, scale: OptionValue) -> Value:
    """The inverse Hessian that the pairs tell of, times the gradient."""
    pairs = [(item(ys, i), item(ss, i)) for i in range(m)]
    curvatures = [_dot(y, s) for y, s in pairs]
    rho = [where(c.equals(0.0), 0.0, 1 / c) for c in curvatures]
    q, alpha = g, {}
    for i in reversed(range(m)):
        y, s = pairs[i]
        alpha[i] = rho[i] * _dot(s, q)
        q = q - alpha[i] * y
    if scale == "newest":
        square = _dot(pairs[-1][0], pairs[-1][0])
        q = where(square.equals(0.0), 1.0, curvatures[-1] / square) * q
    for i, (y, s) in enumerate(pairs):
        q = q + (alpha[i] - rho[i] * _dot(y, q)) * s
    return q


def _stopped(u: Update, new: dict[str, Value], g: Value, r: Value) -> dict[str, Value]:
    """Nothing where every gradient is small; no move where the direction does not descend."""
    above = total(maximum(absolute(g) - u.hyper("tolerance_grad"), 0.0))
    goes = group_sum(above) > 0.0
    descends = _dot(g, r) >= u.hyper("tolerance_change")
    new = {**new, "param": where(descends, new["param"], u.param), "iterations": u.slot("iterations") + 1}
    return {n: where(goes, v, u.param if n == "param" else u.slot(n)) for n, v in new.items()}
