"""Rprop: resilient backpropagation.

Riedmiller & Braun 1993, "A direct adaptive method for faster backpropagation learning: the RPROP
algorithm"; Igel & Hüsken 2000, "Improving the Rprop Learning Algorithm" (iRprop−): where the
gradient's sign turns, the step shrinks and the gradient counts as 0.

    Δ ← clamp(Δ·η⁺)   g = ĝ      where ĝ·prev > 0
    Δ ← clamp(Δ·η⁻)   g = 0      where ĝ·prev < 0
    Δ ← Δ             g = ĝ      elsewhere

    at_once    w ← w − Δ·sign(g)          prev ← g
    late       w ← w − prev               prev ← Δ·sign(g)     (no step where the sign turns)

Δ starts at the learning rate, which matters nowhere else.
"""

from collections.abc import Mapping

from ..ir import Value, maximum, minimum, sign, where
from .base import Hyper, Option, OptionValue, Slot, Update, family
from .common import LR, WEIGHT_DECAY, gradient

__all__ = ["rprop"]

INF = float("inf")


@family(
    "rprop",
    options=(
        Option(
            "step",
            {
                "at_once": "the step that this gradient makes; it is clamped at every update (PyTorch)",
                "late": "the step that the last gradient made; clamped where it changes (Optax)",
            },
        ),
        Option("decay", {"none": "no weight decay", "l2": "λw joins the gradient (a chain of Optax)"}),
    ),
    hyperparameters=(
        LR,
        Hyper("etaplus", 1.2, 0.0, INF, "η⁺: growth of a step whose sign stays", 1.0),
        Hyper("etaminus", 0.5, 0.0, INF, "η⁻: shrinking of a step whose sign turns", 1.0),
        Hyper("step_size_min", 1e-6, 0.0, INF, "shortest step", 0.0),
        Hyper("step_size_max", 50.0, 0.0, INF, "longest step", INF),
        WEIGHT_DECAY,
    ),
    slots=(
        Slot("prev", "the last gradient, or the last step where it is late; 0 where the sign turned"),
        Slot("step_length", "Δ: the step's length", init="lr"),
    ),
    source="torch/optim/rprop.py; optax/_src/transform.py (scale_by_rprop)",
)
def rprop(u: Update, *, step: OptionValue, decay: OptionValue, **_: OptionValue) -> Mapping[str, Value]:
    """Steps whose length follows the gradient's sign alone."""
    up, down, low, high = (u.hyper(h) for h in ("etaplus", "etaminus", "step_size_min", "step_size_max"))
    g, prev, size = gradient(u, decay), u.slot("prev"), u.slot("step_length")
    turn = u.let("turn", g * prev)
    grown = where(turn > 0, size * up, where(turn < 0, size * down, size))
    clamped = minimum(maximum(grown, low), high)
    if step == "at_once":
        g = where(turn < 0, 0.0, g)
        return {"param": u.param - clamped * sign(g), "prev": g, "step_length": clamped}
    size = where(turn.equals(0), size, clamped)
    taken = where(turn < 0, 0.0, prev)
    return {"param": u.param - taken, "prev": where(turn < 0, 0.0, size * sign(g)), "step_length": size}
