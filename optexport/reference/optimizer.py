"""Stepping a training state with the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import CheckpointError, HyperparameterError
from ..rules import Rule
from ..specs import Spec
from ..state.training import MASTER, TrainingState
from .interpreter import run_together

__all__ = ["init", "step"]


def init(spec: Spec, params: Mapping[str, Any], dtype: Any = None) -> TrainingState:
    """A training state before its first update.

    params: name -> array of any shape. dtype: of everything that follows; float64 when None, even
        for float32 arrays.

    Raises:
        UnknownNameError: a group of ``spec`` lists a parameter that ``params`` lacks.
    """
    kind = np.dtype(np.float64 if dtype is None else dtype)
    values = {name: np.array(value, kind) for name, value in params.items()}
    spec = spec.settle(values)
    slots = {}
    for name, value in values.items():
        group = spec.group(name)
        slots[name] = {
            s.name: s.first(value, value.shape, kind, group.hyperparameters) for s in group.rule.slots
        }
    native = {g.native for g in spec.groups}
    return TrainingState(
        spec,
        values,
        slots,
        {name: spec.group(name).first_step for name in values},
        dtype=kind.name,
        dialect=native.pop() if len(native) == 1 else "",
    )


def step(
    state: TrainingState,
    grads: Mapping[str, Any],
    lr: float | Sequence[float] | None = None,
    dtype: Any = None,
    noise: Mapping[str, Any] | None = None,
    hessian: Mapping[str, Any] | None = None,
) -> TrainingState:
    """One update of every parameter that has a gradient.

    grads: name -> array of the parameter's shape; a parameter without one is left alone, its step
        count too, as the frameworks do.
    lr: learning rate of this step, one value or one a group; the spec's own when None, which is its
        schedule's after `TrainingState.clock` updates where it has one. It is not kept.
    dtype: of the arithmetic and the result; the state's own when None (float64 unless ``init`` was
        told otherwise).
    noise: name -> standard normal numbers of the parameter's shape, for rules with random noise.
    hessian: name -> diagonal of the Hessian, or its product with a vector, for rules that take one.

    Raises:
        CheckpointError: a parameter has no value. HyperparameterError: a gradient, noise or hessian
            of another shape, or one that the rule needs and is not given.
    """
    kind = np.dtype(state.dtype if dtype is None else dtype)
    params, slots, steps = dict(state.params), dict(state.slots), dict(state.steps)
    unknown = [n for n in grads if n not in state.names]
    if unknown:
        raise HyperparameterError(
            f"gradient for {unknown[0]!r}: expected a parameter among {', '.join(state.names)}"
        )
    members: list[tuple[str, Rule, dict[str, Any]]] = []
    for index, group in enumerate(state.spec.groups):
        values = group.values(state.spec.lr_of(index, lr), state.clock)
        for name in group.params or ():
            if name not in grads:
                continue
            if name not in params:
                raise CheckpointError(
                    f"parameter {name!r}: expected a value, found none; pass the weights (model=)"
                )
            have = state.full_slots(name)
            master = have.pop(MASTER, None)
            weight = params[name] if master is None else master
            grad = np.asarray(grads[name])
            if grad.shape != weight.shape:
                raise HyperparameterError(
                    f"gradient for {name!r}: expected shape {weight.shape}, found {grad.shape}"
                )
            inputs = {"param": weight, "grad": grad, "step": steps[name]}
            inputs |= {f"hyper:{k}": v for k, v in values.items()}
            inputs |= {f"slot:{k}": v for k, v in have.items()}
            inputs |= _given(group.rule, name, weight.shape, noise=noise, hessian=hessian)
            members.append((name, group.rule, inputs))
    made = run_together([(rule.program, inputs) for _, rule, inputs in members], kind)
    for (name, rule, _), new in zip(members, made, strict=True):
        params[name] = new.pop("param")
        # A scalar slot has a dtype of its own.
        new = {s.name: np.asarray(new[s.name], s.dtype_for(kind)) for s in rule.slots}
        slots[name] = (
            {**new, MASTER: params[name]} if state.slots.get(name, {}).get(MASTER) is not None else new
        )
        steps[name] += 1
    return replace(state, params=params, slots=slots, steps=steps, dtype=kind.name)


def _given(
    rule: Rule, name: str, shape: tuple[int, ...], **given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the caller gives beside the gradient, where the rule reads it."""
    out = {}
    for role, values in given.items():
        if not rule.program.inputs(role):  # type: ignore[arg-type]
            continue
        value = np.asarray((values or {}).get(name, np.nan))
        if value.shape != shape:
            found = f"shape {value.shape}" if values and name in values else "none"
            raise HyperparameterError(
                f"{role} for {name!r}: expected an array of shape {shape}, found {found}; pass {role}="
            )
        out[role] = value
    return out
