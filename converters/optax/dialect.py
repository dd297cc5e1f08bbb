"""Optax' optimizers as rules (Optax 0.2.8, ``optax/_src/alias.py``, ``transform.py``).

One file a family in ``optimizers/``, collected here; ``optimizers/common.py`` says what all of them
share, and what is refused. An optimizer has one set of arguments for all parameters (groups are
`optax.multi_transform`'s); the step count is one number for all of them.
"""

from __future__ import annotations

from typing import Any

from ._arrange import arrange
from .chain import chain_entry, resolve
from .optimizers import (
    adadelta,
    adagrad,
    adam,
    adamax,
    adaptive,
    factored,
    layerwise,
    lbfgs,
    lion,
    muon,
    nadam,
    others,
    radam,
    rmsprop,
    rprop,
    schedule_free,
    sgd,
    signum,
)
from .optimizers.common import OptaxNative, State

__all__ = ["ABSENT", "ALIASES", "OPTIMIZERS", "arrange", "chain_state"]

ALIASES: tuple[OptaxNative, ...] = (
    *sgd.ROWS,
    *adam.ROWS,
    *adamax.ROWS,
    *nadam.ROWS,
    *radam.ROWS,
    *adaptive.ROWS,
    *lion.ROWS,
    *rmsprop.ROWS,
    *adagrad.ROWS,
    *adadelta.ROWS,
    *signum.ROWS,
    *rprop.ROWS,
    *layerwise.ROWS,
    *lbfgs.ROWS,
    *factored.ROWS,
    *muon.ROWS,
    *schedule_free.ROWS,
    *others.ROWS,
)
OPTIMIZERS: tuple[OptaxNative, ...] = (*ALIASES, chain_entry(ALIASES))


def chain_state(links: Any) -> State:
    """How the state of a chain of these links is nested."""
    return resolve(links, {r.name.lower(): r for r in ALIASES}).state


_VALUE = "its step needs the value of the loss, which no other optimizer is given"
_DISTANCE = "its rate follows the distance from the first weights, over all of them; no counterpart anywhere"
ABSENT = {
    "optimistic_adam": "deprecated in Optax; optimistic_adam_v2 with alpha the learning rate is the same",
    "polyak_sgd": _VALUE,
    "momo": _VALUE,
    "momo_adam": _VALUE,
    "reduce_on_plateau": _VALUE,
    "dog": _DISTANCE,
    "dowg": _DISTANCE,
    "dadapt_adamw": _DISTANCE,
    "prodigy": _DISTANCE,
    "cocob": _DISTANCE,
    "mechanize": "a wrapper that tunes another optimizer's rate from a history of bets; no counterpart anywhere",
    "sam": "it asks for a second gradient at other weights within one update",
    "sophia": "it estimates a Hessian itself; the rule `newton` takes one that is given",
    "dpsgd": "it needs the gradient of every example apart",
    "galore": "it projects gradients through a singular value decomposition, which the rules do not have",
    "acprop": "no other framework here has it; not among the described rules",
    "ademamix": "no other framework here has it; not among the described rules",
    "simplified_ademamix": "no other framework here has it; not among the described rules",
    "adopt": "no other framework here has it; not among the described rules",
    "madgrad": "no other framework here has it; not among the described rules",
    "normalize": "a transformation, not an optimizer",
}
