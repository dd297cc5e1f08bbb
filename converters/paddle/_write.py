"""Writes ``.pdopt`` files that `paddle.load` and ``Optimizer.set_state_dict`` take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from optexport.dialects import Native, find
from optexport.errors import CheckpointError
from optexport.state.files import tell_write, whole_or_nothing
from optexport.state.native import NativeState
from optexport.state.pickles import Global, Reduce, dumps
from optexport.state.training import MASTER

from ._keys import POWERS, join_key
from ._pickled import NAMES
from ._steps import power

__all__ = ["write"]

PathLike = str | os.PathLike[str]

# What each optimizer keeps beside its moments.
_KEPT = {
    "adam": ("beta1_pow_acc", "beta2_pow_acc"),
    "lamb": ("beta1_pow_acc", "beta2_pow_acc"),
    "adamax": ("beta1_pow_acc",),
    "nadam": ("momentum_decay_pow", "beta2_pow"),
    "radam": ("beta1_pow", "beta2_pow"),
}
# Kernels multiply by a float32 attribute, whatever the power's own width.
_ATTRIBUTE = ("lamb", "nadam", "radam")


def write(state: NativeState, path: PathLike) -> None:
    """Write the state of a native Paddle optimizer under the names that its parameters have.

    Paddle finds state by its own names of the parameters (``linear_0.w_0``), and by the number at the
    key's end, 0 for the first optimizer that a process makes.

    Raises:
        CheckpointError: a parameter that was updated lacks a slot. Then ``path`` stays as it was.
    """
    file = os.fspath(path)
    entry = find(f"paddle:{state.optimizer}")
    root: dict[str, np.ndarray] = {}
    masters: dict[str, np.ndarray] = {}
    for group in state.groups:
        arguments = entry.complete({k: v for k, v in group.arguments.items() if k in entry.arguments})
        for name in group.params:
            own = dict(state.slots.get(name, {}))
            if MASTER in own:
                masters[name] = own.pop(MASTER)
            steps = state.steps.get(name) or 0
            if not own and (entry.slots or not steps):
                continue  # never updated: Paddle makes its slots at the first update
            full = _complete(own, entry, arguments, steps, f"{file}: parameter {name!r}")
            root |= {join_key(name, slot, name in masters): a for slot, a in full.items()}
    if masters:
        # In nested dictionaries Paddle takes (name, array) for a tensor, and then nothing else.
        tree: dict[str, Any] = {k: _named(k, a) for k, a in root.items()}
        tree["master_weights"] = {n: _named(f"{n}_fp32_master_0", a) for n, a in masters.items()}
    else:
        tree = {**{k: _array(a) for k, a in root.items()}, NAMES: {k: k for k in root}}
    data = dumps(tree, 4)
    with whole_or_nothing(path) as out:
        out.write(data)


def _complete(
    own: Mapping[str, np.ndarray], entry: Native, arguments: Mapping[str, Any], steps: int, where: str
) -> dict[str, np.ndarray]:
    """Every slot that Paddle's optimizer asks for, in its order."""
    needed = {n for n, role in entry.slots if role in entry.rule(arguments).slot_names}
    if missing := sorted(needed - own.keys()):
        raise CheckpointError(f"{where}: expected the slots of {entry.qualified}, {missing[0]!r} is missing")
    first = next((a for n, a in own.items() if a.ndim or n != "mu_product"), None)
    shape = () if first is None else first.shape
    kind = np.dtype(np.float32) if first is None or first.dtype.itemsize < 4 else first.dtype
    out = {n: own[n] for n, _ in entry.slots if n in own}
    if "mu_product" in out:
        out["mu_product"] = np.full(shape, out["mu_product"], kind)
    if entry.family == "rmsprop" and "mean_grad" not in out and first is not None:
        out["mean_grad"] = np.zeros(shape, first.dtype)
    for slot in _KEPT.get(entry.family, ()):
        base, start = POWERS[slot]
        beta = base if isinstance(base, float) else float(arguments[base])
        narrow = entry.family in _ATTRIBUTE and not isinstance(base, float)
        factor = float(np.float32(beta)) if narrow else beta
        value = power(kind, beta, start, steps, factor)[-1]
        out[slot] = np.full((1,) if start else shape, value, kind)
    if entry.family == "radam":
        out["rho"] = np.full(shape, _rho(arguments["beta2"], steps, kind), kind)
    return out


def _rho(beta2: float, steps: int, kind: Any) -> Any:
    """RAdam's tβ₂ᵗ/(1 − β₂ᵗ), by the recursion that Paddle keeps."""
    one = np.dtype(kind).type
    factor, rho = one(np.float32(beta2)), one(1)
    for beta in power(kind, beta2, 0, steps, float(np.float32(beta2)))[1:]:
        rho = (rho * (factor - beta) + beta) / (one(1) - beta)
    return rho


def _named(name: str, array: np.ndarray) -> Reduce:
    return Reduce(Global("builtins", "tuple"), ((name, _array(array)),))


def _array(array: np.ndarray) -> Reduce:
    """``array`` as NumPy pickles one; bfloat16 as uint16."""
    shape = array.shape
    if array.dtype == ml_dtypes.bfloat16:
        array = array.view(np.uint16)
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    order = "<" if array.dtype.itemsize > 1 else "|"
    kind = Reduce(
        Global("numpy", "dtype"),
        (array.dtype.str[1:], False, True),
        (3, order, None, None, None, -1, -1, 0),
    )
    tell_write(array.nbytes)
    made = Global("numpy.core.multiarray", "_reconstruct")
    return Reduce(made, (Global("numpy", "ndarray"), (0,), b"b"), (1, shape, kind, False, little.tobytes()))
