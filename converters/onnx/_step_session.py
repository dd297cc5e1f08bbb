"""A training graph with its state in the runtime's memory: one run is one update."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from optexport.errors import CheckpointError

from . import _graph
from ._aliases import safe_aliases
from ._session import Memory, Opener, device_of, to_ort
from .training.barrier import BARRIER, with_barrier

__all__ = ["SEED", "StepSession"]

SEED = "seed"  # dropout's: an input of the graph, and a buffer of a run
Dims = tuple[int | str | None, ...]


class StepSession:
    """Names and memory of a training graph, and its session.

    in_place: write new values over old ones where that is proven safe; else every state tensor has two
        buffers that take turns.

    told: what the graph says of itself. state: tensors that a run gives anew, but ``step``. data: inputs of a
    batch, the label last, and wanted: their shapes. runtime: hyperparameters that are inputs. seeded: whether
    the graph draws. kept: outputs that were asked for.
    step_count, seed, scalars: what the next run takes, to be written into.
    """

    def __init__(self, model: onnx.ModelProto, opener: Opener, in_place: bool) -> None:
        meta = {p.key: p.value for p in model.metadata_props}
        self.told = _graph.training_facts(meta, opener.where)
        self._read(model.graph)
        self._memory = Memory(device_of(opener.providers))
        self._session, self._aliased = self._open(model, opener, in_place)
        self._allocate()

    def _read(self, graph: onnx.GraphProto) -> None:
        infos = {i.name: i for i in graph.input}
        outputs = [o.name for o in graph.output]
        self.types = {n: _graph.numpy_type(i) for n, i in infos.items()}
        self.state = [n for o in outputs if (n := o.removesuffix(".new")) != o and n in infos and n != "step"]
        self.kept = [o for o in outputs if o != "loss" and not o.endswith(".new")]
        self._shapes = {n: _graph.shape_of(infos[n]) for n in self.state}
        self.data = [n for n in (*self.told["data"], self.told["label"]) if n and n != SEED]
        self.wanted = {n: _dims(infos[n]) for n in self.data}
        held = {*self.state, *self.data, "step", SEED}
        self.runtime = [n for n in infos if n not in held]
        self.seeded = SEED in infos
        self._loss = np.zeros((), _graph.numpy_type(graph.output[0]))

    def _open(self, model: onnx.ModelProto, opener: Opener, in_place: bool) -> tuple[Any, set[str]]:
        """The session, and the state whose new values may be written over it."""
        if not in_place:
            return opener.open(model), set()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            session = opener.open(with_barrier(model), path)
            optimized = onnx.load(str(path), load_external_data=False)
        return session, safe_aliases(optimized, {n: f"{n}.new" for n in self.state}, BARRIER)

    def _allocate(self) -> None:
        self._front = {n: self._buffer(n) for n in self.state}
        self._back = {n: self._front[n] if n in self._aliased else self._buffer(n) for n in self.state}
        self.step_count, self._next, self.seed = (np.zeros((), np.int64) for _ in range(3))
        self.scalars = {n: np.zeros((), self.types[n]) for n in self.runtime}
        self._binding = self._session.io_binding()
        held = {"step": self.step_count, **self.scalars, **({SEED: self.seed} if self.seeded else {})}
        self._held = {n: to_ort(a) for n, a in held.items()}
        for name, value in self._held.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output("loss", "cpu", 0, self._loss.dtype, [], self._loss.ctypes.data)
        self._binding.bind_output("step.new", "cpu", 0, np.int64, [], self._next.ctypes.data)
        for name in self.state:
            self._bind(name)

    def _buffer(self, name: str) -> Any:
        return self._memory.make(np.zeros(self._shapes[name], self.types[name]))

    def _bind(self, name: str) -> None:
        self._binding.bind_ortvalue_input(name, self._front[name])
        self._binding.bind_ortvalue_output(f"{name}.new", self._back[name])

    def run(self, batch: Mapping[str, np.ndarray]) -> float:
        """One update; the loss. Whatever the runtime raises goes through."""
        for name, array in batch.items():
            self._binding.bind_cpu_input(name, array)
        for name in self.kept:
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        self.step_count[...] = self._next
        for name in self.state:
            if name not in self._aliased:
                self._front[name], self._back[name] = self._back[name], self._front[name]
                self._bind(name)
        return float(self._loss)

    def outputs(self) -> dict[str, np.ndarray]:
        """The kept outputs of the last run."""
        if not self.kept:
            return {}
        # They come in the order in which they were bound first.
        values = self._binding.get_outputs()[-len(self.kept) :]
        return {n: v.numpy() for n, v in zip(self.kept, values, strict=True)}

    @property
    def in_place(self) -> dict[str, bool]:
        """State tensor -> whether its new values are written over it."""
        return {n: n in self._aliased for n in self.state}

    @property
    def state_bytes(self) -> int:
        """Bytes of the state on the device, second buffers among them."""
        held = [*self.state, *(n for n in self.state if n not in self._aliased)]
        sizes = (
            int(np.prod(self._shapes[n], dtype=np.int64)) * np.dtype(self.types[n]).itemsize for n in held
        )
        return sum(sizes)

    def value(self, name: str) -> Any:
        """A state tensor where it lies, for another session to read."""
        return self._front[name]

    def tensor(self, name: str) -> np.ndarray:
        """A copy of a state tensor."""
        return self._memory.read(self._front[name]).copy()

    def set(self, name: str, value: Any) -> None:
        """Raises CheckpointError: the value has another shape, or a type that does not go into the tensor's."""
        shape, kind, array = self._shapes[name], np.dtype(self.types[name]), np.asarray(value)
        if array.shape != shape:
            raise CheckpointError(f"tensor {name!r}: expected shape {list(shape)}, found {list(array.shape)}")
        if not np.can_cast(array.dtype, kind, "same_kind"):
            raise CheckpointError(f"tensor {name!r}: expected {kind}, found {array.dtype}")
        if self._memory.device == "cpu":
            np.copyto(self._memory.read(self._front[name]), array, casting="same_kind")
        else:
            self._front[name].update_inplace(np.ascontiguousarray(array, kind).reshape(shape))


def _dims(info: onnx.ValueInfoProto) -> Dims | None:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)
