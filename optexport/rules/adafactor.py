"""Adafactor: Adam without a mean, its mean square kept as a row and a column.

Shazeer & Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost"
(arXiv:1804.04235), Algorithms 4 and 5.

    b = 1 − t^−κ
    R ← b·R + (1−b)·mean over one axis of (ĝ² + ε1)
    C ← b·C + (1−b)·mean over another
    V = R·C / mean(R)                     vectors: V ← b·V + (1−b)·(ĝ² + ε1)
    u = ĝ/√V                              clipping: u ← u / max(1, rms(u)/d)
    ρ = min(η, 1/√t)                      rate = plain: ρ = η
    w ← w − max(ε2, rms(w))·ρ·u           scale = none: w − ρ·u

    eps1 = clamped    ε1 is not added: mean(R) is at least ε1, V at least ε1² (PyTorch)
    momentum          w ← w − e,  e ← β1·e + (1−β1)·max(ε2, rms(w))·ρ·u (Optax, MLX)
"""

from collections.abc import Mapping

import numpy as np

from ..errors import HyperparameterError
from ..ir import FLOAT32, Value, cast, expand, maximum, mean, mean_axis, minimum, rounded, sqrt
from .base import Count, Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["adafactor"]

INF = float("inf")
MOST_AXES = 4
# (second largest, largest): the axes over which the two means run, as Optax finds them.
_PAIRS = tuple(f"{-a},{-b}" for a in range(1, MOST_AXES + 1) for b in range(1, MOST_AXES + 1) if a != b)


def _fit(options: Mapping[str, OptionValue], shape: tuple[int, ...]) -> dict[str, OptionValue]:
    if len(shape) < 2:
        return {**options, "axes": "vector"}
    order = np.argsort(shape, kind="stable") - len(shape)
    pair = f"{order[-2]},{order[-1]}"
    if options["factoring"] == "last_axes":
        return {**options, "axes": {"-2,-1": "last_wide", "-1,-2": "last_tall"}.get(pair, "last_others")}
    if options["factoring"] == "never" or shape[order[-2]] < int(options["min_size"]):
        return {**options, "axes": "small"}
    if len(shape) > MOST_AXES:
        raise HyperparameterError(
            f"adafactor: expected a parameter of at most {MOST_AXES} axes, found shape {list(shape)}; reshape it"
        )
    return {**options, "axes": pair}


_LAST = "factored over the last two axes"
_AXES: Mapping[OptionValue, str] = {
    "last_wide": f"{_LAST}, which are the largest, the last of them the larger",
    "last_tall": f"{_LAST}, which are the largest, the last of them the smaller",
    "last_others": f"{_LAST}, others being larger",
    "vector": "fewer than two axes: not factored",
    "small": "two axes or more, but not factored",
    **{p: f"factored over axes {p.replace(',', ' and ')}, the larger last" for p in _PAIRS},
}


@family(
    "adafactor",
    options=(
        Option(
            "factoring",
            {
                "last_axes": "the last two axes of every parameter that has two (PyTorch, Keras)",
                "largest_axes": "the two largest axes, where the smaller of them has `min_size` elements (Optax)",
                "never": "no factors",
            },
        ),
        Option("axes", _AXES, default="last_wide"),
        Option(
            "eps1",
            {
                "added": "ε1 is added to ĝ² (Algorithm 4)",
                "clamped": "mean(R) is at least ε1, V at least ε1² (PyTorch)",
            },
        ),
        Option("rate", {"capped": "ρ = min(η, 1/√t) (Algorithm 5)", "plain": "ρ = η (Optax)"}),
        Option(
            "scale",
            {
                "rms": "the step is multiplied by max(ε2, rms(w)) of the parameter before the update",
                "rms_decayed": "by that of the decayed parameter (Keras)",
                "none": "it is not",
            },
        ),
        Option("clipping", {True: "rms(u) is held below d", False: "u as it is"}, default=True),
        Option(
            "momentum",
            {
                "none": "no mean of the steps",
                "folded": "the mean of the steps, rates folded in, kept in float32 (Optax)",
                "folded_param": "the same, kept as the parameter is (MLX)",
            },
            default="none",
        ),
        Option(
            "keeps",
            {
                "factors": "R and C alone are kept",
                "factors_and_product": "V too, though nothing reads it (Keras)",
            },
            default="factors",
        ),
        Option(
            "decay",
            {
                "none": "no weight decay",
                "l2": "λw joins the gradient",
                "decoupled": "w·(1−ηλ) before the update, η not capped",
                "independent": "w − λw beside the update, not scaled by η (Optax)",
            },
        ),
        Count(
            "min_size",
            doc="elements of the second largest axis from which on a parameter is factored",
            low=0,
            high=2**31 - 1,
            default=0,
        ),
    ),
    hyperparameters=(
        LR,
        Hyper("beta2_decay", 0.8, 0.0, INF, "κ: how fast b nears 1"),
        Hyper("eps1", 1e-30, 0.0, INF, "ε1; where it stands is the option `eps1`", 0.0),
        Hyper("eps2", 1e-3, 0.0, INF, "least rms(w) that counts"),
        Hyper("clip_threshold", 1.0, 0.0, INF, "d: largest rms(u)", INF),
        BETA("beta1", 0.9, "decay rate β1 of the mean of the steps"),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("row_var", "R: mean square of each row (over the last axis)", shape="without:-1"),
        Slot("col_var", "C: mean square of each column (over the last axis but one)", shape="without:-2"),
        Slot("largest_var", "R: mean square over the largest axis", shape="without:largest"),
        Slot("second_var", "C: mean square over the second largest axis", shape="without:second"),
        Slot("variance", "V, where it is kept"),
        Slot("step_avg", "running mean e of the steps"),
    ),
    source="torch/optim/_adafactor.py; keras/src/optimizers/adafactor.py; optax/_src/factorized.py, alias.py (adafactor); "
    "mlx/optimizers/optimizers.py (Adafactor)",
    fit=_fit,
    fits=tuple({"axes": a} for a in _AXES),
)
def adafactor(
    u: Update,
    *,
    axes: OptionValue,
    eps1: OptionValue,
    rate: OptionValue,
    scale: OptionValue,
    clipping: OptionValue,
    momentum: OptionValue,
    keeps: OptionValue,
    decay: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """A step of length ρ·rms(w) in every coordinate."""
    lr, t = u.kernel(u.hyper("lr")), u.let("t", u.step + 1)
    g, w = gradient(u, decay), decay_first(u, decay)
    new = _second_moment(u, g, t, axes, eps1)
    V = new.pop("V")  # noqa: N806  (the paper's name)
    if eps1 == "clamped":
        least = u.hyper("eps1")
        V = maximum(V, least * least)  # noqa: N806
    if axes not in ("vector", "small") and keeps == "factors_and_product":
        new["variance"] = V
    step = g / sqrt(V)
    if clipping:
        step = step / maximum(1.0, sqrt(mean(step * step)) / u.hyper("clip_threshold"))

    rho = minimum(lr, 1 / sqrt(t)) if rate == "capped" else lr
    if scale != "none":
        of = w if scale == "rms_decayed" else u.param
        rho = rho * maximum(u.hyper("eps2"), u.let("rms", sqrt(mean(of * of))))
    step = u.let("step_size", rho) * step
    if momentum == "folded":
        beta1 = u.kernel(u.hyper("beta1"))
        kept = rounded(cast(beta1, FLOAT32) * u.slot("step_avg"), "float32")
        step = kept + (1 - beta1) * step
        new["step_avg"] = rounded(step, "float32")  # what is kept, whatever the parameter (Optax)
    elif momentum == "folded_param":
        beta1 = u.kernel(u.hyper("beta1"))
        step = new["step_avg"] = beta1 * u.slot("step_avg") + (1 - beta1) * step
    if decay == "independent":
        w = w - u.kernel(u.hyper("weight_decay")) * u.param
    return {"param": w - step, **new}


def _second_moment(u: Update, g: Value, t: Value, axes: OptionValue, eps1: OptionValue) -> dict[str, Value]:
    """V as a tensor, and the slots that it is kept in."""
    fresh = u.let("fresh", t ** -u.hyper("beta2_decay"))  # 1 − b
    square = g * g if eps1 == "clamped" else g * g + u.hyper("eps1")
    if axes in ("vector", "small"):
        v = (1 - fresh) * u.slot("variance") + fresh * square
        return {"variance": v, "V": v}
    if str(axes).startswith("last"):
        (first, a), (second, b) = ("row_var", -1), ("col_var", -2)
    else:
        first, second = "largest_var", "second_var"
        b, a = (int(n) for n in str(axes).split(","))
    rows = (1 - fresh) * u.slot(first) + fresh * mean_axis(square, a)
    columns = (1 - fresh) * u.slot(second) + fresh * mean_axis(square, b)
    over = mean_axis(rows, b)
    if eps1 == "clamped":
        product = rows * columns / maximum(over, u.hyper("eps1"))
    else:
        product = (rows / over) * columns  # the product of two ε1 is 0 in float32
    return {first: rows, second: columns, "V": expand(product)}
