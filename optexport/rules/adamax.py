"""Adamax.

Kingma & Ba 2015, "Adam" (arXiv:1412.6980), Algorithm 2: Adam with the infinity norm.

    m ← β1·m + (1−β1)·ĝ          c1 = 1 − β1ᵗ
    u ← max(β2·u, |ĝ|)
    w ← w − (η/c1)·m / u

    eps = none          Algorithm 2: an element whose gradients were all 0 is 0/0
    eps = outside       … / (u + ε)
    eps = accumulated   u ← max(β2·u, |ĝ| + ε): ε is in the state
    eps = decayed       u ← max(β2·u + ε, |ĝ|): so it is here

    bias_correction = False   c1 = 1
"""

from collections.abc import Mapping

from ..ir import Value, absolute, maximum
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, EPS, WEIGHT_DECAY, decay_first, gradient
from .moments import correction, mean

__all__ = ["adamax"]

INF = float("inf")


@family(
    "adamax",
    options=(
        Option(
            "eps",
            {
                "none": "none: an element that never had a gradient is 0/0 (MXNet)",
                "outside": "u + ε where it divides; the state has no ε (Keras)",
                "accumulated": "|ĝ| + ε inside the maximum, and so in the state (PyTorch, Optax)",
                "decayed": "β2·u + ε inside the maximum, and so in the state (Paddle)",
            },
        ),
        Option(
            "bias_correction",
            {True: "the mean is divided by c1", False: "the mean as it is (MLX)"},
            default=True,
        ),
        DECAY,
    ),
    hyperparameters=(
        Hyper("lr", 2e-3, -INF, INF, "learning rate of this step"),
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.999, "decay rate β2 of the largest gradient"),
        EPS,
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_inf", "decaying maximum u of its absolute value"),
    ),
    source="torch/optim/adamax.py; mxnet/optimizer/optimizer.py (Adamax); optax/_src/transform.py "
    "(scale_by_adamax); keras/src/optimizers/adamax.py; paddle/phi/kernels/impl/adamax_kernel_impl.h; "
    "mlx/optimizers/optimizers.py (Adamax)",
)
def adamax(
    u: Update, *, eps: OptionValue, bias_correction: OptionValue, decay: OptionValue, **_: OptionValue
) -> Mapping[str, Value]:
    """A step of at most about η in every coordinate: the mean over the largest gradient lately."""
    g, w = gradient(u, decay), decay_first(u, decay)
    m = mean(u, g)
    size = absolute(g)
    if eps == "accumulated":
        size = size + u.kernel(u.hyper("eps"))
    before = u.kernel(u.hyper("beta2")) * u.slot("exp_inf")
    if eps == "decayed":
        before = before + u.kernel(u.hyper("eps"))
    largest = maximum(before, size)
    denominator = largest + u.kernel(u.hyper("eps")) if eps == "outside" else largest
    lr = u.hyper("lr")
    step_size = u.let("step_size", lr / correction(u, "beta1", "c1")) if bias_correction else lr
    w = w - u.kernel(step_size) * (m / denominator)
    return {"param": w, "exp_avg": m, "exp_inf": largest}
