"""A factor at each of some counts.

η = base · γ^(number of milestones ≤ k)
"""

from ..ir import Value, where
from .base import BASE, Clock, Numbers, plan
from .exponential import GAMMA

__all__ = ["multi_step"]


@plan(
    "multi_step",
    options=(
        Numbers("milestones", "counts at which the value is multiplied by γ", whole=True, rising="weakly"),
    ),
    hyperparameters=(BASE, GAMMA),
    source="torch MultiStepLR; MXNet MultiFactorScheduler",
)
def multi_step(s: Clock, *, milestones: tuple[float, ...]) -> Value:
    """base · γ^(milestones passed)"""
    passed = s.const(0)
    for milestone in milestones:
        passed = passed + where(s.k < milestone, s.const(0), 1)
    return s.hyper("base") * s.hyper("gamma") ** s.let("passed", passed)
