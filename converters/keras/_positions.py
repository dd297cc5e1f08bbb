"""Which optimizer variable is which: Keras' files know them by position alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optexport.errors import CheckpointError

from .optimizers.common import KerasNative, variable_order

__all__ = ["placed"]

Slots = dict[str, dict[str, np.ndarray]]


def placed(
    entry: KerasNative, arguments: Mapping[str, Any], variables: Sequence[np.ndarray], where: str
) -> Slots:
    """Parameter's place as text -> slot -> array.

    arguments: complete. variables: those after ``iteration`` and ``learning_rate``.

    Raises:
        CheckpointError: their number does not fit the optimizer.
    """
    each = [slot for place, slot in variable_order(entry, arguments, 1) if place is not None]
    once = len(variable_order(entry, arguments, 0))
    count, rest = divmod(len(variables) - once, len(each)) if each else (0, len(variables) - once)
    if rest or count < 0:
        raise CheckpointError(
            f"{where}: expected variables of {entry.qualified} at these arguments, {', '.join(each) or 'none'} of each "
            f"parameter{f' and {once} more' if once else ''}; found {len(variables)}; was it another optimizer?"
        )
    out: Slots = {str(i): {} for i in range(count)}
    for (place, slot), array in zip(variable_order(entry, arguments, count), variables, strict=True):
        for key in out if place is None else [str(place)]:
            out[key][slot] = array
    for key, slots in out.items():
        out[key] = {slot: slots[slot] for slot, _ in entry.slots if slot in slots}
    return out
