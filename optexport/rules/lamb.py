"""LAMB: Adam's direction, its length fitted to each layer's weights.

You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes"
(arXiv:1904.00962), Algorithm 2.

    m ← β1·m + (1−β1)·ĝ          v ← β2·v + (1−β2)·ĝ²
    u = m̂ / (√v̂ + ε)             decay = in_update: u + λw
    w ← w − η·(φ(‖w‖)/‖u‖)·u      the ratio is 1 where either norm is 0

    bounds = norm      φ(‖w‖) = ‖w‖ held in [l, h] (the paper's φ)
    bounds = ratio     ‖w‖/‖u‖ held in [l, h] (ONNX Runtime)
"""

from collections.abc import Mapping

from ..ir import Value, maximum, minimum, norm, rounded, sqrt, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, EPS, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["lamb"]

INF = float("inf")


@family(
    "lamb",
    options=(
        Option("bias_correction", {"both": "both moments, updates counted from 1", "none": "neither"}),
        Option(
            "bounds",
            {
                "none": "the ratio of the norms as it is",
                "norm": "‖w‖ is held between `lower_bound` and `upper_bound` (MXNet)",
                "ratio": "‖w‖/‖u‖ is held between them (ONNX Runtime)",
            },
        ),
        Option(
            "decay",
            {
                "none": "no weight decay",
                "l2": "λw joins the gradient",
                "in_update": "λw joins u, inside the ratio (Algorithm 2)",
                "decoupled": "w·(1−ηλ) before the update, and ‖w‖ is that of the decayed w (Keras)",
            },
        ),
        Option(
            "eps_root",
            {False: "nothing under the root beside v̂", True: "`eps_root` is added to v̂ (Optax)"},
            default=False,
        ),
    ),
    hyperparameters=(
        LR,
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.999, "decay rate β2 of the mean square"),
        EPS,
        WEIGHT_DECAY,
        Hyper("eps_root", 0.0, 0.0, INF, "ε under the root", 0.0),
        Hyper("lower_bound", 0.0, -INF, INF, "least norm, or ratio", 0.0),
        Hyper("upper_bound", INF, 0.0, INF, "largest norm, or ratio", INF),
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_avg_sq", "running mean v of its square"),
    ),
    source="mxnet/optimizer/optimizer.py (LAMB), src/operator/contrib/multi_lamb.cc; optax/_src/alias.py (lamb); "
    "keras/src/optimizers/lamb.py; onnxruntime orttraining/training_ops/cuda/optimizer/lamb.cu",
)
def lamb(
    u: Update,
    *,
    bias_correction: OptionValue,
    bounds: OptionValue,
    decay: OptionValue,
    eps_root: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """A step of length η‖w‖ in Adam's direction."""
    lr = u.kernel(u.hyper("lr"))
    beta1, beta2 = u.kernel(u.hyper("beta1")), u.kernel(u.hyper("beta2"))
    g, w = gradient(u, decay), decay_first(u, decay)

    m = beta1 * u.slot("exp_avg") + (1 - beta1) * g
    v = beta2 * u.slot("exp_avg_sq") + (1 - beta2) * (g * g)
    m_hat, v_hat = m, v
    if bias_correction == "both":
        t = u.let("t", u.step + 1)
        m_hat = m / u.let("c1", 1 - beta1**t)
        v_hat = v / u.let("c2", 1 - beta2**t)
    if eps_root:
        v_hat = v_hat + u.kernel(u.hyper("eps_root"))
    direction = m_hat / (sqrt(v_hat) + u.kernel(u.hyper("eps")))
    if decay == "in_update":
        direction = direction + u.kernel(u.hyper("weight_decay")) * w
    if u.options["scalars"] == "float32":
        direction = rounded(direction, "float32")  # MXNet's multi-tensor kernel keeps u in float32
    u.let("direction", direction)

    ratio = _ratio(u, u.kernel(norm(w)), u.kernel(norm(direction)), bounds)
    return {"param": w - (lr * ratio) * direction, "exp_avg": m, "exp_avg_sq": v}


def _ratio(u: Update, w_norm: Value, u_norm: Value, bounds: OptionValue) -> Value:
    """φ(‖w‖)/‖u‖, 1 where either is 0."""
    if bounds == "none":
        empty = minimum(w_norm, u_norm).equals(0)
        return u.let("ratio", where(empty, 1.0, u.kernel(w_norm / u_norm)))
    low, high = u.kernel(u.hyper("lower_bound")), u.kernel(u.hyper("upper_bound"))
    if bounds == "norm":
        w_norm = minimum(maximum(w_norm, low), high)
        empty = minimum(w_norm, u_norm).equals(0)
        return u.let("ratio", where(empty, 1.0, u.kernel(w_norm / u_norm)))
    empty = minimum(w_norm, u_norm).equals(0)
    return u.let("ratio", where(empty, 1.0, minimum(maximum(w_norm / u_norm, low), high)))
