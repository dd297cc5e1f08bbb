"""Paddle's optimizers as rules (Paddle 3.3, ``python/paddle/optimizer``, ``paddle/phi/kernels``).

``weight_decay`` is L2 decay, λw joins the gradient, in all but AdamW and Lamb. Kernels take their
hyperparameters as float32 attributes, Adam's and AdamW's excepted; the learning rate is as wide as
the parameter. L2 decay is added before the kernel, and so is λ, where it is in double (Momentum's
kernel adds its own): the rules have it in float32 there too, 2⁻²⁵ off at most, which float64
parameters alone can tell. There is no step count: most optimizers keep βᵗ⁺¹ in tensors of one element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from ._steps import arrange

__all__ = ["ABSENT", "OPTIMIZERS", "arrange", "slot_paths"]

Arguments = Mapping[str, Any]

# What an optimizer computes in, not what it computes; `lazy_mode` is for sparse gradients.
_INERT = frozenset({"multi_precision", "use_multi_tensor", "lazy_mode", "use_lowprecision_moment", "name"})
_ALIASES = {"lr": "learning_rate"}
_PLAIN: Mapping[str, OptionValue] = {"maximize": False, "rescale": False, "clip": "none"}
_ATTRIBUTES: Mapping[str, OptionValue] = {**_PLAIN, "scalars": "attributes"}
_DOUBLE: Mapping[str, OptionValue] = {**_PLAIN, "scalars": "float64"}
_DECAYS = ({"weight_decay": None}, {"weight_decay": 1.0})
_BETAS = {"beta1": Link("beta1"), "beta2": Link("beta2"), "eps": Link("epsilon")}
_MOMENTS = (("moment1", "exp_avg"), ("moment2", "exp_avg_sq"))


def _l2(a: Arguments) -> str:
    return "l2" if a["weight_decay"] else "none"


def _sgd(a: Arguments) -> dict[str, OptionValue]:
    return {"momentum": "none", "nesterov": "none", "dampening": "none", "decay": _l2(a), **_ATTRIBUTES}


def _momentum(a: Arguments) -> dict[str, OptionValue]:
    return {
        "momentum": "unfolded",
        "nesterov": "lookahead" if a["use_nesterov"] else "none",
        "dampening": "none",
        "decay": _l2(a),
        **_ATTRIBUTES,
    }


def _check_momentum(a: Arguments) -> None:
    if a["rescale_grad"] != 1:
        raise HyperparameterError(
            "paddle:Momentum: rescale_grad is ignored on the processor and not on a GPU; expected 1, found "
            f"{a['rescale_grad']}; rescale the loss instead"
        )


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {"eps": "outside", "lr_decay": "none", "decay": _l2(a), **_ATTRIBUTES}


def _adadelta(a: Arguments) -> dict[str, OptionValue]:
    return {"rate": "lr", "decay": _l2(a), **_ATTRIBUTES}


def _rmsprop(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "inside",
        "centered": bool(a["centered"]),
        "momentum": "folded_positive",
        "decay": _l2(a),
        "clip_weights": False,
        **_ATTRIBUTES,
    }


def _adam(decay: str) -> Any:
    def options(a: Arguments) -> dict[str, OptionValue]:
        return {
            "eps": "outside",
            "bias_correction": "both",
            "amsgrad": "raw" if a["amsgrad"] else "none",
            "decay": decay if a["weight_decay"] else "none",
            "post_decay": False,
            **_DOUBLE,
        }

    return options


def _adamax(a: Arguments) -> dict[str, OptionValue]:
    return {"eps": "decayed", "decay": _l2(a), **_ATTRIBUTES}


def _nadam(a: Arguments) -> dict[str, OptionValue]:
    return {"schedule": "own", "momentum_decay": True, "decay": _l2(a), **_ATTRIBUTES}


def _radam(a: Arguments) -> dict[str, OptionValue]:
    return {"eps": "hat", "threshold": "five", "decay": _l2(a), **_ATTRIBUTES}


def _lamb(a: Arguments) -> dict[str, OptionValue]:
    return {
        "bias_correction": "both",
        "bounds": "none",
        "decay": "in_update" if a["lamb_weight_decay"] else "none",
        **_ATTRIBUTES,
    }


def _check_lamb(a: Arguments) -> None:
    if not a["lamb_weight_decay"] > 0 and not a["always_adapt"]:
        raise HyperparameterError(
            "paddle:Lamb: without decay every trust ratio is 1 unless always_adapt=True; expected "
            f"lamb_weight_decay above 0, found {a['lamb_weight_decay']}; paddle:Adam is the same rule"
        )


def _rprop(_: Arguments) -> dict[str, OptionValue]:
    return {"step": "at_once", "decay": "none", **_DOUBLE}


def _native(
    name: str,
    family: str,
    arguments: Arguments,
    options: Any,
    links: Mapping[str, Link],
    slots: Sequence[tuple[str, str]],
    *,
    variants: Sequence[Arguments] = ({},),
    decays: Sequence[Arguments] = _DECAYS,
    **rest: Any,
) -> Native:
    return Native(
        "paddle",
        name,
        family,
        arguments={"learning_rate": 1e-3, **({"weight_decay": None} if decays else {}), **arguments},
        options=options,
        links={
            "lr": Link("learning_rate"),
            **({"weight_decay": Link("weight_decay")} if decays else {}),
            **links,
        },
        slots=slots,
        variants=tuple({**v, **d} for v in variants for d in decays or ({},)),
        aliases=_ALIASES,
        inert=_INERT,
        **rest,
    )


_ADAM_ARGUMENTS = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
_AMSGRAD = ({"amsgrad": False}, {"amsgrad": True})
_ADAM_SLOTS = (*_MOMENTS, ("moment2_max", "max_exp_avg_sq"))

OPTIMIZERS: tuple[Native, ...] = (
    _native("SGD", "sgd", {}, _sgd, {}, ()),
    _native(
        "Momentum",
        "sgd",
        {"momentum": 0.9, "use_nesterov": False, "rescale_grad": 1.0},
        _momentum,
        {"momentum": Link("momentum")},
        (("velocity", "momentum_buffer"),),
        variants=tuple({"use_nesterov": n, "rescale_grad": r} for n in (False, True) for r in (1.0, 2.0)),
        masters=True,
    ),
    _native(
        "Adagrad",
        "adagrad",
        {"epsilon": 1e-6, "initial_accumulator_value": 0.0},
        _adagrad,
        {"eps": Link("epsilon"), "initial_accumulator_value": Link("initial_accumulator_value")},
        (("moment", "sum"),),
    ),
    _native(
        "Adadelta",
        "adadelta",
        {"epsilon": 1e-6, "rho": 0.95},
        _adadelta,
        {"eps": Link("epsilon"), "rho": Link("rho")},
        (("_avg_squared_grad", "square_avg"), ("_avg_squared_update", "acc_delta")),
    ),
    _native(
        "RMSProp",
        "rmsprop",
        {"rho": 0.95, "epsilon": 1e-6, "momentum": 0.0, "centered": False},
        _rmsprop,
        {"alpha": Link("rho"), "eps": Link("epsilon"), "momentum": Link("momentum")},
        (("momentum", "momentum_buffer"), ("mean_square", "square_avg"), ("mean_grad", "grad_avg")),
        variants=({"centered": False}, {"centered": True}),
        note="keeps its last step as `momentum` even where the coefficient is 0",
    ),
    _native(
        "Adam",
        "adam",
        {**_ADAM_ARGUMENTS, "amsgrad": False},
        _adam("l2"),
        _BETAS,
        _ADAM_SLOTS,
        variants=_AMSGRAD,
        masters=True,
        note="computes η√c2/c1·m / (√v + ε√c2), which is Algorithm 1",
    ),
    _native(
        "AdamW",
        "adam",
        {"weight_decay": 0.01, **_ADAM_ARGUMENTS, "amsgrad": False},
        _adam("decoupled"),
        _BETAS,
        _ADAM_SLOTS,
        variants=_AMSGRAD,
        decays=({"weight_decay": 0.0}, {"weight_decay": 1.0}),
        masters=True,
    ),
    _native(
        "Adamax",
        "adamax",
        _ADAM_ARGUMENTS,
        _adamax,
        _BETAS,
        (("moment", "exp_avg"), ("inf_norm", "exp_inf")),
    ),
    _native(
        "NAdam",
        "nadam",
        {"learning_rate": 2e-3, **_ADAM_ARGUMENTS, "momentum_decay": 0.004},
        _nadam,
        {**_BETAS, "momentum_decay": Link("momentum_decay")},
        (("mu_product", "mu_product"), *_MOMENTS),
    ),
    _native("RAdam", "radam", _ADAM_ARGUMENTS, _radam, _BETAS, _MOMENTS),
    _native(
        "Lamb",
        "lamb",
        {"lamb_weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "always_adapt": False},
        _lamb,
        {"weight_decay": Link("lamb_weight_decay"), **_BETAS},
        _MOMENTS,
        variants=(
            {"lamb_weight_decay": 1.0, "always_adapt": False},
            {"lamb_weight_decay": 0.0, "always_adapt": True},
        ),
        decays=(),
        validate=_check_lamb,
        masters=True,
    ),
    _native(
        "Rprop",
        "rprop",
        {"learning_rate_range": (1e-5, 50.0), "etas": (0.5, 1.2)},
        _rprop,
        {
            "step_size_min": Link("learning_rate_range[0]"),
            "step_size_max": Link("learning_rate_range[1]"),
            "etaminus": Link("etas[0]"),
            "etaplus": Link("etas[1]"),
        },
        (("prevs", "prev"), ("learning_rates", "step_length")),
        decays=(),
    ),
)

ABSENT = {
    "ASGD": "a stochastic average of the gradients of `batch_num` batches, not PyTorch's ASGD; no other framework has it",
    "LBFGS": "it evaluates the loss several times within one update",
    "Optimizer": "the base class",
}


def slot_paths(optimizer: str, slots: Sequence[str], master: bool) -> dict[str, str]:
    """Native slot name -> where it stands in the file."""
    del optimizer
    return {s: s for s in (*slots, *(["master"] if master else []))}
