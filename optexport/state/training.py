"""TrainingState: what a checkpoint holds, framework-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..specs import Spec

__all__ = ["MASTER", "TrainingState"]

# A float32 copy of a half-precision parameter that the optimizer really updates. No rule has it:
# it stands beside the rule's slots, under this name, in every framework that keeps one.
MASTER = "master"


@dataclass(frozen=True)
class TrainingState:
    """A spec with its tensors. Arrays may be read-only views of a mapped file.

    params: name -> value; a file that carries no weights leaves it empty.
    slots: name -> rule's slot name -> tensor. A parameter that was never updated may have none:
        its slots are then at their initial values.
    steps: name -> completed updates; a file's reader lists them in the optimizer's own order.
    shapes: name -> shape, None where no tensor of the file tells it.
    buffers: name -> tensor of the model that moves without a gradient (running statistics) or that the run needs
        to repeat itself (``seed``, dropout's); no optimizer has it.
    dtype: of the referee's arithmetic when this state is stepped.
    dialect: ``framework:optimizer`` it came from, or empty.
    provenance: what was done to it, oldest first.
    warnings: what a person should know, one sentence each.
    """

    spec: Spec
    params: Mapping[str, np.ndarray]
    slots: Mapping[str, Mapping[str, np.ndarray]]
    steps: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    dtype: str = "float64"
    dialect: str = ""
    provenance: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    buffers: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, group by group."""
        return tuple(p for g in self.spec.groups for p in g.params or ())

    @property
    def ordered_names(self) -> list[str]:
        """Parameter names in the model's own order where the weights tell it, else in that of ``steps``.

        Groups do not tell it: options that follow from shapes cut one of the optimizer's in several.
        """
        names = set(self.names)
        known = (list(held) for held in (self.params, self.steps) if set(held) == names)
        return next(known, list(self.names))

    @property
    def clock(self) -> int:
        """Completed updates of the run, which schedules follow: those of the parameter with most.

        Every framework counts so: one ``scheduler.step()``, ``num_update``, ``count`` or ``iterations``
        for all parameters, whether each has a gradient or not.
        """
        return max(self.steps.values(), default=0)

    def shape(self, name: str) -> tuple[int, ...] | None:
        if name in self.params:
            return tuple(self.params[name].shape)
        kinds = {s.name: s.shape for s in self.spec.group(name).rule.slots}
        for slot, array in self.slots.get(name, {}).items():
            kind = kinds.get(slot, "param")
            if kind == "param" or kind.startswith("history"):
                return tuple(array.shape[kind != "param" :])
        reduced = [
            tuple(array.shape)
            for slot, array in self.slots.get(name, {}).items()
            if kinds.get(slot, "param").partition(":")[0] in ("without", "only")
        ]
        # Each has size 1 where an axis is reduced; two that differ tell them all.
        return np.broadcast_shapes(*reduced) if len(set(reduced)) > 1 else self.shapes.get(name)

    def state_dtype(self, name: str) -> np.dtype[Any]:
        """dtype of a parameter's state: that of its slots, else of its value, else float32."""
        own = {s.name for s in self.spec.group(name).rule.slots if s.dtype == "param"}
        for slot, array in self.slots.get(name, {}).items():
            if slot in own:
                return np.dtype(array.dtype)
        return self.params[name].dtype if name in self.params else np.dtype(np.float32)

    def full_slots(self, name: str) -> dict[str, np.ndarray]:
        """Every slot of the rule, absent ones at their initial values.

        Raises:
            CheckpointError: a slot is absent and nothing tells the parameter's shape.
        """
        group = self.spec.group(name)
        have, out = self.slots.get(name, {}), {}
        for slot in group.rule.slots:
            if slot.name in have:
                out[slot.name] = have[slot.name]
                continue
            shape = self.shape(name)
            if shape is None and slot.shape != "scalar":
                raise CheckpointError(
                    f"parameter {name!r}, slot {slot.name!r}: expected a tensor, found none, and no tensor "
                    "tells the parameter's shape; pass the weights (--model) so that it can start fresh"
                )
            value = self.params.get(name, have.get(MASTER))
            out[slot.name] = slot.first(value, shape or (), self.state_dtype(name), group.hyperparameters)
        if MASTER in have:
            out[MASTER] = have[MASTER]
        return out

    def without_masters(self) -> TrainingState:
        """The same run in float32: masters become the parameters.

        For frameworks that keep no master beside a half-precision parameter; the optimizer really
        updates the master, so nothing is lost.
        """
        if not any(MASTER in have for have in self.slots.values()):
            return self
        params, slots = dict(self.params), {}
        for name, have in self.slots.items():
            slots[name] = {s: a for s, a in have.items() if s != MASTER}
            if MASTER in have:
                params[name] = have[MASTER]
        said = "float32 masters became the parameters: go on with float32 weights"
        return replace(self, params=params, slots=slots, warnings=(*self.warnings, said))

    def renamed(self, names: Mapping[str, str]) -> TrainingState:
        """With parameters called ``names[old]``."""

        def rename(mapping: Mapping[str, Any]) -> dict[str, Any]:
            return {names.get(k, k): v for k, v in mapping.items()}

        return replace(
            self,
            spec=self.spec.renamed(names),
            params=rename(self.params),
            slots=rename(self.slots),
            steps=rename(self.steps),
            shapes=rename(self.shapes),
            buffers=rename(self.buffers),
        )
