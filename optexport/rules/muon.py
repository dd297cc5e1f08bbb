"""Muon: momentum made orthogonal.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(https://kellerjordan.github.io/posts/muon/); Liu et al. 2025, "Muon is Scalable for LLM Training"
(arXiv:2502.16982) for scale = rms.

    B ← μB + (1−μ)ĝ                    momentum = sum: B ← μB + ĝ
    d = B                              Nesterov: d = μB + (1−μ)ĝ, or μB + ĝ
    X = d / max(‖d‖, ε)                norm = added: d / (‖d‖ + ε)
    k times: A = XXᵀ,  X ← aX + (bA + cAA)X          Newton–Schulz
    w ← w − η·s·X                      s depends on the shape

A matrix with more rows than columns is transposed first, and X back. What is no matrix is updated
by Adam, as the frameworks do.
"""

from collections.abc import Mapping

from ..errors import HyperparameterError
from ..ir import Value, expand, matmul, maximum, rounded, size, sqrt, total_axis, transpose
from .base import Count, Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, LR, WEIGHT_DECAY, gradient

__all__ = ["muon"]

INF = float("inf")


def _fit(options: Mapping[str, OptionValue], shape: tuple[int, ...]) -> dict[str, OptionValue]:
    if len(shape) == 2:
        return {**options, "shape": "wide" if shape[0] <= shape[1] else "tall"}
    if options["others"] == "none" or (options["others"] == "momentum" and len(shape) > 2):
        raise HyperparameterError(
            f"muon: expected matrices, found a parameter of shape {list(shape)}; give it to another optimizer"
        )
    return {**options, "shape": "other"}


@family(
    "muon",
    options=(
        Option(
            "shape",
            {
                "wide": "a matrix with no more rows than columns",
                "tall": "a matrix with more rows than columns, transposed for Newton–Schulz",
                "other": "no matrix: the option `others`",
            },
            default="wide",
        ),
        Option(
            "others",
            {
                "none": "what is no matrix is refused (PyTorch)",
                "adam": "Adam, ε beside the corrected root (Optax without Nesterov)",
                "nadam": "Adam with Nesterov's numerator (Optax)",
                "adam_hat": "Adam, epsilon hat (Keras)",
                "momentum": "the direction d itself, s = 1; vectors alone, more axes are refused (MLX)",
            },
            default="adam",
        ),
        Option(
            "momentum",
            {
                "mean": "B is a running mean of gradients (PyTorch)",
                "corrected": "a running mean, its bias corrected where it is read (Optax)",
                "sum": "B is a decaying sum of gradients (Keras)",
            },
        ),
        Option("nesterov", {"none": "d is B", "lookahead": "d is one more step of B along ĝ"}),
        Option(
            "norm",
            {
                "clamped": "X = d / max(‖d‖, ε)",
                "added": "X = d / (‖d‖ + ε)",
                "added_constant": "X = d / (‖d‖ + 10⁻⁷) (Keras)",
            },
        ),
        Option(
            "precision",
            {
                "tensor": "Newton–Schulz in the parameter's precision",
                "bfloat16": "in bfloat16 (PyTorch)",
            },
            default="tensor",
        ),
        Option(
            "scale",
            {
                "none": "s = 1",
                "rows": "s = √max(1, rows/columns)",
                "columns": "s = √max(1, columns/rows)",
                "rms": "s = `rms_scale`·√max(rows, columns), the length of Adam's updates",
            },
        ),
        Option(
            "decay",
            {
                "none": "no weight decay",
                "l2": "λw joins the gradient (MLX)",
                "decoupled": "w·(1−ηλ) before the update",
            },
        ),
        Count("ns_steps", doc="k: iterations of Newton–Schulz", low=1, high=99, default=5),
    ),
    hyperparameters=(
        LR,
        BETA("momentum", 0.95, "momentum coefficient μ"),
        Hyper("eps", 1e-7, 0.0, INF, "ε of the norm"),
        Hyper("ns_a", 3.4445, -INF, INF, "coefficient a of X"),
        Hyper("ns_b", -4.7750, -INF, INF, "coefficient b of XXᵀX"),
        Hyper("ns_c", 2.0315, -INF, INF, "coefficient c of (XXᵀ)²X"),
        Hyper("rms_scale", 0.2, -INF, INF, "root mean square of an update's elements"),
        WEIGHT_DECAY,
        BETA("beta1", 0.9, "decay rate β1 of Adam's mean"),
        BETA("beta2", 0.999, "decay rate β2 of Adam's mean square"),
        Hyper("adam_eps", 1e-8, 0.0, INF, "ε of Adam"),
        Hyper("adam_eps_root", 0.0, 0.0, INF, "ε under the root of Adam (Optax)", 0.0),
        Hyper("adam_lr_ratio", 1.0, -INF, INF, "factor on the learning rate of Adam (Keras)", 1.0),
        Hyper("adam_weight_decay", 0.0, -INF, INF, "weight decay beside Adam", 0.0),
    ),
    slots=(
        Slot("momentum_buffer", "running mean, or decaying sum, of gradients"),
        Slot("exp_avg_sq", "running mean of squared gradients, where Adam updates"),
    ),
    source="torch/optim/_muon.py; optax/contrib/_muon.py; keras/src/optimizers/muon.py; "
    "mlx/optimizers/optimizers.py (Muon)",
    fit=_fit,
    fits=({"shape": "wide"}, {"shape": "tall"}, {"shape": "other"}),
)
def muon(
    u: Update,
    *,
    shape: OptionValue,
    others: OptionValue,
    momentum: OptionValue,
    nesterov: OptionValue,
    scale: OptionValue,
    decay: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """A step of one length in every direction of a matrix."""
    if shape == "other" and others not in ("none", "momentum"):
        return _adam(u, others, decay)
    lr, mu, g, w = u.hyper("lr"), u.hyper("momentum"), gradient(u, decay), u.param
    if decay == "decoupled":
        w = u.let("w_decayed", w * (1 - lr * u.hyper("weight_decay")))
    b = mu * u.slot("momentum_buffer") + (g if momentum == "sum" else (1 - mu) * g)
    d = b
    if momentum == "corrected":
        t = u.let("t", u.step + 1)
        d = b / (1 - mu**t)
        if nesterov == "lookahead":
            d = mu * (b / (1 - mu ** (t + 1))) + (1 - mu) * (g / (1 - mu**t))
    elif nesterov == "lookahead":
        d = mu * b + (g if momentum == "sum" else (1 - mu) * g)
    if shape == "other" and others == "momentum":
        return {"param": w - lr * u.let("direction", d), "momentum_buffer": b}
    x = expand(_orthogonal(u, u.let("direction", d)))

    rows, columns = size(u.param, -2), size(u.param, -1)
    # A wide matrix has no more rows than columns, a tall one no more columns than rows.
    scale = "none" if (scale, shape) in (("rows", "wide"), ("columns", "tall")) else scale
    factor = {
        "none": lambda: lr,
        "rows": lambda: lr * sqrt(maximum(1.0, rows / columns)),
        "columns": lambda: lr * sqrt(maximum(1.0, columns / rows)),
        "rms": lambda: lr * (u.hyper("rms_scale") * sqrt(maximum(rows, columns))),
    }[str(scale)]()
    return {"param": w - u.let("step_size", factor) * x, "momentum_buffer": b}


def _orthogonal(u: Update, d: Value) -> Value:
    """k iterations of Newton–Schulz, each result rounded where the option says so."""
    o = u.options

    def kept(x: Value) -> Value:
        return rounded(x, "bfloat16") if o["precision"] == "bfloat16" else x

    a, b, c = u.hyper("ns_a"), u.hyper("ns_b"), u.hyper("ns_c")
    eps = 1e-7 if o["norm"] == "added_constant" else u.hyper("eps")
    x = kept(d)
    if o["shape"] == "tall":
        x = transpose(x)
    length = kept(sqrt(total_axis(total_axis(x * x, -1), -2)))
    x = kept(x / (kept(maximum(length, eps)) if o["norm"] == "clamped" else length + eps))
    for _ in range(int(o["ns_steps"])):
        gram = kept(matmul(x, transpose(x)))
        update = kept(b * gram + matmul(c * gram, gram))
        x = kept(a * x + matmul(update, x))
    return transpose(x) if o["shape"] == "tall" else x


def _adam(u: Update, others: OptionValue, decay: OptionValue) -> dict[str, Value]:
    """Adam on what is no matrix; see ``adam.py`` and ``nadam.py``."""
    lr = u.hyper("lr")
    if others == "adam_hat":
        lr = lr * u.hyper("adam_lr_ratio")
    beta1, beta2, eps = u.hyper("beta1"), u.hyper("beta2"), u.hyper("adam_eps")
    g, w, t = gradient(u, decay), u.param, u.let("t", u.step + 1)
    m = beta1 * u.slot("momentum_buffer") + (1 - beta1) * g
    v = beta2 * u.slot("exp_avg_sq") + (1 - beta2) * (g * g)
    c1, c2 = u.let("c1", 1 - beta1**t), u.let("c2", 1 - beta2**t)
    if decay == "decoupled":
        # Keras' decay knows nothing of the ratio.
        w = u.let("w_decayed", w * (1 - u.hyper("lr") * u.hyper("adam_weight_decay")))
    new = {"momentum_buffer": m, "exp_avg_sq": v}
    if others == "adam_hat":
        return {"param": w - (lr * sqrt(c2) / c1) * (m / (sqrt(v) + eps)), **new}
    m_hat = m / c1
    if others == "nadam":
        m_hat = beta1 * (m / (1 - beta1 ** (t + 1))) + (1 - beta1) * (g / c1)
    return {"param": w - lr * (m_hat / (sqrt(v / c2 + u.hyper("adam_eps_root")) + eps)), **new}
