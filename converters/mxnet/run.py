"""Runs MXNet optimizers, emitted and native, step by step. Imports MXNet."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from optexport import source
from optexport.dialects import Native, find
from optexport.errors import HyperparameterError
from optexport.parity.runs import Arrays, Snapshot, starting_state
from optexport.rules.base import Slot
from optexport.schedules.inline import inline
from optexport.specs import Spec
from optexport.state.training import TrainingState

from ._import import import_mxnet
from .dialect import slot_paths
from .emit import emit
from .optimizers.common import by_index

__all__ = ["native_resume", "native_snapshots", "snapshots"]

mx = import_mxnet()


def snapshots(
    spec: Spec,
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    slots: Mapping[str, Arrays] | None = None,
    steps: Mapping[str, int] | int | None = None,
    multi_precision: bool = False,
    noise: Sequence[Arrays] | None = None,
) -> Iterator[Snapshot]:
    """Run the emitted optimizer; after each step the parameters, and the slots by the rule's names.

    params: name -> array. grads: one mapping a step; a parameter that it lacks is left alone.
    lrs: learning rate of each step for all groups (before their ``lr_mult``), the spec's own where None.
    dtype: of parameters, gradients and slots.
    slots, steps: where to start from; slots that are absent start at their initial values.
    multi_precision: keep a float32 master beside float16 parameters: the slot ``master``.
    noise: one mapping a step, for rules that take it; MXNet's generator where None.

    Raises:
        UnknownNameError: a group of ``spec`` lists a parameter that ``params`` lacks.
        HyperparameterError: ``lrs`` with groups whose own learning rates differ; MXNet has one.
    """
    spec = inline(spec.settle(params), () if lrs is None else ("lr",))
    if lrs is not None and not spec.one_lr:
        raise HyperparameterError(
            "lrs: expected one learning rate in all groups, found several; MXNet multiplies one"
        )
    with warnings.catch_warnings():
        # MXNet warns when a second class takes a registered name.
        warnings.simplefilter("ignore")
        made = source.execute(emit(spec))
    kind = getattr(made, source.class_name(spec, None))
    optimizer = kind(param_idx2name=dict(enumerate(params)), multi_precision=multi_precision)
    run = _Run(optimizer, params, dtype, lambda n: [s.name for s in spec.group(n).rule.slots])
    run.own = {n: {s.name: s for s in spec.group(n).rule.slots} for n in params}
    if slots is not None or steps is not None:
        run.start(starting_state(spec, params, slots, steps))
    return run.steps(grads, lrs, noise if source.given(g.rule for g in spec.groups) else None)


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    noise: Sequence[Arrays] | None = None,
) -> Iterator[Snapshot]:
    """Run ``mxnet:adam`` and the like; slots are under MXNet's own names.

    arguments: of the class or operator; ``lr_mult`` and ``wd_mult`` are set on the instance. A
        parameter's index is its place in ``params``; names reach MXNet only through an argument
        ``param_idx2name``. noise: standard normal numbers of each step, which the optimizer's
        own draws are made of; MXNet's generator where None. The others are as for `snapshots`.

    Raises:
        UnknownNameError: MXNet has no such optimizer.
    """
    native = find(optimizer)
    if native.name.endswith("_update"):
        return _operator(native.complete(arguments), params, grads, lrs, dtype)
    run = _Run(_create(native, arguments), params, dtype, lambda _: [s for s, _ in native.slots])
    return run.steps(grads, lrs, noise)


def native_resume(
    path: str | PathLike[str],
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Load a ``.states`` file with MXNet itself (``Updater.set_states``) and go on.

    MXNet unpickles the file, which runs whatever code it names: only for files that you trust.
    A file with the optimizer in it replaces ``arguments``; one without holds no step counts, so give
    ``begin_num_update``. Indexes are places in ``params``. The rest is as for `native_snapshots`.
    """
    native = find(optimizer)
    run = _Run(_create(native, arguments), params, dtype, lambda _: [s for s, _ in native.slots])
    with open(path, "rb") as file:
        run.updater.set_states(file.read())
    return run.steps(grads, lrs)


def _create(native: Native, arguments: Mapping[str, Any]) -> Any:
    given = {native.aliases.get(k, k): v for k, v in arguments.items()}
    if given.get("param_idx2name"):
        given["param_idx2name"] = by_index(given["param_idx2name"])
    multipliers = {k: by_index(given.pop(k, None)) for k in ("lr_mult", "wd_mult")}
    made = mx.optimizer.create(native.name, **given)
    if multipliers["lr_mult"]:
        made.set_lr_mult(multipliers["lr_mult"])
    if multipliers["wd_mult"]:
        made.set_wd_mult(multipliers["wd_mult"])
    return made


_SlotNames = Callable[[str], Sequence[str]]


class _Run:
    """An optimizer behind MXNet's own ``Updater``, one index a parameter.

    slots: parameter name -> names of its slots, in the order of the state's arrays.
    """

    def __init__(
        self, optimizer: Any, params: Arrays, dtype: str, slots: Callable[[str], Sequence[str]]
    ) -> None:
        self.updater = mx.optimizer.get_updater(optimizer)
        self.shapes = {n: np.shape(v) for n, v in params.items()}
        self.weights = {n: _array(v, dtype) for n, v in params.items()}
        self.dtype, self.slots = dtype, slots
        self.own: Mapping[str, Mapping[str, Slot]] = {}  # an emitted optimizer's, for slots of other shapes

    def start(self, state: TrainingState) -> None:
        """Go on from a training state."""
        optimizer = self.updater.optimizer
        for index, name in enumerate(self.weights):
            full = state.full_slots(name)
            kinds = {s: slot.dtype_for(self.dtype).name for s, slot in self.own[name].items()}
            arrays = tuple(_array(full[s], kinds[s]) for s in self.slots(name))
            self.updater.states[index] = arrays or None
            self.updater.states_synced[index] = True
            optimizer._index_update_count[index] = state.steps.get(name, 0)
        optimizer.num_update = max([optimizer.num_update, *optimizer._index_update_count.values()])

    def steps(
        self,
        grads: Sequence[Arrays],
        lrs: Sequence[float | None] | None,
        noise: Sequence[Arrays] | None = None,
    ) -> Iterator[Snapshot]:
        optimizer = self.updater.optimizer
        own = optimizer.lr
        draws: Sequence[Arrays | None] = noise or [None] * len(grads)
        updated = "float32" if self._has_masters else self.dtype
        for gradients, lr, drawn in zip(grads, lrs or [None] * len(grads), draws, strict=True):
            # A loaded optimizer may have a scheduler, which MXNet lets nobody overrule.
            if lr is not None or optimizer.lr_scheduler is None:
                optimizer.set_learning_rate(own if lr is None else lr)
            for index, (name, weight) in enumerate(self.weights.items()):
                if name in gradients:
                    if drawn is not None:  # what an emitted optimizer reads
                        optimizer.noise = {index: _array(drawn[name], updated)}
                    with _drawing(None if drawn is None else drawn[name]):
                        self.updater(index, _array(gradients[name], self.dtype), weight)
            yield (
                {n: _numpy(w, self.shapes[n]) for n, w in self.weights.items()},
                {n: self._slots(i, n) for i, n in enumerate(self.weights)},
            )

    @property
    def _has_masters(self) -> bool:
        return self.dtype == "float16" and bool(self.updater.optimizer.multi_precision)

    def _slots(self, index: int, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """The state of one index; a float32 master, where there is one, is slot ``master``."""
        optimizer, state = self.updater.optimizer, self.updater.states.get(index)
        paths = slot_paths(type(optimizer).__name__, self.slots(name), self._has_masters)
        once = {s: np.asarray(getattr(optimizer, p[1:])) for s, p in paths.items() if p.startswith(".")}
        found = {slot: _at(state, path) for slot, path in paths.items() if slot not in once}
        # LBSGD keeps what it gathers on the optimizer: an array, or the number 0 after an update.
        for slot, value in getattr(optimizer, "cumgrads", {}).get(index, {}).items():
            if slot in self.slots(name):
                found[slot] = mx.nd.zeros_like(self.weights[name]) if isinstance(value, int) else value
        shapes = {s: slot.shape_for(self.shapes[name]) for s, slot in self.own.get(name, {}).items()}
        return {
            slot: a.asnumpy().reshape(shapes[slot]) if slot in shapes else _numpy(a, self.shapes[name])
            for slot, a in found.items()
            if a is not None
        } | once


def _at(state: Any, path: str) -> Any:
    """The array at ``[1][0]`` of a state. None where it has none: a class may have fewer slots than
    its table, as RMSProp without ``centered``."""
    for place in map(int, re.findall(r"\d+", path)):
        state = state[place] if isinstance(state, tuple | list) and place < len(state) else None
    return state


def _operator(
    a: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None,
    dtype: str,
) -> Iterator[Snapshot]:
    """``mx.nd.contrib.adamw_update``, its moments kept here."""
    shapes = {n: np.shape(v) for n, v in params.items()}
    weights = {n: _array(v, dtype) for n, v in params.items()}
    moments = {n: (mx.nd.zeros_like(w), mx.nd.zeros_like(w)) for n, w in weights.items()}
    rescale = mx.nd.array([a["rescale_grad"]], dtype="float32")
    for gradients, lr in zip(grads, lrs or [None] * len(grads), strict=True):
        for name in (n for n in weights if n in gradients):
            mx.nd.contrib.adamw_update(
                weights[name],
                _array(gradients[name], dtype),
                *moments[name],
                rescale,
                lr=a["learning_rate"] if lr is None else lr,
                eta=a["eta"],
                beta1=a["beta1"],
                beta2=a["beta2"],
                epsilon=a["epsilon"],
                wd=a["wd"],
                clip_gradient=a["clip_gradient"] or -1,
                out=weights[name],
            )
        yield (
            {n: _numpy(w, shapes[n]) for n, w in weights.items()},
            {
                n: dict(zip(("mean", "var"), (_numpy(m, shapes[n]) for m in moments[n]), strict=True))
                for n in weights
            },
        )


def _array(value: Any, dtype: str) -> Any:
    """An NDArray of its own memory; a scalar gets one dimension, because MXNet has no arrays of none."""
    value = np.asarray(value)
    return mx.nd.array(value.reshape(value.shape or (1,)), dtype=dtype)


def _numpy(array: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """As NumPy's; an array of the parameter's size has its shape, also where that has no dimensions."""
    value: np.ndarray[Any, Any] = array.asnumpy()
    return value.reshape(shape) if value.size == np.prod(shape, dtype=int) else value


@contextmanager
def _drawing(noise: Any) -> Iterator[None]:
    """Let an optimizer's draws from the normal distribution be made of ``noise``, where it is not None."""
    module = mx.optimizer.optimizer
    drawn = module.normal

    def given(loc: float, scale: float, shape: tuple[int, ...], dtype: Any, ctx: Any) -> Any:
        return loc + scale * mx.nd.array(np.asarray(noise).reshape(shape), ctx=ctx, dtype=dtype)

    if noise is not None:
        module.normal = given
    try:
        yield
    finally:
        module.normal = drawn
