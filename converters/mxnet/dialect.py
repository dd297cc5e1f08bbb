"""MXNet 1.9.1's optimizers as rules (``mxnet/optimizer/optimizer.py``, ``src/operator/optimizer_op-inl.h``).

Conventions of the framework:

* The raw gradient is multiplied by ``rescale_grad`` and clipped to ±``clip_gradient`` (falsy: off).
  Decay joins after the clip in SGD, NAG, Signum, DCASGD, SGLD and LBSGD, inside it in Adam, RMSProp
  and FTML, and beside it in AdaGrad (scaled by the learning rate) and AdaDelta (not scaled).
* Fused kernels receive their scalars in float32. AdaGrad, AdaDelta, DCASGD and SGLD are written in
  array operations, whose scalars are doubles but for the bounds of a clip.
* ``lr_mult`` and ``wd_mult`` multiply per parameter. Given ``param_idx2name``, every name that does
  not end in ``_weight`` or ``_gamma`` has decay 0.
* The step is counted per index from ``begin_num_update``.
* ``multi_precision`` with float16 weights keeps a float32 master beside the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optexport.dialects import Native
from optexport.errors import CheckpointError
from optexport.specs import Spec
from optexport.state.native import NativeState

from .optimizers import (
    adadelta,
    adagrad,
    adam,
    adamax,
    dcasgd,
    ftml,
    ftrl,
    lamb,
    lars,
    lbsgd,
    nadam,
    rmsprop,
    sgd,
    sgld,
    signum,
)
from .optimizers.common import INERT

__all__ = ["ABSENT", "OPTIMIZERS", "arrange", "join", "slot_paths"]

OPTIMIZERS: tuple[Native, ...] = (
    *sgd.ROWS,
    *adam.ROWS,
    *adamax.ROWS,
    *nadam.ROWS,
    *rmsprop.ROWS,
    *adagrad.ROWS,
    *adadelta.ROWS,
    *ftrl.ROWS,
    *ftml.ROWS,
    *signum.ROWS,
    *dcasgd.ROWS,
    *sgld.ROWS,
    *lbsgd.ROWS,
    *lamb.ROWS,
    *lars.ROWS,
)

ABSENT = {
    "ccsgd": "a deprecated name of sgd; use mxnet:sgd",
    "test": "adds the rescaled gradient to the weight; MXNet uses it to test its key-value store",
}

# Classes whose state is one array rather than a tuple, and those that keep the master last.
_BARE = {"sgd", "nag", "adagrad", "groupadagrad", "signum", "lbsgd", "lars"}
_MASTER_LAST = {"sgd", "nag", "lars"}
# Slots that do not start a state's tuple at its first item, and those that are in no file.
_FIRST = {"dcasgd": 1}
_IN_NO_FILE = {"lbsgd": ("cum_grad",)}
# Slots that the optimizer object has once for all parameters.
_ON_OPTIMIZER = {"nadam": (nadam.PRODUCT,)}


def slot_paths(optimizer: str, slots: Sequence[str], master: bool) -> dict[str, str]:
    """Where each slot stands in the state that ``.states`` files keep for one index.

    optimizer: the registry name, or any other for an emitted optimizer (always a tuple).
    slots: the framework's (or rule's) slot names that this optimizer has, in order.
    master: whether a float32 master stands beside them.
    Returns slot name -> path: ``[]`` the state itself, ``[0]`` its first item, ``[1][0]`` nested, and
    ``.name`` an attribute of the optimizer.
    """
    name = optimizer.lower()
    bare = name in _BARE
    outside = _ON_OPTIMIZER.get(name, ())
    kept = [s for s in slots if s not in (*outside, *_IN_NO_FILE.get(name, ()))]
    once = {s: f".{s}" for s in slots if s in outside}
    own = {s: "" if bare else f"[{i}]" for i, s in enumerate(kept, _FIRST.get(name, 0))}
    if not master:
        return {**{s: p or "[]" for s, p in own.items()}, **once}
    state, copy = ("[0]", "[1]") if name in _MASTER_LAST else ("[1]", "[0]")
    return {**{s: state + p for s, p in own.items()}, **once, "master": copy}


def arrange(native: NativeState, entry: Native, given: Mapping[str, Any], where: str) -> NativeState:
    """``native`` with what the optimizer object has once among the slots of each parameter.

    given: arguments that the file does not hold.

    Raises:
        CheckpointError: the optimizer needs it, and neither the file nor ``given`` has it.
    """
    outside = _ON_OPTIMIZER.get(entry.name, ())
    return nadam.with_product(native, f".{nadam.PRODUCT}", given, where) if outside else native


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
    own = {"learning_rate", "wd", "lr_mult", "wd_mult", "param_idx2name", "begin_num_update", "begin_epoch"}
    own |= {"layer_rate"}  # a name says it
    for g in spec.groups[1:]:
        for key in first.keys() - own:
            if g.arguments.get(key) != first[key] and key not in INERT:
                raise CheckpointError(
                    f"mxnet: groups differ in {key}: {first[key]!r} and {g.arguments.get(key)!r}; MXNet has one "
                    "value for all, emit an optimizer with --emit-optimizer FILE"
                )
    index = {name: i for i, name in enumerate(order)}
    lr_mult = {index[p]: g.values()["lr"] / lr for g in spec.groups for p in g.params or () if lr}
    wd_mult = {index[p]: g.arguments["wd"] / wd for g in spec.groups for p in g.params or () if wd}
    counts = {index[p]: steps[p] for p in order if steps[p]}
    return {
        **{k: v for k, v in first.items() if k not in INERT and k not in own},
        "learning_rate": lr,
        "wd": wd,
        "lr_mult": {i: m for i, m in lr_mult.items() if m != 1},
        "wd_mult": {i: m for i, m in wd_mult.items() if m != 1},
        "param_idx2name": dict(enumerate(order)),
        # A parameter without a count starts at begin_num_update; all are counted explicitly.
        "begin_num_update": 0,
        "num_update": max(counts.values(), default=0),
        "_index_update_count": counts,
        **(lbsgd.host_state(first, counts) if "batch_scale" in first else {}),
    }
