"""Keras 3's optimizers as rules (Keras 3.15, ``keras/src/optimizers``).

One file a family in ``optimizers/``, collected here; ``optimizers/common.py`` says what all of them
share, and what is refused. An optimizer has one set of arguments for all parameters; its step count
``iteration`` is shared too. Files know parameters by position alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optexport.errors import CheckpointError
from optexport.specs import Spec
from optexport.state.native import NativeGroup, NativeState

from ._keras2 import KERAS2, from_keras2
from ._positions import COUNT, POSITIONS, SHARED, TRAINED, named_by, placed
from .optimizers import (
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    ftrl,
    lamb,
    lion,
    muon,
    nadam,
    rmsprop,
    schedule_free,
    sgd,
)
from .optimizers.common import BASE, KerasNative
from .schedule_state import SCHEDULE, followed

__all__ = ["ABSENT", "OPTIMIZERS", "arrange", "join"]

OPTIMIZERS: tuple[KerasNative, ...] = (
    *sgd.ROWS,
    *adam.ROWS,
    *adamax.ROWS,
    *nadam.ROWS,
    *lion.ROWS,
    *rmsprop.ROWS,
    *adagrad.ROWS,
    *adadelta.ROWS,
    *ftrl.ROWS,
    *lamb.ROWS,
    *adafactor.ROWS,
    *muon.ROWS,
    *schedule_free.ROWS,
)

ABSENT = {
    "LossScaleOptimizer": "a wrapper; give its initial_scale and dynamic_growth_steps to the optimizer inside, as in "
    "keras:Adam with initial_scale=32768",
    "MultiOptimizer": "one optimizer for each layer; say it by parameter groups",
    "OptimizerMap": "a table that MultiOptimizer reads, not an optimizer",
}


def join(spec: Spec, order: Sequence[str], steps: Mapping[str, int]) -> dict[str, Any]:
    """The one set of arguments that a Keras optimizer has for all parameters.

    Raises:
        CheckpointError: groups differ in an argument.
    """
    del order, steps
    made = [{**g.arguments, "learning_rate": g.values()["lr"]} for g in spec.groups]
    for other in made[1:]:
        for key, value in made[0].items():
            if other.get(key) != value and key != "name":
                raise CheckpointError(
                    f"keras: groups differ in {key}: {value!r} and {other.get(key)!r}; Keras has one value for all, "
                    "emit an optimizer with --emit-optimizer FILE"
                )
    return made[0]


def arrange(native: NativeState, entry: KerasNative, given: Mapping[str, Any], where: str) -> NativeState:
    """``native`` with its variables under the slots of ``entry``.

    given: arguments that the file does not hold.

    Raises:
        CheckpointError: the variables do not fit, or the learning rate is a schedule and none is given.
    """
    (group,) = native.groups
    given = {entry.aliases.get(k, k): v for k, v in given.items()}
    native = _without_schedule(native, given)
    known = {k: v for k, v in group.arguments.items() if k in entry.arguments}
    if "learning_rate" not in {**known, **given} and not followed(native):
        schedule = native.extras.get(SCHEDULE)
        kind = f" ({schedule.get('class_name')})" if isinstance(schedule, dict) else ""
        raise CheckpointError(
            f"{where}: the learning rate is a schedule{kind}; give the next step's with --hyper learning_rate=…"
        )
    if KERAS2 in native.extras:
        return from_keras2(native, entry, {**known, **given}, where)
    if POSITIONS not in native.extras:
        return native
    variables = [native.slots[k]["vars"] for k in group.params]
    trained = native.extras.get(TRAINED)
    slots = placed(
        entry,
        entry.complete({**known, **given}),
        variables,
        where,
        native.extras.get(SHARED),
        len(trained or native.weights if native.ordered else ()),
    )
    # What every optimizer has is off unless somebody turns it on; an optimizer's own values matter.
    assumed = [
        f"{k}={v}"
        for k, v in entry.arguments.items()
        if k not in known and k not in given and v != BASE.get(k, ())
    ]
    warnings = list(native.warnings)
    if assumed and native.optimizer is None:
        warnings.append(
            "the file holds no hyperparameters but the learning rate; assumed "
            f"{entry.qualified}'s defaults {', '.join(assumed)}"
        )
    out = replace(
        native,
        groups=[NativeGroup(known, list(slots))],
        slots=slots,
        steps=dict.fromkeys(slots, native.extras[COUNT]),
        extras={k: v for k, v in native.extras.items() if k not in (POSITIONS, TRAINED, COUNT)},
        warnings=warnings,
    )
    return out if trained is None else named_by(out, trained)


def _without_schedule(native: NativeState, given: Mapping[str, Any]) -> NativeState:
    """What somebody states is meant, whatever the file says."""
    if SCHEDULE not in native.extras or "learning_rate" not in given:
        return native
    said = f"learning_rate={given['learning_rate']} stands in for the file's schedule"
    extras = {k: v for k, v in native.extras.items() if k != SCHEDULE}
    return replace(native, extras=extras, warnings=[*native.warnings, said])
