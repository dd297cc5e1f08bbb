"""lbsgd (class LBSGD in ``optimizer/optimizer.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optexport.dialects import Link
from optexport.errors import CheckpointError, HyperparameterError
from optexport.rules.base import OptionValue

from .common import MOMENTUM, Arguments, common, native

__all__ = ["ROWS", "host_state"]

_STRATEGIES = ("linear", "power2", "sqrt", "lars")


@dataclass(frozen=True)
class _FirstCall(Link):
    """Calls that count as made: ``begin_epoch · updates_per_epoch``, which a file keeps multiplied out."""

    def read(self, arguments: Arguments) -> Any:
        made = arguments["init_updates"]
        return arguments["begin_epoch"] * arguments["updates_per_epoch"] if made is None else made

    def write(self, arguments: dict[str, Any], value: float) -> None:
        arguments["init_updates"] = int(value)


def _lbsgd(a: Arguments) -> dict[str, OptionValue]:
    strategy = a["warmup_strategy"]
    return {
        "momentum": "folded" if a["momentum"] > 0 else "none",
        "decay": "l2" if a["wd"] != 0 else "none",
        # Any other word is a warm-up that does not rise.
        "warmup": strategy if strategy in _STRATEGIES else "none",
        **common(a, "before_decay"),
    }


def _check(a: Arguments) -> None:
    if a["begin_num_update"]:
        raise HyperparameterError(
            f"mxnet:lbsgd: begin_num_update expected 0, found {a['begin_num_update']!r}; its own call counter starts "
            "from begin_epoch·updates_per_epoch and would part from the step count"
        )


def host_state(a: Arguments, counts: Mapping[int, int]) -> dict[str, Any]:
    """The call counters, as the optimizer object keeps them beside its states.

    counts: calls of each index. Raises CheckpointError in the middle of a batch: the gradients gathered
    so far are the object's too.
    """
    first = int(_FirstCall("begin_epoch").read(a))
    for index, made in counts.items():
        if (first + made) % a["batch_scale"]:
            raise CheckpointError(
                f"mxnet:lbsgd: index {index}: expected a whole number of batches of {a['batch_scale']} gradients, found "
                f"{first + made} calls; MXNet's states do not hold gathered gradients, save after a whole batch"
            )
    gathered = {i: {"cum_grad": 0, "num_cums": first + made} for i, made in counts.items() if made}
    return {"init_updates": first, "cumgrads": gathered}


ROWS = (
    native(
        "lbsgd",
        "lbsgd",
        {
            "momentum": 0.0,
            "warmup_strategy": "linear",
            "warmup_epochs": 5,
            "batch_scale": 1,
            "updates_per_epoch": 32,
            "begin_epoch": 0,
            "init_updates": None,
        },
        class_name="LBSGD",
        options=_lbsgd,
        links={
            **MOMENTUM,
            "batch_scale": Link("batch_scale"),
            "warmup_calls": Link("warmup_epochs", times="updates_per_epoch"),
            "first_call": _FirstCall("begin_epoch"),
        },
        slots=(("mom", "momentum_buffer"), ("cum_grad", "cum_grad")),
        variants=tuple(
            {"momentum": m, "warmup_strategy": s} for m in (0.0, 0.9) for s in (*_STRATEGIES, "none")
        ),
        more_inert=frozenset({"num_epochs", "cumgrads", "lbmult", "adaptive", "admult"}),
        validate=_check,
        note="the gathered gradients and the call counter are the optimizer object's (cumgrads), not its states': "
        "a file of states alone loses them, so save after a whole batch",
    ),
)
