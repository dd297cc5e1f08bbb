"""nadam (class Nadam).

``m_schedule``, the product of momenta, is one number of the optimizer object: every update of every
tensor multiplies it. What a tensor finds there depends on how many tensors the optimizer has and on
which of them it is; the rule counts both, once the parameters are known, and supposes that every
step updates all of them in order. The number is in a ``.states`` file only with the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optexport.dialects import Link
from optexport.errors import CheckpointError
from optexport.rules.base import OptionValue
from optexport.state.native import NativeGroup, NativeState

from .common import BETAS, CLIP32, Arguments, arrays, native

__all__ = ["PRODUCT", "ROWS", "with_product"]

PRODUCT = "m_schedule"


def _nadam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "schedule": "shared",
        "momentum_decay": True,
        "decay": "l2" if a["wd"] != 0 else "none",
        **arrays(a, "after_decay"),
    }


ROWS = (
    native(
        "nadam",
        "nadam",
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "schedule_decay": 0.004},
        class_name="Nadam",
        options=_nadam,
        links={**CLIP32, **BETAS, "momentum_decay": Link("schedule_decay")},
        slots=(("m", "exp_avg"), ("v", "exp_avg_sq"), (PRODUCT, "mu_product")),
        more_inert=frozenset({PRODUCT}),
        note="one m_schedule for all tensors; every step must update all of them, in order",
    ),
)


def with_product(native: NativeState, path: str, given: Mapping[str, Any], where: str) -> NativeState:
    """``native`` with the optimizer's ``m_schedule`` among the slots of each parameter that has any.

    path: the slot's. given: arguments that the file does not hold.

    Raises:
        CheckpointError: neither the file nor ``given`` has a number for it.
    """
    (group,) = native.groups
    held = {**group.arguments, **given}.get(PRODUCT)
    if not any(native.slots.values()):
        return native
    if not isinstance(held, int | float) or isinstance(held, bool):
        raise CheckpointError(
            f"{where}: expected {PRODUCT}, the product of momenta that mxnet:nadam goes on with, found none; "
            f"save the states with dump_optimizer=True, or give it with --hyper {PRODUCT}=…"
        )
    slots = {k: {**s, path: np.asarray(held, np.float64)} if s else s for k, s in native.slots.items()}
    arguments = {k: v for k, v in group.arguments.items() if k != PRODUCT}
    return replace(native, slots=slots, groups=[NativeGroup(arguments, group.params)])
