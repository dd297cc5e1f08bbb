"""Adam, AdamW, AMSGrad.

Kingma & Ba 2015, "Adam" (arXiv:1412.6980), Algorithm 1; Loshchilov & Hutter 2019, "Decoupled
Weight Decay Regularization" (arXiv:1711.05101), Algorithm 2; Reddi et al. 2018, "On the Convergence
of Adam and Beyond" (arXiv:1904.09237), Algorithm 2.

    m ← β1·m + (1−β1)·ĝ          c1 = 1 − β1ᵗ
    v ← β2·v + (1−β2)·ĝ²         c2 = 1 − β2ᵗ

    eps = outside   w ← w − (η/c1)·m / (√v/√c2 + ε)       Algorithm 1
    eps = hat       w ← w − (η√c2/c1)·m / (√v + ε)        end of section 2: "epsilon hat"

The two differ by the factor √c2 on ε: much at the start of a run, nothing at its end.

    amsgrad = raw         x ← max(x, v)       in place of v
    amsgrad = corrected   x ← max(x, v/c2)    in place of v/c2
    eps_root              √(v/c2 + ε_root)    in place of √v/√c2
"""

from collections.abc import Mapping

from ..ir import Value, maximum, sqrt, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, EPS, LR, WEIGHT_DECAY, decay_first, gradient

__all__ = ["adam"]

INF = float("inf")


@family(
    "adam",
    options=(
        Option(
            "eps",
            {
                "outside": "ε is added to √v̂, the corrected root (Algorithm 1)",
                "hat": "ε is added to √v, before the correction √c2 (epsilon hat)",
            },
        ),
        Option(
            "bias_correction",
            {
                "both": "both moments, updates counted from 1",
                "none": "neither moment",
                "mean": "the mean alone",
                "square": "the mean square alone",
                "from_zero": "both, updates counted from 0; the update number 0 has none (ONNX with T = 0)",
            },
        ),
        Option(
            "amsgrad",
            {
                "none": "the denominator follows v",
                "raw": "it follows the running maximum of v, uncorrected",
                "corrected": "it follows the running maximum of v/c2, corrected before it is compared (Optax)",
            },
        ),
        Option(
            "decay",
            {
                "none": "no weight decay",
                "l2": "λw joins the gradient",
                "decoupled": "w·(1−ηλ) before the update (AdamW)",
                "decoupled_last": "w·(1−ηλ) on the updated parameter (ONNX Runtime, mode 1)",
                "independent": "w − λw beside the update, not scaled by η",
            },
        ),
        Option(
            "post_decay",
            {
                False: "nothing after the update",
                True: "the updated parameter is multiplied by 1 − `post_decay`, not scaled by η (ONNX)",
            },
        ),
        Option(
            "eps_root",
            {
                False: "nothing under the root beside v",
                True: "`eps_root` is added to the corrected v (Optax)",
            },
            default=False,
        ),
    ),
    hyperparameters=(
        LR,
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.999, "decay rate β2 of the mean square"),
        EPS,
        WEIGHT_DECAY,
        Hyper("post_decay", 0.0, -INF, INF, "factor of the decay after the update", 0.0),
        Hyper("eps_root", 0.0, 0.0, INF, "ε under the root", 0.0),
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_avg_sq", "running mean v of its square"),
        Slot("max_exp_avg_sq", "largest v so far"),
    ),
    source="torch/optim/adam.py; mxnet/optimizer/adam.py; onnx/defs/training/defs.cc (Adam); "
    "onnxruntime orttraining/training_ops/cpu/optimizer/adamw",
)
def adam(
    u: Update,
    *,
    eps: OptionValue,
    bias_correction: OptionValue,
    amsgrad: OptionValue,
    decay: OptionValue,
    post_decay: OptionValue,
    eps_root: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """A step of about η in every coordinate, in the direction of the mean gradient."""
    lr, epsilon = u.hyper("lr"), u.kernel(u.hyper("eps"))
    beta1, beta2 = u.kernel(u.hyper("beta1")), u.kernel(u.hyper("beta2"))
    g, w = gradient(u, decay), decay_first(u, decay)

    m = beta1 * u.slot("exp_avg") + (1 - beta1) * g
    v = beta2 * u.slot("exp_avg_sq") + (1 - beta2) * (g * g)
    new = {"exp_avg": m, "exp_avg_sq": v}
    if amsgrad == "raw":
        v = new["max_exp_avg_sq"] = maximum(u.slot("max_exp_avg_sq"), v)

    # The corrections are made on the host in double, whatever the kernel receives.
    c1, c2 = _corrections(u, bias_correction)
    if amsgrad == "corrected":
        v = v if c2 is None else v / c2
        v = new["max_exp_avg_sq"] = maximum(u.slot("max_exp_avg_sq"), v)
        c2 = None
    size = lr
    if eps == "hat" and c2 is not None:
        size, c2 = lr * sqrt(c2), None
    size = size if c1 is None else size / c1
    if eps_root:
        root = sqrt((v if c2 is None else v / c2) + u.kernel(u.hyper("eps_root")))
    else:
        root = sqrt(v) if c2 is None else sqrt(v) / sqrt(c2)
    denominator = root + epsilon
    size = u.kernel(u.let("step_size", size))
    if decay == "independent":
        w = w - u.kernel(u.hyper("weight_decay")) * u.param
    w = w - size * (m / u.let("denominator", denominator))

    if decay == "decoupled_last":
        w = w * (1 - u.kernel(lr) * u.kernel(u.hyper("weight_decay")))
    if post_decay:
        w = w * (1 - u.kernel(u.hyper("post_decay")))
    return {"param": w, **new}


def _corrections(u: Update, bias_correction: OptionValue) -> tuple[Value | None, Value | None]:
    """c1 and c2 of the update in progress, None for what is not corrected."""
    beta1, beta2 = u.hyper("beta1"), u.hyper("beta2")
    if bias_correction == "from_zero":
        t = u.step
        first = t.equals(0)
        return u.let("c1", where(first, 1.0, 1 - beta1**t)), u.let("c2", where(first, 1.0, 1 - beta2**t))
    t = u.let("t", u.step + 1)
    c1 = u.let("c1", 1 - beta1**t) if bias_correction in ("both", "mean") else None
    return c1, u.let("c2", 1 - beta2**t) if bias_correction in ("both", "square") else None
