"""What looks wrong in a state, in words: for a person to read before trusting the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from .inspect import TensorInfo

__all__ = ["NONNEGATIVE", "counter_warnings", "tensor_warnings", "unequal_steps"]

# The rule's slots that are sums, means or maxima of squares or absolute values, rates or counts.
# A negative entry is damage whatever the gradients were.
NONNEGATIVE = frozenset(
    (
        *(
            "exp_avg_sq",
            "max_exp_avg_sq",
            "exp_avg_var",
            "square_avg",
            "acc_delta",
            "sum",
            "accumulator",
            "norm_sq",
        ),
        *("row_var", "col_var", "largest_var", "second_var", "variance", "exp_inf", "step_length"),
        *(f"cover_{axis}" for axis in range(5)),
        *("max_lr", "weight_total", "loss_scale", "growth_tracker", "bad_updates", "updates", "iterations"),
    )
)

# From this count on adding 1 gives the same number: 2 to the number of bits of the significand.
_LAST: dict[np.dtype, int] = {
    np.dtype(ml_dtypes.bfloat16): 1 << 8,
    np.dtype(np.float16): 1 << 11,
    np.dtype(np.float32): 1 << 24,
    np.dtype(np.float64): 1 << 53,
}


def counter_warnings(counters: Iterable[tuple[str, str, np.ndarray]]) -> Iterator[str]:
    """Step counters that cannot be: (parameter, slot, one number) each."""
    for param, slot, array in counters:
        where = f"parameter {param!r}, slot {slot!r}"
        if array.size != 1:
            yield f"{where}: expected one step count, found shape {list(array.shape)}"
            continue
        number = float(array.reshape(-1)[0])
        if not np.isfinite(number) or number < 0 or number != np.floor(number):
            yield f"{where}: counts {number:g} updates, which is no whole number from 0 up; the file is damaged"
        elif array.dtype in _LAST and number >= _LAST[array.dtype]:
            yield (
                f"{where}: {number:.0f} in {array.dtype.name}, which has no next whole number: the counter is stuck, "
                "more updates may have been made; give the true count with --step"
            )


def tensor_warnings(tensors: Iterable[TensorInfo], steps: Mapping[str, int | None]) -> Iterator[str]:
    """NaN, infinite and negative values, and slots without any life. steps: completed updates, by parameter."""
    for t in tensors:
        where = f"parameter {t.param!r}, slot {t.slot!r}"
        if t.nan or t.inf:
            yield f"{where}: {t.nan} NaN and {t.inf} infinite values"
        elif t.norm == 0 and t.role not in (None, "step") and t.shape != () and t.bytes:
            after = steps.get(t.param)
            # Before the first update every slot may be 0.
            if after is None or after > 0:
                yield f"{where}: dead, every value is 0" + (f" after {after} updates" if after else "")
        if t.negative:
            yield (
                f"{where}: {t.negative} negative entries, which {t.role} cannot have by its rule; the file is damaged"
            )


def unequal_steps(steps: Mapping[str, int | None], groups: Iterable[Iterable[str]]) -> Iterator[str]:
    """Groups whose parameters were not updated equally often."""
    for i, params in enumerate(groups):
        counted = {p: n for p in params if (n := steps.get(p))}
        if len(set(counted.values())) > 1:
            least, most = min(counted, key=counted.__getitem__), max(counted, key=counted.__getitem__)
            yield (
                f"group {i}: parameters were updated {counted[least]} ({least!r}) to {counted[most]} times ({most!r})"
            )
