"""Runs Keras optimizers, emitted and native, step by step. Imports Keras.

Keras chooses its backend when it is imported. Where ``KERAS_BACKEND`` is not set, this module
chooses the first of JAX, PyTorch and TensorFlow that is installed.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from os import PathLike
from typing import Any

import numpy as np

from optexport import source
from optexport.dialects import find
from optexport.errors import CheckpointError, HyperparameterError, UnknownNameError
from optexport.parity.runs import Arrays, Snapshot, starting_state
from optexport.schedules.inline import inline
from optexport.specs import Spec
from optexport.state.training import TrainingState

from ._scaled import split_arguments
from .emit import emit
from .optimizers.common import KerasNative, rule_for, slots_of, variable_order

__all__ = ["native_resume", "native_snapshots", "snapshots"]

if "KERAS_BACKEND" not in os.environ:
    _INSTALLED = [b for b in ("jax", "torch", "tensorflow") if importlib.util.find_spec(b) is not None]
    if not _INSTALLED:
        raise ImportError("Keras needs one of its backends, jax, torch or tensorflow; pip install jax")
    os.environ["KERAS_BACKEND"] = _INSTALLED[0]

import keras as keras  # others take it from here, where its backend has been chosen

# The learning rate is a variable of the tensors' type.
RATES_ARE_TENSORS = True


def snapshots(
    spec: Spec,
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    slots: Mapping[str, Arrays] | None = None,
    steps: Mapping[str, int] | int | None = None,
) -> Iterator[Snapshot]:
    """Run the emitted optimizer; after each step the parameters, and the slots by the rule's names.

    params: name -> array. grads: one mapping a step; a parameter that it lacks is left alone.
    lrs: learning rate of each step for all groups (before their ``lr_mult``), the spec's own where None.
    dtype: of parameters, gradients and slots; also Keras' ``floatx`` while the optimizer runs.
    slots, steps: where to start from; slots that are absent start at their initial values.

    Raises:
        UnknownNameError: a group of ``spec`` lists a parameter that ``params`` lacks.
        HyperparameterError: ``lrs`` with groups whose own learning rates differ; Keras has one.
    """
    spec = inline(spec.settle({n: np.asarray(v) for n, v in params.items()}), () if lrs is None else ("lr",))
    if lrs is not None and not spec.one_lr:
        raise HyperparameterError(
            "lrs: expected one learning rate in all groups, found several; Keras multiplies one"
        )
    # A learning rate comes before the groups' multipliers; one group's is in its optimizer's own.
    factor = spec.groups[0].lr_mult if len(spec.groups) == 1 else 1.0
    own = None if lrs is None else [r if r is None else r * factor for r in lrs]
    kind = getattr(source.execute(emit(spec)), source.class_name(spec, None))
    with _floats(dtype):
        run = _Run(kind() if len(spec.groups) == 1 else kind(names=list(params)), params, dtype)
        if slots is not None or steps is not None:
            _start(run, starting_state(spec, params, slots, steps))
    return run.steps(grads, own, lambda: _own_slots(run, spec))


def _start(run: _Run, state: TrainingState) -> None:
    """Go on from a training state."""
    for i, name in enumerate(run.variables):
        full = state.full_slots(name)
        for slot, variable in zip(
            state.spec.group(name).rule.slot_names, run.optimizer._slots[i], strict=True
        ):
            variable.assign(full[slot])
        run.optimizer._steps[i].assign(state.steps.get(name, 0))


def _own_slots(run: _Run, spec: Spec) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """The slots of an emitted optimizer under the rule's names."""
    return {
        n: dict(zip(spec.group(n).rule.slot_names, map(_numpy, run.optimizer._slots[i]), strict=True))
        for i, n in enumerate(run.variables)
    }


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Run ``keras:AdamW`` and the like; slots are under Keras' own names.

    arguments: of the class. params: name -> array, in the optimizer's order. grads: one mapping a
        step; a parameter that it lacks is left alone, but the step count, which all share, goes on.
    lrs: learning rate of each step, the optimizer's own where None. dtype: of parameters, gradients
        and slots; also Keras' ``floatx`` while the optimizer runs.

    Raises:
        UnknownNameError: Keras has no such optimizer.
    """
    with _floats(dtype):
        run = _Run(_made(optimizer, arguments), params, dtype)
    return run.steps(grads, lrs, lambda: _native_slots(run, optimizer, arguments))


def native_resume(
    path: str | PathLike[str],
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Load the optimizer of a ``.weights.h5`` file with Keras itself and go on.

    Variables are found by position: ``params`` must be in the order that the file's optimizer had.
    arguments: of the class; the file holds the learning rate and the step count only.

    Raises:
        CheckpointError: the file's optimizer has another number of variables.
    """
    from keras.src.saving.saving_lib import H5IOStore

    with _floats(dtype):
        run = _Run(_made(optimizer, arguments), params, dtype)
        with closing(H5IOStore(os.fspath(path), mode="r")) as store:
            held = store.get("optimizer")
            if len(held.keys()) != len(run.optimizer.variables):
                raise CheckpointError(
                    f"{path}: expected {len(run.optimizer.variables)} variables of {optimizer}, found {len(held.keys())}"
                )
            run.optimizer.load_own_variables(held)
    return run.steps(grads, lrs, lambda: _native_slots(run, optimizer, arguments))


class _Run:
    """An optimizer and the variables it updates.

    Each update runs with ``floatx`` (and JAX' 64-bit mode) as ``dtype`` needs it, and leaves both as
    they were.
    """

    def __init__(self, optimizer: Any, params: Arrays, dtype: str) -> None:
        self.optimizer, self.dtype = optimizer, dtype
        self.variables = {
            n: keras.Variable(np.asarray(v, dtype), dtype=dtype, name=f"variable_{i}")
            for i, (n, v) in enumerate(params.items())
        }
        optimizer.build(list(self.variables.values()))
        # JAX compiles a condition (whether enough gradients have been accumulated) anew at every eager call.
        branches = getattr(optimizer, "gradient_accumulation_steps", None)
        branches = branches or isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        self._compiled: Any = None
        if branches and keras.config.backend() == "jax":
            import jax

            self._compiled = jax.jit(optimizer.stateless_apply)

    def steps(
        self,
        grads: Sequence[Arrays],
        lrs: Sequence[float | None] | None,
        slots: Callable[[], dict[str, dict[str, np.ndarray[Any, Any]]]],
    ) -> Iterator[Snapshot]:
        own = float(_numpy(self.optimizer.learning_rate))
        for gradients, lr in zip(grads, lrs or [None] * len(grads), strict=True):
            with _floats(self.dtype):
                if lr is not None or not math.isnan(own):  # (NaN: the rule computes it)
                    self.optimizer.learning_rate = own if lr is None else lr
                self._apply(gradients)
                snapshot = {n: _numpy(v) for n, v in self.variables.items()}, slots()
            yield snapshot

    def _apply(self, gradients: Arrays) -> None:
        given = [
            keras.ops.convert_to_tensor(np.asarray(gradients[n], self.dtype), self.dtype)
            if n in gradients
            else None
            for n in self.variables
        ]
        if all(g is None for g in given):
            return
        with warnings.catch_warnings():
            # Keras warns when a variable has no gradient.
            warnings.filterwarnings("ignore", "Gradients do not exist")
            variables = list(self.variables.values())
            if self._compiled is None:
                self.optimizer.apply(given, variables)
                return
            # As `fit` calls it.
            own = self.optimizer.variables
            results = self._compiled([v.value for v in own], given, [v.value for v in variables])
            for held, values in zip((variables, own), results, strict=True):
                for variable, value in zip(held, values, strict=True):
                    variable.assign(value)


def _native_slots(
    run: _Run, optimizer: str, arguments: Mapping[str, Any]
) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """The slots out of ``optimizer.variables``, which Keras orders by block."""
    entry = find(optimizer)
    if not isinstance(entry, KerasNative):
        raise UnknownNameError(f"{optimizer!r}: expected an optimizer of Keras, as in keras:AdamW")
    names = list(run.variables)
    given = entry.complete(arguments)
    shapes = [tuple(v.shape) for v in run.variables.values()]
    order = variable_order(entry, given, [slots_of(entry, rule_for(entry, given, s)) for s in shapes])
    variables = run.optimizer.variables
    first = len(variables) - len(order)
    out: dict[str, dict[str, np.ndarray[Any, Any]]] = {n: {} for n in names}
    for (place, slot), variable in zip(order, variables[first:], strict=True):
        for name in names if place is None else names[place : place + 1]:
            out[name][slot] = _numpy(variable)
    return out


@contextmanager
def _floats(dtype: str) -> Iterator[None]:
    """Keras' default float as ``dtype`` needs it, and 64-bit numbers in JAX where it is float64."""
    before = keras.config.floatx()
    with ExitStack() as stack:
        if keras.config.backend() == "jax" and dtype == "float64":
            import jax
            import jax.experimental

            switch = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
            stack.enter_context(switch(True))
        stack.callback(keras.config.set_floatx, before)
        keras.config.set_floatx(dtype)
        yield


def _numpy(variable: Any) -> np.ndarray[Any, Any]:
    """A variable or tensor as a copy of its own memory."""
    return np.array(keras.ops.convert_to_numpy(getattr(variable, "value", variable)))


def _made(optimizer: str, arguments: Mapping[str, Any]) -> Any:
    """The optimizer; in a ``LossScaleOptimizer`` where the arguments are of one around it."""
    inner, scaling = split_arguments(arguments)
    made = _class(optimizer)(**inner)
    return keras.optimizers.LossScaleOptimizer(made, **scaling) if scaling else made


def _class(optimizer: str) -> Any:
    name = optimizer.rpartition(":")[2].lower()
    for found, kind in vars(keras.optimizers).items():
        if found.lower() == name and inspect.isclass(kind) and issubclass(kind, keras.optimizers.Optimizer):
            return kind
    raise UnknownNameError(f"{optimizer!r}: expected an optimizer of keras.optimizers, as in keras:AdamW")
