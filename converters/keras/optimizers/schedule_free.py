"""ScheduleFreeAdamW (``keras/src/optimizers/schedule_free_adamw.py``): ``momentum`` is z; all updates
weigh the same; the decay is y's alone."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import Arguments, native

__all__ = ["ROWS"]


def _schedule_free(a: Arguments) -> dict[str, OptionValue]:
    return {"base": "adam", "weights": "step", "warmup": "steps" if a["warmup_steps"] > 0 else "none"}


ROWS = (
    native(
        "ScheduleFreeAdamW",
        "schedule_free",
        {"learning_rate": 0.0025, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8, "warmup_steps": 0},
        _schedule_free,
        links={
            "beta1": Link("beta_1"),
            "beta2": Link("beta_2"),
            "eps": Link("epsilon"),
            "warmup_steps": Link("warmup_steps", float, int),
        },
        slots=(("momentum", "z"), ("velocity", "exp_avg_sq")),
        variants=({"warmup_steps": 0}, {"warmup_steps": 1}),
    ),
)
