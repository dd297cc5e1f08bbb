"""Training on a stock ONNX Runtime: a training graph with its state in the runtime's memory.

    trainer = Trainer("model.onnx", loss="softmax_cross_entropy", spec=ox.spec("adamw", lr=1e-3))
    losses = trainer.fit(batches, plot="loss.png")
    trainer.save("run.safetensors")
    trainer.export_inference("trained.onnx")

Imports onnxruntime when the first trainer is made, and no framework.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from optexport.errors import CheckpointError, HyperparameterError, ModelError, UnknownNameError
from optexport.specs import Spec
from optexport.state.training import TrainingState

from ._session import Opener, check_providers, device_of
from ._step_session import SEED, StepSession
from .training.evaluation import evaluation, inference_model, with_values, without_values
from .training.forward import load_model
from .training_graph import Meant, build, write

__all__ = ["Evaluation", "Trainer"]

_MEANT = ("train", "freeze", "tied", "frozen_rows", "batch_norm", "dropout", "expected")
_BUILD = ("loss_options", "output", "runtime", "keep", "compute")


@dataclass(frozen=True)
class Evaluation:
    """loss: None where no label was given. outputs: the model's outputs by name."""

    loss: float | None
    outputs: dict[str, np.ndarray]


class Trainer:
    """A model that trains: parameters, slots and running statistics stay on the device.

    model: a forward model, or its path. loss, spec: as for `optexport.training_graph`.
    state: where the run goes on; the model's own values at step 0 where None. Its spec is used where
        ``spec`` is None.
    providers: execution providers by name, in order of preference. threads: of the CPU provider, 0 for
        all cores.
    in_place: write new values over old ones where that is proven safe on the graph that the runtime
        runs (`in_place` lists them); bit for bit the same numbers. With False every tensor has two buffers.
    flush_denormals: treat denormal numbers as zero: Adam's second moment becomes so small on a memorised
        batch, and steps several times slower. ONNX Runtime sets the mode for its threads and the one that
        makes the process's first session.
    seed: what dropout follows from; step n draws from seed + n, so that a resumed run draws the same.
    options: of `optexport.training_graph` (``loss_options``, ``output``, ``runtime``, ``keep``, ``compute``), and what is
        meant by the model (``train``, ``freeze``, ``batch_norm``, …).

    Raises:
        ModelError: the model cannot be trained as it stands, or the state is of another model.
        UnknownNameError: a provider is not installed; the message lists those that are.
    """

    def __init__(
        self,
        model: onnx.ModelProto | str | os.PathLike[str],
        loss: str,
        spec: Spec | None = None,
        *,
        state: TrainingState | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
        in_place: bool = True,
        flush_denormals: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_providers(providers)
        spec = spec if spec is not None or state is None else state.spec
        if spec is None:
            raise HyperparameterError("Trainer: expected a spec, or a state that has one")
        unknown = [o for o in options if o not in (*_MEANT, *_BUILD)]
        if unknown:
            raise UnknownNameError(
                f"Trainer: unknown option {unknown[0]!r}; expected one of {', '.join((*_BUILD, *_MEANT))}"
            )
        self._where = "model" if isinstance(model, onnx.ModelProto) else os.fspath(model)
        self._loss_name, self._options = loss, options
        self._meant = Meant(**{k: v for k, v in options.items() if k in _MEANT})
        steps = dict(state.steps) if state is not None else None
        built = build(
            model,
            loss,
            spec,
            meant=self._meant,
            steps=steps,
            blocks=device_of(providers) == "cpu",
            **{k: v for k, v in options.items() if k in _BUILD},
        )
        # The session will have the parameters: their first values would be as much memory again.
        self._forward = without_values(load_model(model)[0], built.params)
        self.notes, self.spec, self._buffers = list(built.notes), built.spec, list(built.buffers)
        self._provenance: tuple[str, ...] = ()
        self._dialect = ""
        self._opener = Opener(list(providers), threads, flush_denormals, self._where)
        self._graph = StepSession(built.model, self._opener, in_place)
        self._told = self._graph.told
        self._evaluations: dict[bool, Any] = {}
        self._failed = False
        self._rates = self._own_rates()
        self.seed = seed
        fresh = TrainingState(
            self.spec,
            built.params,
            {},
            {n: self.spec.group(n).first_step for n in built.params},
            buffers=built.buffers,
        )
        # What the graph counts from; a parameter whose count differs is that much behind `step` for ever.
        counts = {n: (steps or {}).get(n, fresh.steps[n]) for n in built.params}
        self._offsets = {n: c - max(counts.values()) for n, c in counts.items()}
        self._first_buffers = built.buffers
        self.load_state(fresh if state is None else state)

    @property
    def in_place(self) -> dict[str, bool]:
        """State tensor -> whether its new values are written over it."""
        return self._graph.in_place

    @property
    def state_bytes(self) -> int:
        """Bytes of parameters, slots and buffers on the device, second buffers among them."""
        return self._graph.state_bytes

    # Training.

    @property
    def step_count(self) -> int:
        """Completed updates."""
        return int(self._graph.step_count)

    def step(
        self,
        *batch: Any,
        lr: float | Sequence[float] | None = None,
        hyper: Mapping[str, float] | None = None,
        **named: Any,
    ) -> float:
        """One update; the loss before it.

        batch, named: the model's inputs in their order and then the label, or by name. lr: of this step, before
        ``lr_mult``; a sequence gives ``lr.0``, ``lr.1``, … in order; the spec's own where None. hyper: other
        runtime hyperparameters of this step by name.

        Raises:
            ModelError: a tensor is absent, or has another type or shape; nothing has changed then. An earlier
                step failed half-way.
        """
        self._check_alive()
        arrays = self._batch(batch, named, self._graph.data)
        graph = self._graph
        for name, value in {**self._rates, **self._given_rates(lr), **(hyper or {})}.items():
            if name not in graph.scalars:
                raise UnknownNameError(
                    f"{name!r}: expected a runtime input among {', '.join(graph.scalars) or 'none'}"
                )
            graph.scalars[name][...] = value
        graph.seed[...] = self.seed + self.step_count
        try:
            return graph.run(arrays)
        except Exception as e:
            self._failed = any(graph.in_place.values())
            raise ModelError(f"step {self.step_count + 1}: {' '.join(str(e).split())[:300]}") from None

    @property
    def kept(self) -> dict[str, np.ndarray]:
        """The outputs that the graph was asked to keep (``keep``), of the last step."""
        return self._graph.outputs()

    def _check_alive(self) -> None:
        if self._failed:
            raise ModelError(
                "an earlier step failed after it had begun to write over the state; call load_state(), or resume "
                "from a bundle"
            )

    def _batch(
        self, batch: Sequence[Any], named: Mapping[str, Any], wanted: Sequence[str]
    ) -> dict[str, np.ndarray]:
        if len(batch) > len(wanted):
            raise ModelError(f"expected {len(wanted)} arrays ({', '.join(wanted)}), found {len(batch)}")
        given = {**dict(zip(wanted, batch, strict=False)), **named}
        for name in named:
            if name not in wanted:
                raise UnknownNameError(f"input {name!r}: expected one of {', '.join(wanted)}")
        missing = [n for n in wanted if n not in given]
        if missing:
            raise ModelError(f"input {missing[0]!r}: expected an array, found none")
        sizes: dict[str, int] = {}
        return {n: self._array(n, given[n], sizes) for n in wanted}

    def _array(self, name: str, value: Any, sizes: dict[str, int]) -> np.ndarray:
        """The value as the graph takes it. sizes: dimensions of the batch by symbol, filled."""
        array, kind, dims = np.asarray(value), np.dtype(self._graph.types[name]), self._graph.wanted[name]
        number = array.dtype.kind
        if array.dtype != kind and not (number in "iub" and np.can_cast(array.dtype, kind, "safe")):
            raise ModelError(
                f"input {name!r}: expected {kind}, found {array.dtype}; convert it (.astype({str(kind)!r}))"
            )
        fits = dims is None or len(dims) == array.ndim
        for d, n in zip(dims or (), array.shape, strict=False):
            fits = fits and (d == n if isinstance(d, int) else sizes.setdefault(d, n) == n if d else True)
        if not fits:
            raise ModelError(f"input {name!r}: expected shape {list(dims or ())}, found {list(array.shape)}")
        return np.ascontiguousarray(array, kind).reshape(array.shape)

    def _own_rates(self) -> dict[str, float]:
        """The spec's value of every runtime hyperparameter."""
        found = {}
        for name in self._graph.runtime:
            stem, _, index = name.rpartition(".")
            if stem and index.isdigit():
                found[name] = self.spec.groups[int(index)].hyperparameters[stem]
            else:
                found[name] = next(
                    g.hyperparameters[name] for g in self.spec.groups if name in g.hyperparameters
                )
        return found

    def _given_rates(self, lr: float | Sequence[float] | None) -> dict[str, float]:
        if lr is None:
            return {}
        names = [n for n in self._graph.runtime if n == "lr" or n.startswith("lr.")]
        values = [float(lr)] * len(names) if np.ndim(lr) == 0 else [float(x) for x in lr]  # type: ignore[arg-type,union-attr]
        if not names or len(values) != len(names):
            expected = (
                f"{len(names)} ({', '.join(names)})" if names else "none: the graph has no input for it"
            )
            raise HyperparameterError(f"lr: expected one value or {expected}, found {len(values)}")
        return dict(zip(names, values, strict=True))

    def fit(
        self,
        batches: Iterable[Any],
        *,
        plot: str | os.PathLike[str] | None = None,
        lr: float | Sequence[float] | None = None,
        quiet: bool = False,
    ) -> list[float]:
        """A step a batch, with a progress bar for people at a terminal; the losses.

        batches: of arrays in the order of `step`, or by name. plot: a file (``.png``, ``.svg``) for the loss
        curve, written at the end, also where a batch fails. quiet: no progress bar.
        """
        from optexport.plot import check_plot, loss_plot
        from optexport.progress import counted

        if plot is not None:
            check_plot(plot)
        losses: list[float] = []
        first = self.step_count
        try:
            with counted("training", _length(batches), quiet) as advance:
                for batch in batches:
                    given = batch if isinstance(batch, Mapping) else {}
                    arrays = () if given else batch if isinstance(batch, list | tuple) else (batch,)
                    losses.append(self.step(*arrays, lr=lr, **given))
                    advance(f"loss {losses[-1]:.4g}")
        finally:
            if plot is not None and losses:
                loss_plot(plot, {"loss": losses}, first_step=first + 1)
        return losses

    def evaluate(self, *batch: Any, **named: Any) -> Evaluation:
        """The model's outputs and its loss on a batch, by running statistics and without dropout.

        The label may be left out: there is no loss then.
        """
        self._check_alive()
        label = self._told["label"]
        inputs = [n for n in self._graph.data if n != label]
        scored = label is None or label in named or len(batch) + len(named) > len(inputs)
        arrays = self._batch(batch, named, self._graph.data if scored else inputs)
        if scored not in self._evaluations:
            self._evaluations[scored] = self._opener.open(
                evaluation(
                    with_values(self._forward, self._now()), self._meant, self._buffers, self._loss_name if scored else None,
                    self._options.get("output"), self._options.get("loss_options") or {},
                )
            )  # fmt: skip
        session = self._evaluations[scored]
        binding = session.io_binding()
        for i in session.get_inputs():
            if i.name in arrays:
                binding.bind_cpu_input(i.name, arrays[i.name])
            else:
                binding.bind_ortvalue_input(i.name, self._graph.value(i.name))
        names = [o.name for o in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cpu")
        try:
            session.run_with_iobinding(binding)
        except Exception as e:
            raise ModelError(f"evaluate: {' '.join(str(e).split())[:300]}") from None
        found = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
        loss = float(found.pop("loss")) if scored else None
        return Evaluation(loss, found)

    # State.

    def state(self) -> TrainingState:
        """A copy of the run as it stands: parameters, slots, steps, running statistics, dropout's seed."""
        self._check_alive()
        params = self._told["params"]
        slots: dict[str, dict[str, np.ndarray]] = {n: {} for n in params}
        for name in self._graph.state:
            if name not in slots and name not in self._buffers:
                owner, _, slot = name.rpartition(".")
                slots[owner][slot] = self._graph.tensor(name)
        buffers = {n: self._graph.tensor(n) for n in self._buffers}
        if self._graph.seeded:
            buffers[SEED] = np.array(self.seed, np.int64)
        return TrainingState(
            self.spec,
            {n: self._graph.tensor(n) for n in params},
            slots,
            {n: self.step_count + self._offsets[n] for n in params},
            buffers=buffers,
            dtype=str(np.dtype(self._graph.types[next(iter(params))])),
            dialect=self._dialect,
            provenance=self._provenance,
        )

    def load_state(self, state: TrainingState) -> None:
        """Go on from ``state``: all of it but its spec, which has to be this run's in rule and slots.

        Raises:
            CheckpointError: a parameter is absent or has another shape, there are parameters that the model
                lacks, or the step counts differ by parameter in another way than the graph's.
        """
        self._check_state(state)
        for name in self._told["params"]:
            self._graph.set(name, state.params[name])
            slots = state.full_slots(name)
            for full in [
                n for n in self._graph.state if n.rpartition(".")[0] == name and n not in self._buffers
            ]:
                slot = full[len(name) + 1 :]
                if slot not in slots:
                    raise CheckpointError(
                        f"parameter {name!r}: expected a slot {slot!r}, found {', '.join(slots) or 'none'}"
                    )
                self._graph.set(full, slots[slot])
        for name in self._buffers:
            self._graph.set(name, state.buffers.get(name, self._first_buffers[name]))
        if SEED in state.buffers:
            self.seed = int(state.buffers[SEED])
        self._graph.step_count[...] = max(state.steps.values())
        self._dialect, self._provenance = state.dialect, tuple(state.provenance)
        self._failed = False

    def _check_state(self, state: TrainingState) -> None:
        params = self._told["params"]
        unknown = [n for n in state.names if n not in params]
        missing = [n for n in params if n not in state.params]
        if unknown or missing:
            name = (unknown or missing)[0]
            what = "no parameter of the model that trains" if unknown else "has no value in the state"
            raise CheckpointError(
                f"{self._where}: parameter {name!r}: {what}; the state is of another model, or names differ (rearrange)"
            )
        for name in params:
            rule = self.spec.group(name).rule
            if state.spec.group(name).rule.slot_names != rule.slot_names:
                raise CheckpointError(
                    f"parameter {name!r}: expected the slots of {rule.family} ({', '.join(rule.slot_names)}), "
                    f"found those of {state.spec.group(name).rule.family}; translate the state first"
                )
        offsets = {n: state.steps[n] - max(state.steps.values()) for n in params}
        if offsets != self._offsets:
            raise CheckpointError(
                "parameters have step counts that differ in another way than when the graph was made; "
                "make a new Trainer with state="
            )

    def save(self, path: str | os.PathLike[str], *, shard_size: int | None = None) -> None:
        """Write the run as a bundle, whole or not at all; any framework that optexport knows goes on from it."""
        from optexport.state import save

        save(self.state(), path, format="bundle", shard_size=shard_size)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        model: onnx.ModelProto | str | os.PathLike[str],
        loss: str,
        **options: Any,
    ) -> Trainer:
        """The run of a bundle, or of any file of state that `optexport.load` reads, on this model.

        options: as for `Trainer`.
        """
        from optexport.state import load

        state = load(path)
        return cls(model, loss, state=state, **options)

    def export_inference(self, path: str | os.PathLike[str]) -> None:
        """Write the forward model with the trained values and running statistics, whole or not at all."""
        self._check_alive()
        write(inference_model(self._forward, self._now()), path)

    def _now(self) -> dict[str, np.ndarray]:
        """Parameters and running statistics as they are."""
        return {n: self._graph.tensor(n) for n in (*self._told["params"], *self._buffers)}


def _length(batches: Iterable[Any]) -> int | None:
    return len(batches) if isinstance(batches, Sized) else None
