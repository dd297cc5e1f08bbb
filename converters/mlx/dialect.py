"""MLX's optimizers as rules (MLX 0.32, ``mlx/optimizers/optimizers.py``).

State is a tree like the parameters' own, with one ``step`` and one ``learning_rate`` for all of them
at its top. Neither Adam nor Adamax corrects its bias unless it is told to. Numbers that follow from
the step alone (βᵗ, t^κ) are float32 whatever the parameters are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from optexport.dialects import Link, Native
from optexport.errors import CheckpointError, HyperparameterError
from optexport.rules.base import OptionValue
from optexport.specs import Spec
from optexport.state.native import NativeState

__all__ = ["ABSENT", "OPTIMIZERS", "arrange", "join"]

Arguments = Mapping[str, Any]

_ALIASES = {"lr": "learning_rate"}
_PLAIN: Mapping[str, OptionValue] = {
    "maximize": False,
    "rescale": False,
    "clip": "none",
    "scalars": "float64",
}
_BETAS = {"beta1": Link("betas[0]"), "beta2": Link("betas[1]")}
_DECAYS = ({"weight_decay": 0.0}, {"weight_decay": 1.0})


def _sgd(a: Arguments) -> dict[str, OptionValue]:
    moving = a["momentum"] > 0
    return {
        "momentum": "unfolded" if moving else "none",
        "nesterov": "lookahead" if moving and a["nesterov"] else "none",
        "dampening": "always" if moving and a["dampening"] > 0 else "none",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        **_PLAIN,
    }


def _check_sgd(a: Arguments) -> None:
    if a["nesterov"] and (a["momentum"] <= 0 or a["dampening"] != 0):
        raise HyperparameterError(
            "mlx:SGD: nesterov=True expected a momentum above 0 and no dampening, found "
            f"momentum={a['momentum']}, dampening={a['dampening']}"
        )


def _rmsprop(_: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "centered": False,
        "momentum": "none",
        "decay": "none",
        "clip_weights": False,
        **_PLAIN,
    }


def _adagrad(_: Arguments) -> dict[str, OptionValue]:
    return {"eps": "outside", "lr_decay": "none", "decay": "none", **_PLAIN}


def _adadelta(_: Arguments) -> dict[str, OptionValue]:
    return {"rate": "lr", "decay": "none", **_PLAIN}


def _adam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "bias_correction": "both" if a["bias_correction"] else "none",
        "amsgrad": "none",
        "decay": "decoupled" if a.get("weight_decay", 0) != 0 else "none",
        "post_decay": False,
        **_PLAIN,
    }


def _adamax(_: Arguments) -> dict[str, OptionValue]:
    return {"eps": "outside", "bias_correction": False, "decay": "none", **_PLAIN}


def _lion(a: Arguments) -> dict[str, OptionValue]:
    return {"decay": "decoupled" if a["weight_decay"] > 0 else "none", **_PLAIN}


def _adafactor(a: Arguments) -> dict[str, OptionValue]:
    return {
        "factoring": "last_axes",
        "eps1": "added",
        "rate": "capped" if a["relative_step"] else "plain",
        "scale": "rms" if a["scale_parameter"] else "none",
        "clipping": True,
        "momentum": "none" if a["beta_1"] is None else "folded_param",
        "keeps": "factors",
        "decay": "decoupled" if a["weight_decay"] != 0 else "none",
        **_PLAIN,
    }


def _check_adafactor(a: Arguments) -> None:
    if a["relative_step"] and a["warmup_init"]:
        raise HyperparameterError(
            "mlx:Adafactor: warmup_init=True makes the rate min(10⁻⁶·t, 1/√t), which the rule does not have; "
            "give relative_step=False and a learning rate that follows a schedule"
        )
    if a["weight_decay"] != 0 and (a["relative_step"] or a["scale_parameter"]):
        raise HyperparameterError(
            "mlx:Adafactor: the decay is multiplied by the scaled and capped rate, which the rule does not "
            "have; expected weight_decay=0, or relative_step=False and scale_parameter=False, found "
            f"weight_decay={a['weight_decay']}"
        )
    if not a["relative_step"] and a["learning_rate"] is None:
        raise HyperparameterError("mlx:Adafactor: relative_step=False expected a learning_rate, found none")


class _Rate(Link):
    """Adafactor's learning rate: its own where it is not told to follow the step, else 10⁻²."""

    def read(self, arguments: Arguments) -> Any:
        return 1e-2 if arguments["relative_step"] else arguments["learning_rate"]

    def write(self, arguments: dict[str, Any], value: float) -> None:
        if not arguments["relative_step"]:
            arguments["learning_rate"] = value
        elif value != 1e-2:
            raise HyperparameterError(
                f"mlx:Adafactor: relative_step=True expected the learning rate 0.01, which it is held below, found {value}"
            )


def _negative(x: float) -> float:
    return -float(x)


def _muon(a: Arguments) -> dict[str, OptionValue]:
    return {
        "others": "momentum",
        "momentum": "mean",
        "nesterov": "lookahead" if a["nesterov"] else "none",
        "norm": "added_constant",
        "scale": "rows",
        "decay": "l2" if a["weight_decay"] != 0 else "none",
        "ns_steps": a["ns_steps"],
        **_PLAIN,
    }


def _fixed(value: float) -> Any:
    """A number that the framework's code has, and no argument."""
    return lambda _: value


def _added(array: Any, axis: int) -> Any:
    """A row or column of means with the axis that was reduced."""
    return np.expand_dims(array, axis)


_ROW = (lambda a, _: _added(a, -1), lambda a, _: np.squeeze(a, -1))
_COLUMN = (lambda a, _: _added(a, -2), lambda a, _: np.squeeze(a, -2))


def _native(
    name: str,
    family: str,
    arguments: Arguments,
    options: Any,
    links: Mapping[str, Link],
    slots: Sequence[tuple[str, str]],
    **rest: Any,
) -> Native:
    return Native(
        "mlx",
        name,
        family,
        arguments={"learning_rate": 1e-3, **arguments},
        options=options,
        links={"lr": Link("learning_rate"), **links},
        slots=slots,
        aliases=_ALIASES,
        **rest,
    )


_ADAM_ARGUMENTS = {"betas": (0.9, 0.999), "eps": 1e-8, "bias_correction": False}
_MOMENTS = (("m", "exp_avg"), ("v", "exp_avg_sq"))

OPTIMIZERS: tuple[Native, ...] = (
    _native(
        "SGD",
        "sgd",
        {"momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0, "nesterov": False},
        _sgd,
        {h: Link(h) for h in ("momentum", "weight_decay", "dampening")},
        (("v", "momentum_buffer"),),
        variants=tuple(
            {**c, **d}
            for c in (
                {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
                {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
                {"momentum": 0.9, "dampening": 0.0, "nesterov": True},
                {"momentum": 0.9, "dampening": 0.5, "nesterov": False},
            )
            for d in _DECAYS
        ),
        validate=_check_sgd,
    ),
    _native(
        "RMSprop",
        "rmsprop",
        {"alpha": 0.99, "eps": 1e-8},
        _rmsprop,
        {h: Link(h) for h in ("alpha", "eps")},
        (("v", "square_avg"),),
    ),
    _native("Adagrad", "adagrad", {"eps": 1e-8}, _adagrad, {"eps": Link("eps")}, (("v", "sum"),)),
    _native(
        "AdaDelta",
        "adadelta",
        {"rho": 0.9, "eps": 1e-6},
        _adadelta,
        {h: Link(h) for h in ("rho", "eps")},
        (("v", "square_avg"), ("u", "acc_delta")),
    ),
    _native(
        "Adam",
        "adam",
        _ADAM_ARGUMENTS,
        _adam,
        {**_BETAS, "eps": Link("eps")},
        _MOMENTS,
        variants=({"bias_correction": False}, {"bias_correction": True}),
    ),
    _native(
        "AdamW",
        "adam",
        {**_ADAM_ARGUMENTS, "weight_decay": 0.01},
        _adam,
        {**_BETAS, "eps": Link("eps"), "weight_decay": Link("weight_decay")},
        _MOMENTS,
        variants=tuple({"bias_correction": b, **d} for b in (False, True) for d in _DECAYS),
    ),
    _native(
        "Adamax",
        "adamax",
        {"betas": (0.9, 0.999), "eps": 1e-8},
        _adamax,
        {**_BETAS, "eps": Link("eps")},
        (("m", "exp_avg"), ("v", "exp_inf")),
        note="corrects no bias, unlike Algorithm 2",
    ),
    _native(
        "Lion",
        "lion",
        {"betas": (0.9, 0.99), "weight_decay": 0.0},
        _lion,
        {**_BETAS, "weight_decay": Link("weight_decay")},
        (("m", "exp_avg"),),
        variants=_DECAYS,
    ),
    _native(
        "Adafactor",
        "adafactor",
        {
            "learning_rate": None,
            "eps": (1e-30, 1e-3),
            "clip_threshold": 1.0,
            "decay_rate": -0.8,
            "beta_1": None,
            "weight_decay": 0.0,
            "scale_parameter": True,
            "relative_step": True,
            "warmup_init": False,
        },
        _adafactor,
        {
            "lr": _Rate("learning_rate"),
            "beta2_decay": Link("decay_rate", _negative, _negative),
            "eps1": Link("eps[0]"),
            "eps2": Link("eps[1]"),
            "clip_threshold": Link("clip_threshold"),
            "beta1": Link("beta_1"),
            "weight_decay": Link("weight_decay"),
        },
        (
            ("exp_avg_sq_row", "row_var"),
            ("exp_avg_sq_col", "col_var"),
            ("exp_avg_sq", "variance"),
            ("exp_avg", "step_avg"),
        ),
        layouts={"exp_avg_sq_row": _ROW, "exp_avg_sq_col": _COLUMN},
        variants=tuple(
            {
                "relative_step": False,
                "learning_rate": 1e-2,
                "scale_parameter": s,
                "beta_1": b,
                "weight_decay": d,
            }
            for s in (True, False)
            for b in (None, 0.9)
            for d in ((0.0,) if s else (0.0, 1.0))
        ),
        validate=_check_adafactor,
    ),
    _native(
        "Muon",
        "muon",
        {"momentum": 0.95, "weight_decay": 0.01, "nesterov": True, "ns_steps": 5},
        _muon,
        {"momentum": Link("momentum"), "weight_decay": Link("weight_decay")},
        (("v", "momentum_buffer"),),
        variants=tuple({"nesterov": n, **d} for n in (True, False) for d in _DECAYS),
        counts={"ns_steps": "ns_steps"},
        note="a vector is moved by its momentum alone; of more than two axes MLX flattens the last, the rule refuses",
    ),
)

ABSENT = {
    "MultiOptimizer": "one optimizer for each part of the parameters; say it by parameter groups",
    "Optimizer": "the base class",
}
# Slots that an optimizer makes though nothing reads them: SGD's, where it has no momentum.
_IDLE = {"sgd": ("v",)}


def join(spec: Spec, order: Sequence[str], steps: Mapping[str, int]) -> dict[str, Any]:
    """The one set of arguments that an MLX optimizer has for all parameters.

    Raises:
        CheckpointError: groups differ in an argument.
    """
    del order, steps
    made = []
    for group in spec.groups:
        arguments = dict(group.arguments)
        if arguments.get("learning_rate") is not None:
            arguments["learning_rate"] = group.values()["lr"]
        made.append(arguments)
    for other in made[1:]:
        for key, value in made[0].items():
            if other.get(key) != value:
                raise CheckpointError(
                    f"mlx: groups differ in {key}: {value!r} and {other.get(key)!r}; an MLX optimizer has one value "
                    "for all its parameters"
                )
    return made[0]


def arrange(native: NativeState, entry: Native, given: Arguments, where: str) -> NativeState:
    """``native`` without slots that the optimizer never reads, and with a word on what the file lacks.

    given: arguments that the file does not hold.
    """
    if entry.arguments["learning_rate"] is None:
        # Adafactor without a rate of its own keeps none.
        groups = [replace(g, arguments={"learning_rate": None, **g.arguments}) for g in native.groups]
        native = replace(native, groups=groups)
    held = {k for g in native.groups for k in g.arguments}
    given = {entry.aliases.get(k, k): v for k, v in given.items()}
    assumed = [f"{k}={v}" for k, v in entry.arguments.items() if k not in held and k not in given]
    word = f"assumed {entry.qualified}'s defaults {', '.join(assumed)}"
    told = f"the file holds no hyperparameters but the learning rate; {word}"
    warnings = [*native.warnings]
    if held and assumed and told not in warnings:
        warnings.append(told)
    slots = {}
    read = dict(entry.slots)
    rule = entry.rule(entry.complete({**_known(native, entry), **given}))
    for key, own in native.slots.items():
        idle = [s for s in own if s in _IDLE.get(entry.family, ()) and read.get(s) not in rule.slot_names]
        for slot in idle:
            if np.any(own[slot]):
                raise CheckpointError(
                    f"{where}: parameter {key!r}: slot {slot!r} is not 0, and {entry.qualified} without momentum never "
                    "writes it; give the momentum with --hyper momentum=…, or name another optimizer"
                )
        slots[key] = {s: a for s, a in own.items() if s not in idle}
    return replace(native, slots=slots, warnings=warnings)


def _known(native: NativeState, entry: Native) -> dict[str, Any]:
    (first, *_) = native.groups
    return {k: v for k, v in first.arguments.items() if k in entry.arguments}
