"""PyTorch's optimizers as rules (torch 2.13, ``torch/optim``).

Conventions: ``maximize`` negates the gradient before decay joins it; state is kept per tensor, with
a ``step`` that is a float32 scalar; SGD keeps none, and has no buffer before the first update.
Parameter groups are the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

__all__ = ["OPTIMIZERS"]

Arguments = Mapping[str, Any]

# Which kernel computes a step, not what it computes; `initial_lr` is a scheduler's note.
_INERT = frozenset({"foreach", "fused", "capturable", "differentiable", "initial_lr", "swa_lr"})
_ALIASES = {"learning_rate": "lr"}
# What a saved group holds besides: PyTorch's own defaults for how a step is computed.
_SWITCHES = {"foreach": None, "differentiable": False, "fused": None}
_CAPTURABLE = {"foreach": None, "capturable": False, "differentiable": False}


def _common(a: Arguments) -> dict[str, OptionValue]:
    return {"maximize": bool(a["maximize"]), "rescale": False, "clip": "none", "scalars": "float64"}


def _sgd(a: Arguments) -> dict[str, OptionValue]:
    momentum = "unfolded" if a["momentum"] != 0 else "none"
    return {
        "momentum": momentum,
        "nesterov": "lookahead" if a["nesterov"] and momentum != "none" else "none",
        # The first update makes the buffer a copy of the gradient, whatever the dampening.
        "dampening": "not_first" if a["dampening"] != 0 and momentum != "none" else "none",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        **_common(a),
    }


def _check_sgd(a: Arguments) -> None:
    if a["nesterov"] and (not a["momentum"] or a["dampening"]):
        raise HyperparameterError(
            "torch:SGD: nesterov expected momentum > 0 and dampening 0, found "
            f"momentum {a['momentum']!r}, dampening {a['dampening']!r}"
        )


def _adam(decoupled: bool) -> Any:
    def options(a: Arguments) -> dict[str, OptionValue]:
        kind = "decoupled" if a.get("decoupled_weight_decay", decoupled) else "l2"
        return {
            "eps": "outside",
            "bias_correction": "both",
            "amsgrad": "raw" if a["amsgrad"] else "none",
            "decay": kind if a["weight_decay"] != 0 else "none",
            "post_decay": False,
            **_common(a),
        }

    return options


def _rmsprop(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "centered": bool(a["centered"]),
        "momentum": "unfolded" if a["momentum"] > 0 else "none",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        "clip_weights": False,
        **_common(a),
    }


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "lr_decay": "from_zero" if a["lr_decay"] != 0 else "none",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        **_common(a),
    }


def _variants(*choices: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Each choice with and without decay and ascent."""
    return tuple(
        {**c, "weight_decay": decay, "maximize": maximize}
        for c in choices
        for decay in (0.0, 1.0)
        for maximize in (False, True)
    )


_ADAM_LINKS = {
    "lr": Link("lr"),
    "beta1": Link("betas[0]"),
    "beta2": Link("betas[1]"),
    "eps": Link("eps"),
    "weight_decay": Link("weight_decay"),
}
_ADAM_SLOTS = (("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq"), ("max_exp_avg_sq", "max_exp_avg_sq"))
_ADAM_ARGUMENTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}

OPTIMIZERS = (
    Native(
        "torch",
        "SGD",
        "sgd",
        arguments={
            "lr": 1e-3,
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            "maximize": False,
        },
        options=_sgd,
        links={
            "lr": Link("lr"),
            "momentum": Link("momentum"),
            "dampening": Link("dampening"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("momentum_buffer", "momentum_buffer"),),
        variants=_variants(
            {"momentum": 0.0, "nesterov": False, "dampening": 0.0},
            {"momentum": 0.9, "nesterov": False, "dampening": 0.0},
            {"momentum": 0.9, "nesterov": False, "dampening": 0.5},
            {"momentum": 0.9, "nesterov": True, "dampening": 0.0},
        ),
        aliases=_ALIASES,
        file_defaults=_SWITCHES,
        inert=_INERT,
        validate=_check_sgd,
    ),
    Native(
        "torch",
        "Adam",
        "adam",
        # `decoupled_weight_decay=True` makes Adam AdamW; a saved group says which it is.
        arguments={
            **_ADAM_ARGUMENTS,
            "weight_decay": 0.0,
            "amsgrad": False,
            "maximize": False,
            "decoupled_weight_decay": False,
        },
        options=_adam(False),
        links=_ADAM_LINKS,
        slots=_ADAM_SLOTS,
        variants=_variants({"amsgrad": False}, {"amsgrad": True}),
        aliases=_ALIASES,
        step_slot="step",
        file_defaults={**_CAPTURABLE, "fused": None},
        inert=_INERT,
    ),
    Native(
        "torch",
        "AdamW",
        "adam",
        arguments={**_ADAM_ARGUMENTS, "weight_decay": 1e-2, "amsgrad": False, "maximize": False},
        options=_adam(True),
        links=_ADAM_LINKS,
        slots=_ADAM_SLOTS,
        variants=_variants({"amsgrad": False}, {"amsgrad": True}),
        aliases=_ALIASES,
        step_slot="step",
        file_defaults={**_CAPTURABLE, "fused": None, "decoupled_weight_decay": True},
        inert=_INERT | {"decoupled_weight_decay"},
    ),
    Native(
        "torch",
        "RMSprop",
        "rmsprop",
        arguments={
            "lr": 1e-2,
            "alpha": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum": 0.0,
            "centered": False,
            "maximize": False,
        },
        options=_rmsprop,
        links={h: Link(h) for h in ("lr", "alpha", "eps", "momentum", "weight_decay")},
        slots=(
            ("square_avg", "square_avg"),
            ("momentum_buffer", "momentum_buffer"),
            ("grad_avg", "grad_avg"),
        ),
        variants=_variants(*({"momentum": m, "centered": c} for m in (0.0, 0.9) for c in (False, True))),
        aliases=_ALIASES,
        step_slot="step",
        file_defaults=_CAPTURABLE,
        inert=_INERT,
    ),
    Native(
        "torch",
        "Adagrad",
        "adagrad",
        arguments={
            "lr": 1e-2,
            "lr_decay": 0.0,
            "weight_decay": 0.0,
            "initial_accumulator_value": 0.0,
            "eps": 1e-10,
            "maximize": False,
        },
        options=_adagrad,
        links={h: Link(h) for h in ("lr", "eps", "lr_decay", "weight_decay", "initial_accumulator_value")},
        slots=(("sum", "sum"),),
        variants=_variants({"lr_decay": 0.0}, {"lr_decay": 0.1}),
        aliases=_ALIASES,
        step_slot="step",
        file_defaults=_SWITCHES,
        inert=_INERT,
    ),
)
