"""MXNet 1.9.1's optimizers as rules (``mxnet/optimizer/optimizer.py``, ``src/operator/optimizer_op-inl.h``).

Conventions of the framework:

* The raw gradient is multiplied by ``rescale_grad`` and clipped to ±``clip_gradient`` (falsy: off).
  Decay joins after the clip in SGD and NAG, inside it in Adam and RMSProp, and beside it, scaled by
  the learning rate, in AdaGrad.
* Fused kernels receive their scalars in float32. AdaGrad is written in array operations and does not.
* ``lr_mult`` and ``wd_mult`` multiply per parameter. Given ``param_idx2name``, every name that does
  not end in ``_weight`` or ``_gamma`` has decay 0.
* The step is counted per index from ``begin_num_update``.
* ``multi_precision`` with float16 weights keeps a float32 master beside the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optexport.dialects import Link, Native
from optexport.errors import CheckpointError
from optexport.rules.base import OptionValue
from optexport.specs import Spec

__all__ = ["OPTIMIZERS", "join", "slot_paths"]

Arguments = Mapping[str, Any]

_BASE: dict[str, Any] = {
    "learning_rate": 0.01,
    "wd": 0.0,
    "rescale_grad": 1.0,
    "clip_gradient": None,
    "multi_precision": False,
    "begin_num_update": 0,
    "param_idx2name": None,
    "lr_mult": None,
    "wd_mult": None,
}
# Attributes of a pickled optimizer, and arguments, that change no number of an update.
_INERT = frozenset(
    {
        "lazy_update",
        "aggregate_num",
        "num_update",
        "_index_update_count",
        "_all_index_update_counts",
        "sym",
        "sym_info",
        "allow_np_array",
        "lr_scheduler",
        "param_dict",
    }
)
_ALIASES = {"lr": "learning_rate", "idx2name": "param_idx2name"}
_LINKS = {
    "lr": Link("learning_rate"),
    "weight_decay": Link("wd"),
    "rescale_grad": Link("rescale_grad"),
    "clip_gradient": Link("clip_gradient"),
}


def _common(a: Arguments, clip: str, scalars: str = "float32") -> dict[str, OptionValue]:
    return {
        "maximize": False,
        "rescale": a["rescale_grad"] != 1,
        "clip": clip if a["clip_gradient"] else "none",
        "scalars": scalars,
    }


def _sgd(nesterov: str) -> Any:
    def options(a: Arguments) -> dict[str, OptionValue]:
        momentum = a["momentum"] != 0
        return {
            "momentum": "folded" if momentum else "none",
            "nesterov": nesterov if momentum else "none",
            "dampening": "none",
            "decay": "l2" if a["wd"] != 0 else "none",
            **_common(a, "before_decay"),
        }

    return options


def _adam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "hat",
        "bias_correction": "both",
        "amsgrad": "none",
        "decay": "l2" if a["wd"] != 0 else "none",
        "post_decay": False,
        **_common(a, "after_decay"),
    }


def _adamw(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "bias_correction": "none",
        "amsgrad": "none",
        "decay": "independent" if a["wd"] != 0 else "none",
        "post_decay": False,
        **_common(a, "before_decay"),
    }


def _rmsprop(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "inside",
        "centered": bool(a["centered"]),
        # Centered RMSProp always has momentum, plain RMSProp never.
        "momentum": "folded" if a["centered"] else "none",
        "decay": "l2" if a["wd"] != 0 else "none",
        "clip_weights": bool(a["clip_weights"]),
        **_common(a, "after_decay"),
    }


def _adagrad(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "inside",
        "lr_decay": "none",
        # −η(g/√(h+ε) + λw): the step does not see w, so this is decoupled decay.
        "decay": "decoupled" if a["wd"] != 0 else "none",
        **_common(a, "before_decay", scalars="float64"),
    }


def _multipliers(a: Arguments, index: int | None, name: str | None) -> tuple[float, float]:
    """(lr_mult, wd_mult) of one parameter, found by index first and then by name."""
    lr_mult, wd_mult = a["lr_mult"] or {}, a["wd_mult"] or {}
    by_name = 0.0 if name is not None and not name.endswith(("_weight", "_gamma")) else 1.0
    return (
        float(lr_mult.get(index, lr_mult.get(name, 1.0))),
        float(wd_mult.get(index, wd_mult.get(name, by_name))),
    )


def _split(
    a: Arguments, params: tuple[str, ...] | None
) -> Sequence[tuple[dict[str, Any], tuple[str, ...] | None, float]]:
    """One group for each pair of multipliers; parameters that no table names stay in an open group."""
    names: dict[int, str] = a["param_idx2name"] or {}
    indexes = {n: i for i, n in names.items()}
    groups: dict[tuple[float, float], list[str]] = {}
    for key in params if params is not None else tuple(names.values()):
        index = indexes.get(key)
        name: str | None = key if index is not None else None
        if index is None and key.isdigit():
            index, name = int(key), names.get(int(key))
        groups.setdefault(_multipliers(a, index, name), []).append(key)
    out: list[tuple[dict[str, Any], tuple[str, ...] | None, float]] = [
        ({**a, "wd": a["wd"] * wd_mult}, tuple(keys), lr_mult) for (lr_mult, wd_mult), keys in groups.items()
    ]
    if params is None:
        out.append((dict(a), None, 1.0))
    return out


def _split_eta(
    a: Arguments, params: tuple[str, ...] | None
) -> Sequence[tuple[dict[str, Any], tuple[str, ...] | None, float]]:
    """``eta`` multiplies the whole update: the learning rate here, the decay through its link."""
    return [(args, names, lr_mult * a["eta"]) for args, names, lr_mult in _split(a, params)]


def _native(name: str, family: str, arguments: Arguments, **fields: Any) -> Native:
    variants = fields.pop("variants", ({},))
    split = fields.pop("split", _split)
    return Native(
        "mxnet",
        name,
        family,
        arguments={**_BASE, **arguments},
        variants=tuple(
            {**v, "wd": wd, "rescale_grad": rescale, "clip_gradient": clip}
            for v in variants
            for wd in (0.0, 1.0)
            for rescale in (1.0, 0.5)
            for clip in (None, 1.0)
        ),
        links={**_LINKS, **fields.pop("links", {})},
        aliases={**_ALIASES, **fields.pop("aliases", {})},
        inert=_INERT,
        split=split,
        counts_from="begin_num_update",
        masters=True,
        **fields,
    )


_MOMENTUM = {"momentum": Link("momentum")}
_BETAS = {"beta1": Link("beta1"), "beta2": Link("beta2"), "eps": Link("epsilon")}
_MOMENTS = (("mean", "exp_avg"), ("var", "exp_avg_sq"))

OPTIMIZERS = (
    _native(
        "sgd",
        "sgd",
        {"momentum": 0.0},
        class_name="SGD",
        options=_sgd("none"),
        links=_MOMENTUM,
        slots=(("mom", "momentum_buffer"),),
        variants=({"momentum": 0.0}, {"momentum": 0.9}),
    ),
    _native(
        "nag",
        "sgd",
        {"momentum": 0.0},
        class_name="NAG",
        options=_sgd("lookahead_reread"),
        links=_MOMENTUM,
        slots=(("mom", "momentum_buffer"),),
        variants=({"momentum": 0.9},),
        note="the stored momentum decays the parameter that the same update has just written",
    ),
    _native(
        "adam",
        "adam",
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        class_name="Adam",
        options=_adam,
        links=_BETAS,
        slots=_MOMENTS,
    ),
    _native(
        "adamw_update",
        "adam",
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "eta": 1.0},
        options=_adamw,
        links={
            **_BETAS,
            "weight_decay": Link("wd", times="eta"),
        },
        slots=_MOMENTS,
        split=_split_eta,
        note="an operator, not a class; it skips an update whose rescale tensor is 0, NaN or infinite",
    ),
    _native(
        "rmsprop",
        "rmsprop",
        {
            "learning_rate": 1e-3,
            "gamma1": 0.9,
            "gamma2": 0.9,
            "epsilon": 1e-8,
            "centered": False,
            "clip_weights": None,
        },
        class_name="RMSProp",
        options=_rmsprop,
        links={
            "alpha": Link("gamma1"),
            "momentum": Link("gamma2"),
            "eps": Link("epsilon"),
            "clip_weights": Link("clip_weights"),
        },
        slots=(("n", "square_avg"), ("g", "grad_avg"), ("delta", "momentum_buffer")),
        variants=tuple({"centered": c, "clip_weights": w} for c in (False, True) for w in (None, 1.0)),
    ),
    _native(
        "adagrad",
        "adagrad",
        {"eps": 1e-7},
        class_name="AdaGrad",
        options=_adagrad,
        links={"eps": Link("eps")},
        slots=(("history", "sum"),),
        aliases={"float_stable_eps": "eps"},
        note="state is float32 whatever the parameter; float64 parameters fail",
    ),
)

# Classes whose state is one array rather than a tuple, and those that keep the master last.
_BARE = {"sgd", "nag", "adagrad"}
_MASTER_LAST = {"sgd", "nag"}


def slot_paths(optimizer: str, slots: Sequence[str], master: bool) -> dict[str, str]:
    """Where each slot stands in the state that ``.states`` files keep for one index.

    optimizer: the registry name, or any other for an emitted optimizer (always a tuple).
    slots: the framework's (or rule's) slot names that this optimizer has, in order.
    master: whether a float32 master stands beside them.
    Returns slot name -> path: ``[]`` the state itself, ``[0]`` its first item, ``[1][0]`` nested.
    """
    name = optimizer.lower()
    bare = name in _BARE
    own = {s: "" if bare else f"[{i}]" for i, s in enumerate(slots)}
    if not master:
        return {s: p or "[]" for s, p in own.items()}
    state, copy = ("[0]", "[1]") if name in _MASTER_LAST else ("[1]", "[0]")
    return {**{s: state + p for s, p in own.items()}, "master": copy}


def join(spec: Spec, order: Sequence[str], steps: Mapping[str, int]) -> dict[str, Any]:
    """Attributes of the one optimizer object that MXNet keeps for all groups.

    order: parameter names by index. Groups that differ in learning rate or decay become multipliers
    by index; anything else that differs has no place in MXNet.

    Raises:
        CheckpointError: groups differ in something without a multiplier.
    """
    first = spec.groups[0].arguments
    lr = max((g.values()["lr"] for g in spec.groups), key=abs)
    wd = max((g.arguments["wd"] for g in spec.groups), key=abs)
    own = {"learning_rate", "wd", "lr_mult", "wd_mult", "param_idx2name", "begin_num_update"}
    for g in spec.groups[1:]:
        for key in first.keys() - own:
            if g.arguments.get(key) != first[key] and key not in _INERT:
                raise CheckpointError(
                    f"mxnet: groups differ in {key}: {first[key]!r} and {g.arguments.get(key)!r}; MXNet has one "
                    "value for all, emit an optimizer with --emit-optimizer FILE"
                )
    index = {name: i for i, name in enumerate(order)}
    lr_mult = {index[p]: g.values()["lr"] / lr for g in spec.groups for p in g.params or () if lr}
    wd_mult = {index[p]: g.arguments["wd"] / wd for g in spec.groups for p in g.params or () if wd}
    counts = {index[p]: steps[p] for p in order if steps[p]}
    return {
        **{k: v for k, v in first.items() if k not in _INERT and k not in own},
        "learning_rate": lr,
        "wd": wd,
        "lr_mult": {i: m for i, m in lr_mult.items() if m != 1},
        "wd_mult": {i: m for i, m in wd_mult.items() if m != 1},
        "param_idx2name": dict(enumerate(order)),
        # A parameter without a count starts at begin_num_update; all are counted explicitly.
        "begin_num_update": 0,
        "num_update": max(counts.values(), default=0),
        "_index_update_count": counts,
    }
