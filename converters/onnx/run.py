"""Runs update graphs on ONNX Runtime, and the native operators for parity. Imports onnxruntime.

`UpdateSession` keeps parameters and slots in the runtime's memory and updates them in place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from optexport.errors import CheckpointError, HyperparameterError, UnknownNameError
from optexport.schedules.inline import inline
from optexport.specs import Spec
from optexport.state.training import TrainingState

from ._graph import (
    GIVEN,
    View,
    check_graph,
    find_tensors,
    flat_shapes,
    free_rows,
    numpy_type,
    read_model,
    shape_of,
    without_output_views,
)
from ._native import native_snapshots
from ._session import Memory, check_providers, device_of
from .emit import emit

__all__ = ["UpdateSession", "native_snapshots", "snapshots"]

# A graph's learning rate is an input of the tensors' type.
RATES_ARE_TENSORS = True

Arrays = Mapping[str, Any]
Snapshot = tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]


class UpdateSession:
    """An update graph with its state: load, then step.

    model: the graph that `emit` made, or its path. providers: execution providers by name, in order of
        preference. threads: of the CPU provider, 0 for all cores; in the flat layout each has rows of
        its own.
    in_place: update parameters and slots where they lie (bit for bit the same numbers); with False,
        and for outputs that the graph says must be copied, into second buffers.
    flush_denormals: treat denormal numbers as zero. A second moment that underflows slows a step
        several times otherwise; but values below 1e-38 then differ from the referee's, and ONNX
        Runtime sets the mode for the thread that makes the process's first session, NumPy included.

    Raises:
        CheckpointError: the file is no update graph. UnknownNameError: a provider is not installed.
        HyperparameterError: the tensors are bfloat16, or the graph is for a vector of any length.
    """

    def __init__(
        self,
        model: onnx.ModelProto | str | os.PathLike[str],
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
        *,
        in_place: bool = True,
        flush_denormals: bool = False,
    ) -> None:
        proto, where = read_model(model)
        meta = {p.key: p.value for p in proto.metadata_props}
        check_providers(providers)
        check_graph(proto, meta, where)
        self._device = device_of(providers)
        if any(i.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16 for i in proto.graph.input):
            raise HyperparameterError(
                f"{where}: expected float32, float64 or float16 tensors, found bfloat16, which NumPy cannot hand over"
            )
        self._names, self._views = find_tensors(proto, meta)
        inputs = {i.name: i for i in proto.graph.input}
        self._shapes = {n: shape_of(i) for n, i in inputs.items()} | flat_shapes(meta)
        self._types = {n: numpy_type(i) for n, i in inputs.items()}
        self._scalars = {n: np.zeros((), self._types[n]) for n in self._names["scalars"]}
        self._rates_set = False
        if any(0 in self._shapes[n] and _is_open(i) for n, i in inputs.items()):
            raise HyperparameterError(
                f"{where}: expected parameters of known shapes, found a graph for any length; "
                "emit it with params={name: shape}"
            )
        self._lanes = free_rows(proto) if self._device == "cpu" and not flush_denormals else {}
        workers = (threads or _cores()) if self._lanes else 1
        proto, self._direct = without_output_views(proto)
        options = ort.SessionOptions()
        # Threads that have rows of their own do better than threads that share every operator.
        options.intra_op_num_threads = 1 if self._lanes else threads
        options.log_severity_level = 3
        # Elementwise chains have nothing to fuse; the optimizer only takes time to find that out.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # The update is one part of a training step: its threads must not keep the cores busy after it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if flush_denormals:
            options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=list(providers))
        copied = set(json.loads(meta.get("optexport.copied", "null")) or ())
        known = "optexport.copied" in meta
        self._aliased = {s: in_place and known and f"{s}.new" not in copied for s in self._names["state"]}
        self._allocate(workers)

    def _allocate(self, workers: int) -> None:
        """Buffers of inputs and outputs, all zero, and what binds them: one binding a worker."""
        self._step, self._next = np.zeros((), np.int64), np.zeros((), np.int64)
        self._memory = Memory(self._device)
        self._front = {n: self._buffer(n) for n in (*self._names["state"], *self._names["grads"])}
        self._back = {
            n: self._front[n] if self._aliased[n] else self._buffer(n) for n in self._names["state"]
        }
        held = {
            n: ort.OrtValue.ortvalue_from_numpy(a) for n, a in (("step", self._step), *self._scalars.items())
        }
        self._held: list[Any] = [held]
        self._spare: dict[tuple[int, str], np.ndarray] = {}
        self._pool = ThreadPoolExecutor(workers - 1) if workers > 1 else None
        self._bindings = [self._session.io_binding() for _ in range(workers)]
        for worker, binding in enumerate(self._bindings):
            for name, value in held.items():
                binding.bind_ortvalue_input(name, value)
            after = self._next if worker == 0 else np.zeros((), np.int64)
            self._held.append(after)
            binding.bind_output("step.new", "cpu", 0, np.int64, [], after.ctypes.data)
            for name in self._front:
                self._bind(worker, name)

    def _buffer(self, name: str) -> Any:
        return self._memory.make(np.zeros(self._shapes[name], self._types[name]))

    def _array(self, name: str) -> np.ndarray:
        """A tensor: the session's own memory on the CPU, a copy elsewhere."""
        return self._memory.read(self._front[name])

    def _bind(self, worker: int, name: str) -> None:
        """Give a worker its rows of a tensor, before and after the update."""
        binding, shape, kind = self._bindings[worker], self._shapes[name], self._types[name]
        front, back = self._front[name].data_ptr(), self._back[name].data_ptr() if name in self._back else 0
        if name not in self._lanes:
            binding.bind_ortvalue_input(name, self._front[name])
        else:
            # Lanes start with different workers, so that small ones do not all fall to the first.
            place, of = (worker + self._lanes[name]) % len(self._bindings), len(self._bindings)
            first, last = shape[0] * place // of, shape[0] * (place + 1) // of
            offset = first * shape[1] * np.dtype(kind).itemsize
            front, back, shape = front + offset, back + offset, (last - first, shape[1])
            if first == last:  # no row for this worker: it gets one that nobody reads, for a Scan needs one
                shape = (1, shape[1])
                spare = self._spare.setdefault((worker, name), np.zeros((2, *shape), kind))
                front, back = spare[0].ctypes.data, spare[1].ctypes.data
            binding.bind_input(name, self._device, 0, kind, list(shape), front)
        if name in self._back:
            # The output may be the same memory under another shape: rows of a parameter.
            graph_name, shape = self._direct.get(f"{name}.new", (f"{name}.new", shape))
            binding.bind_output(graph_name, self._device, 0, kind, list(shape), back)

    def _run(self) -> None:
        rest = (
            [self._pool.submit(self._session.run_with_iobinding, b) for b in self._bindings[1:]]
            if self._pool
            else []
        )
        try:
            self._session.run_with_iobinding(self._bindings[0])
        finally:
            wait(rest)
        for future in rest:
            future.result()
        self._step[...] = self._next
        for name, aliased in self._aliased.items():
            if not aliased:
                self._front[name], self._back[name] = self._back[name], self._front[name]
                for worker in range(len(self._bindings)):
                    self._bind(worker, name)

    @property
    def step_count(self) -> int:
        """Completed updates."""
        return int(self._step)

    @property
    def params(self) -> dict[str, np.ndarray]:
        """name -> value. On the CPU these are the session's own memory, which the next step changes."""
        return {name: self._read(view) for (name, key), view in self._views.items() if key == "param"}

    @property
    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """name -> slot -> value; memory as for `params`."""
        out: dict[str, dict[str, np.ndarray]] = {n: {} for n, key in self._views if key == "param"}
        for (name, key), view in self._views.items():
            if key != "param" and key not in GIVEN:
                out[name][key] = self._read(view)
        return out

    @property
    def grads(self) -> dict[str, np.ndarray]:
        """name -> gradient buffer. On the CPU, fill these and call `step` without gradients."""
        return {name: self._read(view) for (name, key), view in self._views.items() if key == "grad"}

    def load(
        self,
        params: Arrays,
        slots: Mapping[str, Arrays] | None = None,
        step: int = 0,
    ) -> None:
        """Set all parameters and slots; slots that are absent become zeros.

        Raises:
            CheckpointError: a parameter has no value, or an array has another shape.
            UnknownNameError: a slot that the graph does not have.
        """
        given = {(n, "param"): v for n, v in params.items()}
        given |= {(n, s): v for n, held in (slots or {}).items() for s, v in held.items()}
        unknown = [k for k in given if k not in self._views]
        if unknown:
            name, key = unknown[0]
            what = f"parameter {name!r}" if key == "param" else f"parameter {name!r}, slot {key!r}"
            raise UnknownNameError(
                f"{what}: the graph has no such input; expected {', '.join(self._inputs())}"
            )
        for (name, key), view in self._views.items():
            if key in GIVEN:
                continue
            if key == "param" and (name, key) not in given:
                raise CheckpointError(f"input {name!r}: expected a value, found none; pass it in params")
            self._write(view, given.get((name, key), 0), f"{name}.{key}" if key != "param" else name)
        self._step[...] = step

    def step(
        self,
        grads: Arrays | None = None,
        lr: float | Sequence[float] | None = None,
        *,
        noise: Arrays | None = None,
        hessian: Arrays | None = None,
        **hyper: float,
    ) -> None:
        """One update.

        grads: name -> gradient, every one; None where the buffers of `grads` were filled. lr: learning
            rate, before ``lr_mult``; a sequence gives ``lr.0``, ``lr.1``, … in order. None: that of
            the step before. noise, hessian: name -> standard normal numbers, diagonal of the Hessian or its
            product with a vector, where the rule reads them. hyper: other runtime inputs by name
            (``lr.0`` as ``**{"lr.0": …}``).

        Raises:
            HyperparameterError: an input of the graph has no value, or an array has another shape.
        """
        self._set_scalars(lr, hyper)
        for kind, arrays in (("grad", grads), ("noise", noise), ("hessian", hessian)):
            self._give(kind, arrays)
        self._run()

    def _give(self, kind: str, arrays: Arrays | None) -> None:
        """Fill the buffers of what a step is given; None where the caller has filled them."""
        if arrays is None:
            return
        wanted = {name: view for (name, key), view in self._views.items() if key == kind}
        for name, view in wanted.items():
            if name not in arrays:
                word = "a gradient" if kind == "grad" else "an array"
                raise HyperparameterError(f"input '{name}.{kind}': expected {word}, found none")
            self._write(view, arrays[name], f"{name}.{kind}")
        unknown = [n for n in arrays if n not in wanted]
        if unknown:
            word = "gradient" if kind == "grad" else kind
            raise UnknownNameError(f"{word} for {unknown[0]!r}: the graph has no such parameter")

    def _set_scalars(self, lr: float | Sequence[float] | None, hyper: Mapping[str, float]) -> None:
        values = dict(hyper)
        rates = [n for n in self._scalars if n == "lr" or n.startswith("lr.")]
        if lr is not None:
            given = [float(lr)] * len(rates) if np.ndim(lr) == 0 else [float(x) for x in lr]  # type: ignore[arg-type,union-attr]
            if len(given) != len(rates):
                raise HyperparameterError(
                    f"lr: expected one value or {len(rates)} ({', '.join(rates)}), found {len(given)}"
                )
            values |= dict(zip(rates, given, strict=True))
        for name, value in values.items():
            if name not in self._scalars:
                raise UnknownNameError(
                    f"{name!r}: expected a runtime input among {', '.join(self._scalars) or 'none'}"
                )
            self._scalars[name][...] = value
        if not self._rates_set:
            missing = [n for n in self._scalars if n not in values]
            if missing:
                raise HyperparameterError(
                    f"input {missing[0]!r}: expected a value at the first step, found none"
                )
            self._rates_set = True

    def _inputs(self) -> list[str]:
        return [n if key == "param" else f"{n}.{key}" for n, key in self._views if key not in GIVEN]

    def _read(self, view: View) -> np.ndarray:
        flat = self._array(view.buffer).reshape(-1)
        return flat[view.offset : view.offset + int(np.prod(view.shape))].reshape(view.shape)

    def _write(self, view: View, value: Any, where: str) -> None:
        array = np.asarray(value)
        if (array.ndim and array.shape != view.shape) or (
            array.ndim == 0 and where.endswith(tuple(f".{k}" for k in GIVEN)) and view.shape
        ):
            raise HyperparameterError(f"input {where!r}: expected shape {view.shape}, found {array.shape}")
        if self._device == "cpu":
            np.copyto(self._read(view), array, casting="unsafe")
            return
        whole = self._array(view.buffer)
        end = view.offset + int(np.prod(view.shape))
        whole.reshape(-1)[view.offset : end] = np.broadcast_to(array, view.shape).reshape(-1)
        self._front[view.buffer].update_inplace(whole)


def _is_open(info: onnx.ValueInfoProto) -> bool:
    return any(d.dim_param for d in info.type.tensor_type.shape.dim)


def _cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def snapshots(
    spec: Spec,
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
    slots: Mapping[str, Arrays] | None = None,
    steps: Mapping[str, int] | int | None = None,
    noise: Sequence[Arrays] | None = None,
    hessian: Sequence[Arrays] | None = None,
    **options: Any,
) -> Iterator[Snapshot]:
    """Run the emitted graph, on the CPU unless told otherwise; after each step the parameters and the slots.

    Slots have the rule's names.

    params: name -> array. grads: one mapping a step, with a gradient for every parameter.
    lrs: learning rate of each step for all groups (before their ``lr_mult``), the spec's own where None.
    dtype: of parameters, gradients and slots: float32, float64 or float16.
    slots, steps: where to start from; slots that are absent start at their initial values.
    noise, hessian: one mapping a step, where the rule reads them.
    options: of `emit` (``layout``, ``runtime``), ``in_place`` and ``providers``.

    Raises:
        UnknownNameError: a group of ``spec`` lists a parameter that ``params`` lacks.
        HyperparameterError: a gradient is absent: the graph updates every parameter.
    """
    spec = inline(spec.settle(params), () if lrs is None else ("lr",))
    if not spec.lrs:
        options.setdefault("runtime", ())
    given = steps if isinstance(steps, Mapping) else {} if steps is None else dict.fromkeys(params, steps)
    counts = {n: given.get(n, spec.group(n).first_step) for n in params}
    values = {n: np.asarray(v, dtype) for n, v in params.items()}
    start = TrainingState(spec, values, slots or {}, counts)
    wanted = {n: [s.name for s in spec.group(n).rule.slots] for n in values}
    full = {n: {s: v for s, v in start.full_slots(n).items() if s in wanted[n]} for n in values}
    in_place = bool(options.pop("in_place", True))
    providers = tuple(options.pop("providers", ("CPUExecutionProvider",)))
    session = UpdateSession(
        emit(spec, values, dtype=dtype, steps=counts, **options), providers, threads=1, in_place=in_place
    )
    session.load(values, full, max(counts.values(), default=0))
    own = None if not spec.lrs else spec.lrs[0] if spec.one_lr else spec.lrs
    for i, (gradients, lr) in enumerate(zip(grads, lrs or [None] * len(grads), strict=True)):
        session.step(
            gradients,
            own if lr is None else lr,
            noise=None if noise is None else noise[i],
            hessian=None if hessian is None else hessian[i],
        )
        yield (
            {n: v.copy() for n, v in session.params.items()},
            {n: {s: v.copy() for s, v in held.items()} for n, held in session.slots.items()},
        )
