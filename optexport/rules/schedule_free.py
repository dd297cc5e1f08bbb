"""Schedule-free: averaging in place of a falling learning rate.

Defazio et al. 2024, "The Road Less Scheduled" (arXiv:2405.15682), Algorithm 1.

    x = (y − (1−β1)z) / β1                 the parameter is y, where gradients are taken
    z ← z − η·(p + λy)                     p the base's direction at y
    x ← (1−c)·x + c·z                      c = q/Σq
    y ← β1·x + (1−β1)·z

    base = sgd     p = ĝ                   base = adam    p = ĝ/(√v̂ + ε)
    weights = lr   q = (largest η)^r       weights = step  q = 1, so c = 1/t
    warmup         η·min(1, t/T)           late: the base's η is that of the update before
"""

from collections.abc import Mapping

from ..ir import Value, maximum, minimum, sqrt, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import EPS, LR, WEIGHT_DECAY, gradient

__all__ = ["schedule_free"]

INF = float("inf")


@family(
    "schedule_free",
    options=(
        Option(
            "base",
            {"sgd": "the base's direction is the gradient", "adam": "it is Adam's without a mean"},
        ),
        Option(
            "weights",
            {
                "lr": "an update weighs the largest rate so far, to the power `weight_lr_power` (Algorithm 1; Optax)",
                "step": "all updates weigh the same (Keras)",
            },
        ),
        Option(
            "warmup",
            {
                "none": "the learning rate as it is",
                "steps": "it rises over `warmup_steps` updates (Keras)",
                "late": "it rises, the base's one update behind the weights' (Optax)",
            },
        ),
        Option(
            "decay",
            {
                "none": "no weight decay",
                "base": "λy joins the base's direction (Algorithm 1; Optax)",
                "decoupled": "y·(1−ηλ) before the update; z is not decayed (Keras)",
            },
        ),
    ),
    hyperparameters=(
        LR,
        Hyper("beta1", 0.9, 0.0, 1.0, "share β1 of the average in y"),
        Hyper("beta2", 0.999, 0.0, 1.0, "decay rate β2 of the mean square", below=True),
        EPS,
        WEIGHT_DECAY,
        Hyper("weight_lr_power", 2.0, -INF, INF, "power r of the weights"),
        Hyper("warmup_steps", 1.0, 0.0, INF, "updates T until the learning rate is whole"),
    ),
    slots=(
        Slot("z", "the base's own iterate z", init="param"),
        Slot("exp_avg_sq", "running mean v of squared gradients"),
        Slot("weight_total", "sum of the weights q", shape="scalar"),
        Slot("max_lr", "largest learning rate so far", shape="scalar"),
    ),
    source="optax/contrib/_schedule_free.py; keras/src/optimizers/schedule_free_adamw.py",
)
def schedule_free(
    u: Update,
    *,
    base: OptionValue,
    weights: OptionValue,
    warmup: OptionValue,
    decay: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """A base optimizer whose iterates are averaged as it goes."""
    beta1 = u.hyper("beta1")
    rate, base_rate = _rates(u, warmup)
    g, z, y = gradient(u, decay), u.slot("z"), u.param
    new: dict[str, Value] = {}

    direction = g
    if base == "adam":
        beta2 = u.hyper("beta2")
        v = new["exp_avg_sq"] = beta2 * u.slot("exp_avg_sq") + (1 - beta2) * (g * g)
        direction = g / (sqrt(v / u.let("c2", 1 - beta2 ** _count(u))) + u.hyper("eps"))
    if decay == "base":
        direction = direction + u.hyper("weight_decay") * y
    if decay == "decoupled":
        # The host's decay knows nothing of the warmup.
        y = u.let("w_decayed", y * (1 - u.hyper("lr") * u.hyper("weight_decay")))
    z_new = new["z"] = z - base_rate * direction

    if weights == "lr":
        largest = new["max_lr"] = maximum(u.slot("max_lr"), rate)
        q = u.let("weight", largest ** u.hyper("weight_lr_power"))
        total = new["weight_total"] = u.slot("weight_total") + q
        c = where(total.equals(0), 0.0, q / total)
    else:
        c = 1 / _count(u)
    x = (y - (1 - beta1) * z) / beta1
    x = u.let("average", (1 - c) * x + c * z_new)
    return {"param": beta1 * x + (1 - beta1) * z_new, **new}


def _count(u: Update) -> Value:
    """The update in progress, from 1; asked for only where it is read."""
    return u.let("t", u.step + 1)


def _rates(u: Update, warmup: OptionValue) -> tuple[Value, Value]:
    """The learning rate of the weights, and the base's."""
    lr = u.hyper("lr")
    if warmup == "none":
        return lr, lr
    steps = u.hyper("warmup_steps")
    rate = lr * minimum(_count(u) / steps, 1.0)
    return rate, rate if warmup == "steps" else lr * minimum(u.step / steps, 1.0)
