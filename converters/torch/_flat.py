"""L-BFGS' state in PyTorch: vectors over all parameters in one, kept beside the first parameter.

``d`` the direction and ``t`` the length of the last step, ``old_dirs`` and ``old_stps`` lists of the kept
differences of gradients and parameters, oldest first, ``ro`` and ``H_diag`` what follows from them,
``prev_flat_grad``, ``prev_loss``, ``n_iter``, ``func_evals``. A rule has the pairs of each parameter as a
history of fixed length, zeros where there is no pair yet, and the last step as one tensor, t·d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optexport.dialects import Native
from optexport.errors import CheckpointError
from optexport.state.native import NativeState

__all__ = ["arrange", "gather", "spread"]

Shapes = Mapping[str, tuple[int, ...]]
_LISTS = ("old_dirs", "old_stps")


def arrange(native: NativeState, entry: Native, given: Mapping[str, Any], where: str) -> NativeState:
    """``native`` with L-BFGS' one state as the slots of each parameter; any other as it is.

    Raises:
        CheckpointError: nothing tells the shapes of the parameters, or the vectors are of others.
    """
    states = native.extras.get("state")
    if entry.name != "LBFGS" or not isinstance(states, Mapping) or not states:
        return native
    (held,) = states.values()
    keys = [k for g in native.groups for k in g.params]
    model = {n: tuple(a.shape) for n, a in native.weights.items()} or native.shapes
    if not set(keys) <= set(model):
        # By their place: the file has no names.
        model = dict(zip(keys, model.values(), strict=True)) if len(model) == len(keys) else {}
    if not model:
        raise CheckpointError(
            f"{where}: LBFGS keeps one vector for all parameters; expected weights that tell their {len(keys)} shapes, "
            "found none; pass the weights (--model)"
        )
    arguments = {**entry.arguments, **native.groups[0].arguments, **given}
    try:
        slots = spread(held, {k: model[k] for k in keys}, int(arguments["history_size"]))
    except ValueError as e:
        raise CheckpointError(f"{where}: {e}; are these the weights of this run?") from None
    return replace(
        native,
        slots=slots,
        steps=dict.fromkeys(keys, int(held.get("n_iter", 0))),
        extras={k: v for k, v in native.extras.items() if k != "state"},
        warnings=[w for w in native.warnings if not w.startswith("LBFGS keeps one flat state")],
    )


def spread(state: Mapping[str, Any], shapes: Shapes, history: int) -> dict[str, dict[str, np.ndarray]]:
    """Slots of each parameter out of the one state: ``old_dirs`` and ``old_stps`` of shape (history, …),
    ``prev_flat_grad``, ``d`` (times ``t``) and ``n_iter``.

    state: arrays and numbers; what is absent is zero. shapes: of the parameters, in order.

    Raises:
        ValueError: a vector's length is not the number of elements.
    """
    count = sum(int(np.prod(s)) for s in shapes.values())
    some = state.get("prev_flat_grad")
    dtype = np.dtype(np.float32) if some is None else np.asarray(some).dtype
    rows = {k: [np.asarray(v) for v in state.get(k) or ()] for k in _LISTS}
    # NumPy 2 asks a tensor for its own ``size``, which is a method.
    given = [x for r in rows.values() for x in r] + ([] if some is None else [np.asarray(some)])
    found = {x.size for x in given}
    if found - {count}:
        raise ValueError(f"expected vectors of {count} elements, found {', '.join(map(str, sorted(found)))}")
    vectors = {
        k: np.concatenate([np.zeros((history - len(v), count), dtype), *(x[None] for x in v)])
        for k, v in rows.items()
    }
    for key, factor in (("prev_flat_grad", 1.0), ("d", state.get("t"))):
        held = state.get(key)
        vectors[key] = (
            np.zeros(count, dtype)
            if held is None or factor is None
            else np.asarray(held) * dtype.type(factor)
        )
    out: dict[str, dict[str, np.ndarray]] = {}
    start = 0
    for name, shape in shapes.items():
        stop = start + int(np.prod(shape))
        out[name] = {k: v[..., start:stop].reshape(*v.shape[:-1], *shape) for k, v in vectors.items()}
        out[name]["n_iter"] = np.asarray(float(state.get("n_iter", 0)))
        start = stop
    return out


def gather(slots: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """The one state out of the slots of all parameters, in order; the inverse of `spread`.

    ``t`` is 1, so that ``d`` is the last step itself; PyTorch makes both anew before it reads them apart.
    """
    flat = {
        k: np.concatenate(
            [have[k].reshape(*have[k].shape[: have[k].ndim - n], -1) for have, n in _ranks(slots)], -1
        )
        for k in (*_LISTS, "prev_flat_grad", "d")
    }
    dirs, steps = flat["old_dirs"], flat["old_stps"]
    kept = [i for i in range(len(dirs)) if dirs[i].any() and steps[i].any()]
    curvatures = [dirs[i] @ steps[i] for i in kept]
    iterations = int(next(iter(slots.values()))["n_iter"])
    return {
        "func_evals": iterations,
        "n_iter": iterations,
        "d": flat["d"],
        "t": 1.0,
        "old_dirs": [dirs[i] for i in kept],
        "old_stps": [steps[i] for i in kept],
        "ro": [np.asarray(1 / c) for c in curvatures],
        "H_diag": np.asarray(curvatures[-1] / (dirs[kept[-1]] @ dirs[kept[-1]])) if kept else 1,
        "prev_flat_grad": flat["prev_flat_grad"],
        "prev_loss": 0.0,
    }


def _ranks(slots: Mapping[str, Mapping[str, np.ndarray]]) -> list[tuple[Mapping[str, np.ndarray], int]]:
    return [(have, have["prev_flat_grad"].ndim) for have in slots.values()]
