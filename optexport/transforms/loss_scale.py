"""Loss scaling: gradients of a loss that was multiplied by S, and what to do when they overflow.

Micikevicius et al. 2018, "Mixed Precision Training" (arXiv:1710.03740), section 3.2. The gradients
are divided by S. If one of the step, of any parameter, is no finite number, nothing is updated. The
dynamic S is that of ``torch.amp.GradScaler`` and Keras' ``LossScaleOptimizer``: halved (times the
backoff factor) after an overflow, doubled (times the growth factor) after so many calls without one.
"""

from ..ir import FLOAT32, Value, cast, group_sum, total, where

__all__ = ["adapt", "all_finite", "count_bad"]


def all_finite(g: Value) -> Value:
    """Whether every gradient of the step is finite: g − g is 0 where g is, and NaN elsewhere."""
    return group_sum(total(g - g)).equals(0.0)


def count_bad(finite: Value, bad: Value) -> Value:
    """Calls in a row with an overflow, this one included."""
    return where(finite, 0.0, bad + 1)


def adapt(
    finite: Value, scale: Value, tracker: Value, growth: Value, backoff: Value, interval: Value
) -> tuple[Value, Value]:
    """The new scale and the number of calls since it last changed.

    The scale is a float32; it does not grow beyond the largest one.
    """
    due = (tracker + 1).equals(interval)
    grown = cast(scale * growth, FLOAT32)
    grown = where((grown - grown).equals(0.0), grown, scale)
    return (
        where(finite, where(due, grown, scale), scale * backoff),
        where(finite, where(due, 0.0, tracker + 1), 0.0),
    )
