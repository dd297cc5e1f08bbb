"""Which optimizer class wrote a group, told by the names in the file: a class is not named there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["SIGNATURES", "Signature", "optimizer_of"]


@dataclass(frozen=True)
class Signature:
    """Group argument names of one class of ``torch.optim``.

    needs: names that together occur in no other class. known: every other name it has had in any
    version. slots: state names of which at least one must be there, where ``needs`` is not enough.
    """

    name: str
    needs: frozenset[str]
    known: frozenset[str]
    slots: frozenset[str] = frozenset()


# Arguments that say how to compute, not what; and what schedulers and users' tools add to groups.
_COMMON = frozenset(("lr", "weight_decay", "maximize", "foreach", "capturable", "differentiable", "fused"))
_ADDED = frozenset(
    (
        *("initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "max_momentum", "base_momentum"),
        *("lr_scale", "lr_mult", "name", "group_name"),
    )
)


def _signature(name: str, needs: str, known: str = "", slots: str = "") -> Signature:
    return Signature(name, frozenset(needs.split()), frozenset(known.split()), frozenset(slots.split()))


SIGNATURES: Sequence[Signature] = (
    _signature("SGD", "momentum dampening nesterov"),
    _signature("Muon", "momentum nesterov ns_coefficients ns_steps", "eps adjust_lr_fn"),
    _signature("RMSprop", "alpha centered momentum", "eps"),
    _signature("Adagrad", "lr_decay", "eps initial_accumulator_value"),
    _signature("Adadelta", "rho eps"),
    _signature("NAdam", "betas momentum_decay", "eps decoupled_weight_decay"),
    _signature("Rprop", "etas step_sizes"),
    _signature("ASGD", "lambd alpha t0"),
    _signature("Adafactor", "beta2_decay d", "eps"),
    _signature("LBFGS", "history_size max_iter", "max_eval tolerance_grad tolerance_change line_search_fn"),
    _signature("Adam", "betas amsgrad decoupled_weight_decay", "eps"),
    _signature("RAdam", "betas decoupled_weight_decay", "eps", "exp_avg_sq"),
    _signature("Adamax", "betas", "eps", "exp_inf"),
)


def optimizer_of(groups: Sequence[Mapping[str, Any]], slots: Iterable[str]) -> tuple[str | None, list[str]]:
    """(class name or None, warnings) for groups' arguments and the slot names that occur.

    Adam and AdamW are the same class to a file before ``decoupled_weight_decay`` was added to it.
    """
    slots = frozenset(slots)
    names = {_one(frozenset(group) - {"params", "param_names"}, group, slots) for group in groups}
    if len(names) == 1 and None not in names:
        return names.pop(), []
    if {name for name in names if name} == {"Adam", "AdamW"}:
        return None, [
            "the groups differ in decoupled_weight_decay, so they are neither all Adam nor all AdamW"
        ]
    if groups and all({"betas", "amsgrad"} <= set(group) for group in groups):
        return None, ["the file does not say whether it is Adam or AdamW; name the optimizer"]
    return None, ["the file does not say which optimizer wrote it; name the optimizer"]


def _one(names: frozenset[str], group: Mapping[str, Any], slots: frozenset[str]) -> str | None:
    names = names - _ADDED
    for signature in SIGNATURES:
        # An argument that the class never had means another class, perhaps somebody's own.
        if not signature.needs <= names <= signature.needs | signature.known | _COMMON:
            continue
        if signature.slots and not signature.slots & slots:
            continue
        if signature.name == "Adam":
            return "AdamW" if group["decoupled_weight_decay"] else "Adam"
        return signature.name
    return None
