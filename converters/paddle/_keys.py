"""Keys of Paddle's optimizer state: ``PARAMETER[_fp32_master_N]_SLOT_N``."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["POWERS", "SLOTS", "Key", "join_key", "split"]

# Powers that stand for the step: slot -> (argument whose power it is, power before the first update).
POWERS: dict[str, tuple[str | float, int]] = {
    "beta1_pow_acc": ("beta1", 1),
    "beta2_pow_acc": ("beta2", 1),
    "beta1_pow": ("beta1", 0),
    "beta2_pow": ("beta2", 0),
    "momentum_decay_pow": (0.96, 0),
}
SLOTS = frozenset(
    {
        *POWERS,
        "velocity",
        "moment",
        "moment1",
        "moment2",
        "moment2_max",
        "_avg_squared_grad",
        "_avg_squared_update",
        "momentum",
        "mean_square",
        "mean_grad",
        "inf_norm",
        "mu_product",
        "rho",
        "prevs",
        "learning_rates",
        "d",
        "y",
        "m",
    }
)
_LONGEST_FIRST = sorted(SLOTS, key=len, reverse=True)
_NUMBER = re.compile(r"_\d{1,9}$")
_MASTER = re.compile(r"_fp32_master_\d{1,9}$")


@dataclass(frozen=True)
class Key:
    """param: as Paddle names it (``linear_0.w_0``). master: whether the slot belongs to a float32 master."""

    param: str
    slot: str
    master: bool


def split(key: str) -> Key | None:
    """The parts of a key, None where it is none of an optimizer's."""
    number = _NUMBER.search(key)
    if number is None:
        return None
    stem = key[: number.start()]
    for slot in _LONGEST_FIRST:
        if stem.endswith("_" + slot) and len(stem) > len(slot) + 1:
            param = stem[: -len(slot) - 1]
            plain = _MASTER.sub("", param)
            return Key(plain or param, slot, bool(plain) and plain != param)
    return None


def join_key(param: str, slot: str, master: bool) -> str:
    """The key that an optimizer made first in a process looks for."""
    return f"{param}_fp32_master_0_{slot}_0" if master else f"{param}_{slot}_0"
