"""NAdam: Adam with Nesterov's momentum.

Dozat 2016, "Incorporating Nesterov Momentum into Adam" (ICLR workshop), Algorithm 2, with the
momentum schedule of section 3: μ_t rises from near β1/2 to β1.

    μ_t = β1·(1 − ½·0.96^(tψ))         P ← P·μ_t, the product of all μ so far
    m ← β1·m + (1−β1)·ĝ                v ← β2·v + (1−β2)·ĝ²        c2 = 1 − β2ᵗ
    w ← w − η·[ (1−μ_t)·ĝ / (1−P) + μ_{t+1}·m / (1−P·μ_{t+1}) ] / (√(v/c2) + ε)

    schedule = constant   μ_t = β1, so P = β1ᵗ
    schedule = shared     P is one number S for the whole optimizer. With N tensors the k-th finds
                          P = S·μ_tᵏ, and S ← S·μ_tᴺ after all of them
"""

from collections.abc import Mapping

from ..ir import FLOAT32, FLOAT64, Value, cast
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import BETA, DECAY, EPS, WEIGHT_DECAY, decay_first, gradient
from .moments import corrected_mean, mean, mean_square, root

__all__ = ["nadam"]

INF = float("inf")


@family(
    "nadam",
    options=(
        Option(
            "schedule",
            {
                "own": "μ_t rises to β1; P is the tensor's own",
                "float32": "μ_t rises to β1; P is the tensor's own, kept in float32 (PyTorch)",
                "shared": "μ_t rises to β1; every update of every tensor multiplies one P (MXNet)",
                "constant": "β1 at every update (Optax)",
            },
        ),
        Option(
            "momentum_decay",
            {
                False: "ψ = 1 (Keras)",
                True: "ψ is the hyperparameter `momentum_decay`",
            },
        ),
        DECAY,
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
        Hyper("lr", 2e-3, -INF, INF, "learning rate of this step"),
        BETA("beta1", 0.9, "decay rate β1 of the mean"),
        BETA("beta2", 0.999, "decay rate β2 of the mean square"),
        EPS,
        Hyper("momentum_decay", 4e-3, 0.0, INF, "ψ: how fast the momentum rises"),
        WEIGHT_DECAY,
        Hyper("eps_root", 0.0, 0.0, INF, "ε under the root", 0.0),
        Hyper("tensors", 0.0, 0.0, INF, "N: how many tensors the optimizer has", whole=True, numbers="all"),
        Hyper("place", 0.0, 0.0, INF, "k: which of them this one is, from 1", whole=True, numbers="own"),
    ),
    slots=(
        Slot("exp_avg", "running mean m of the gradient"),
        Slot("exp_avg_sq", "running mean v of its square"),
        Slot("mu_product", "product P of the momenta so far", init="1", shape="scalar", dtype="float64"),
    ),
    source="torch/optim/nadam.py; mxnet/optimizer/optimizer.py (Nadam); optax/_src/transform.py "
    "(scale_by_adam, nesterov); keras/src/optimizers/nadam.py",
)
def nadam(
    u: Update,
    *,
    schedule: OptionValue,
    momentum_decay: OptionValue,
    decay: OptionValue,
    eps_root: OptionValue,
    **_: OptionValue,
) -> Mapping[str, Value]:
    """Adam's step with the mean of the next update and the gradient of this one."""
    g, w = gradient(u, decay), decay_first(u, decay)
    m, v = mean(u, g), mean_square(u, g)
    new = {"exp_avg": m, "exp_avg_sq": v}
    if schedule == "constant":
        ahead = corrected_mean(u, m, g, nesterov=True)
    else:
        t = u.let("t", u.step + 1)
        mu, mu_next = u.let("mu", _mu(u, t, momentum_decay)), u.let("mu_next", _mu(u, t + 1, momentum_decay))
        product, new["mu_product"] = _products(u, mu, schedule)
        now = u.kernel((1 - mu) / (1 - product))
        later = u.kernel(mu_next / (1 - product * mu_next))
        ahead = u.let("m_hat", now * g + later * m)
    denominator = u.let("denominator", root(u, v, bool(eps_root)) + u.kernel(u.hyper("eps")))
    return {"param": w - u.kernel(u.hyper("lr")) * (ahead / denominator), **new}


def _mu(u: Update, t: Value, momentum_decay: OptionValue) -> Value:
    exponent = t * u.hyper("momentum_decay") if momentum_decay else t
    return u.hyper("beta1") * (1 - 0.5 * u.tracer.const(0.96) ** exponent)


def _products(u: Update, mu: Value, schedule: OptionValue) -> tuple[Value, Value]:
    """P of this update, and what the slot holds after the step."""
    before = u.slot("mu_product")
    if schedule == "shared":
        product = before * mu ** u.hyper("place")
        return u.let("product", product), before * mu ** u.hyper("tensors")
    product = before * mu
    if schedule == "float32":
        product = cast(cast(before, FLOAT32) * cast(mu, FLOAT32), FLOAT64)
    return product, product
