"""Optimizers of ONNX (``ai.onnx.preview.training`` 1) and ONNX Runtime's training build (1.19.2).

ONNX operators take the learning rate R and an update count T from their caller. ``t0`` is the T of
the first update: 0 as the specification's examples count, 1 as everybody else does. Sources:
onnx/defs/training/defs.cc; onnxruntime orttraining/orttraining/training_ops/cpu/optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from ._arrange import arrange

__all__ = ["OPTIMIZERS", "arrange"]

Arguments = Mapping[str, Any]

# R is a tensor; everything else is an attribute, which protobuf keeps in float32.
_PLAIN: dict[str, OptionValue] = {
    "maximize": False,
    "rescale": False,
    "clip": "none",
    "scalars": "attributes",
}
_ALIASES = {"learning_rate": "lr", "r": "lr", "R": "lr"}


def _momentum(a: Arguments) -> dict[str, OptionValue]:
    has_gain = a["beta"] != 1
    return {
        "momentum": "unfolded",
        "nesterov": "lookahead" if a["mode"] == "nesterov" else "none",
        "dampening": ("always" if a["t0"] else "not_first") if has_gain else "none",
        "decay": "l2" if a["norm_coefficient"] != 0 else "none",
        **_PLAIN,
    }


def _adam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "hat",
        "bias_correction": "both" if a["t0"] else "from_zero",
        "amsgrad": "none",
        "decay": "l2" if a["norm_coefficient"] != 0 else "none",
        "post_decay": a["norm_coefficient_post"] != 0,
        **_PLAIN,
    }


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    decays = a["decay_factor"] != 0
    return {
        "eps": "outside",
        "lr_decay": ("from_one" if a["t0"] else "from_zero") if decays else "none",
        "decay": "l2" if a["norm_coefficient"] != 0 else "none",
        **_PLAIN,
    }


def _adamw(a: Arguments) -> dict[str, OptionValue]:
    first = a["adam_mode"] == 0
    return {
        "eps": "outside" if first else "hat",
        "bias_correction": "both" if a["correct_bias"] else "none",
        "amsgrad": "none",
        "decay": ("decoupled" if first else "decoupled_last") if a["weight_decay"] != 0 else "none",
        "post_decay": False,
        **_PLAIN,
    }


def _lamb(a: Arguments) -> dict[str, OptionValue]:
    bounded = a["ratio_min"] > 0 or a["ratio_max"] != float("inf")
    return {
        "bias_correction": "both" if a["do_bias_correction"] else "none",
        "bounds": "ratio" if bounded else "none",
        "decay": "in_update" if a["lambda"] != 0 else "none",
        **_PLAIN,
    }


def _plain_sgd(_: Arguments) -> dict[str, OptionValue]:
    return {"momentum": "none", "nesterov": "none", "dampening": "none", "decay": "none", **_PLAIN}


def _check_t0(name: str) -> Any:
    def check(a: Arguments) -> None:
        if a["t0"] not in (0, 1):
            raise HyperparameterError(
                f"onnx:{name}: t0, the T of the first update, expected 0 or 1, found {a['t0']!r}"
            )
        if a.get("mode", "standard") not in ("standard", "nesterov"):
            raise HyperparameterError(f"onnx:{name}: mode expected standard or nesterov, found {a['mode']!r}")

    return check


def _check_adamw(a: Arguments) -> None:
    if a["adam_mode"] not in (0, 1):
        raise HyperparameterError(
            f"onnxruntime:AdamWOptimizer: adam_mode expected 0 or 1, found {a['adam_mode']!r}"
        )
    if a["adam_mode"] == 0 and not a["correct_bias"]:
        raise HyperparameterError(
            "onnxruntime:AdamWOptimizer: adam_mode 0 expected correct_bias 1, found 0; the kernel refuses it, use mode 1"
        )


def _grid(**choices: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    rows: list[dict[str, Any]] = [{}]
    for key, values in choices.items():
        rows = [{**row, key: v} for row in rows for v in values]
    return tuple(rows)


_LR = {"lr": Link("lr")}

OPTIMIZERS = (
    Native(
        "onnx",
        "Momentum",
        "sgd",
        # Every attribute is mandatory in the operator; these stand in where none is given.
        arguments={
            "lr": 1e-2,
            "alpha": 0.9,
            "beta": 1.0,
            "norm_coefficient": 0.0,
            "mode": "standard",
            "t0": 0,
        },
        options=_momentum,
        links={
            **_LR,
            "momentum": Link("alpha"),
            "dampening": Link("beta", to_rule=lambda b: 1 - b, to_native=lambda d: 1 - d),
            "weight_decay": Link("norm_coefficient"),
        },
        slots=(("V", "momentum_buffer"),),
        variants=_grid(
            mode=("standard", "nesterov"), beta=(1.0, 0.5), norm_coefficient=(0.0, 1.0), t0=(1, 0)
        ),
        aliases=_ALIASES,
        inputs=("lr",),
        validate=_check_t0("Momentum"),
    ),
    Native(
        "onnx",
        "Adam",
        "adam",
        arguments={
            "lr": 1e-3,
            "alpha": 0.9,
            "beta": 0.999,
            "epsilon": 1e-6,
            "norm_coefficient": 0.0,
            "norm_coefficient_post": 0.0,
            "t0": 0,
        },
        options=_adam,
        links={
            **_LR,
            "beta1": Link("alpha"),
            "beta2": Link("beta"),
            "eps": Link("epsilon"),
            "weight_decay": Link("norm_coefficient"),
            "post_decay": Link("norm_coefficient_post"),
        },
        slots=(("V", "exp_avg"), ("H", "exp_avg_sq")),
        variants=_grid(t0=(1, 0), norm_coefficient=(0.0, 1.0), norm_coefficient_post=(0.0, 1.0)),
        aliases=_ALIASES,
        inputs=("lr",),
        validate=_check_t0("Adam"),
        note="at T = 0 the operator corrects no bias",
    ),
    Native(
        "onnx",
        "Adagrad",
        "adagrad",
        arguments={"lr": 1e-2, "decay_factor": 0.0, "epsilon": 1e-6, "norm_coefficient": 0.0, "t0": 0},
        options=_adagrad,
        links={
            **_LR,
            "eps": Link("epsilon"),
            "lr_decay": Link("decay_factor"),
            "weight_decay": Link("norm_coefficient"),
        },
        slots=(("H", "sum"),),
        variants=_grid(t0=(0, 1), decay_factor=(0.0, 1.0), norm_coefficient=(0.0, 1.0)),
        aliases=_ALIASES,
        inputs=("lr",),
        validate=_check_t0("Adagrad"),
    ),
    Native(
        "onnxruntime",
        "AdamWOptimizer",
        "adam",
        # The operator's own defaults; generated artifacts use mode 1, epsilon 1e-6 and decay 0.
        arguments={
            "lr": 1e-3,
            "alpha": 0.9,
            "beta": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 1e-2,
            "adam_mode": 0,
            "correct_bias": 1,
        },
        options=_adamw,
        links={
            **_LR,
            "beta1": Link("alpha"),
            "beta2": Link("beta"),
            "eps": Link("epsilon"),
            "weight_decay": Link("weight_decay"),
        },
        slots=(("momentum0", "exp_avg"), ("momentum1", "exp_avg_sq")),
        variants=tuple(
            {**v, "weight_decay": wd}
            for wd in (0.0, 1.0)
            for v in (
                {"adam_mode": 0, "correct_bias": 1},
                {"adam_mode": 1, "correct_bias": 1},
                {"adam_mode": 1, "correct_bias": 0},
            )
        ),
        aliases=_ALIASES,
        inputs=("lr",),
        validate=_check_adamw,
        note="state is float32 whatever the parameter",
    ),
    Native(
        "onnxruntime",
        "LambOptimizer",
        "lamb",
        # alpha, beta, lambda and epsilon are lists in the operator, one number a tensor.
        arguments={
            "lr": 1e-3,
            "alpha": 0.9,
            "beta": 0.999,
            "lambda": 0.0,
            "ratio_min": -float("inf"),
            "ratio_max": float("inf"),
            "epsilon": 1e-6,
            "do_bias_correction": 1,
        },
        options=_lamb,
        links={
            **_LR,
            "beta1": Link("alpha"),
            "beta2": Link("beta"),
            "weight_decay": Link("lambda"),
            "eps": Link("epsilon"),
            "lower_bound": Link("ratio_min"),
            "upper_bound": Link("ratio_max"),
        },
        slots=(("Moment_1", "exp_avg"), ("Moment_2", "exp_avg_sq")),
        variants=_grid(do_bias_correction=(1, 0), ratio_max=(float("inf"), 1.0), **{"lambda": (0.0, 1.0)}),
        aliases=_ALIASES,
        inputs=("lr",),
        note="the kernel runs on CUDA alone; it divides gradients by the inputs loss_scale and gradient_norm "
        "(where that is above 1) first, and leaves elements whose update is not finite as they are",
    ),
    Native(
        "onnxruntime",
        "SGDOptimizerV2",
        "sgd",
        arguments={"lr": 1e-3},
        options=_plain_sgd,
        links=_LR,
        unread=("momentum0",),
        aliases=_ALIASES,
        inputs=("lr",),
        note="plain descent; the training API's checkpoint still carries a momentum0 of zeros",
    ),
)
