"""Runs training graphs on ONNX Runtime, one call a step, state handed over as arrays. Imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

import optexport as ox
from optexport.converters.onnx.training_graph import Built


class Stepper:
    """A training graph and its state: ``held`` has parameters, slots and running statistics by input name.

    gradients: give ``<param>.grad`` and the model's inner values of these names as outputs too, in ``seen``.
    """

    def __init__(self, built: Built, *, gradients: bool = False, see: tuple[str, ...] = ()) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(built.model)
        inner = [*(f"{n}.grad" for n in built.params if gradients), *see]
        model.graph.output.extend(
            helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in inner
        )
        for o in model.graph.output[-len(inner) :] if inner else ():
            o.ClearField("type")
        onnx.checker.check_model(built.model, full_check=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.built = built
        self.session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.types = {i.name: i.type.tensor_type.elem_type for i in built.model.graph.input}
        self.held: dict[str, np.ndarray] = {}
        self.step_count = np.asarray(0, np.int64)
        self.start(ox.init(built.spec, built.params), built.buffers)
        self.seen: dict[str, np.ndarray] = {}

    def start(self, state: Any, buffers: Mapping[str, np.ndarray] | None = None) -> None:
        """From this state; the largest step count is the input ``step``."""
        held = dict(state.params)
        for name, slots in state.slots.items():
            held |= {f"{name}.{slot}": a for slot, a in slots.items()}
        for name, a in {**held, **(buffers or {})}.items():
            self.held[name] = np.asarray(a, helper.tensor_dtype_to_np_dtype(self.types[name]))
        self.step_count = np.asarray(max(state.steps.values()), np.int64)

    def __call__(self, x: Any, label: Any = None, **scalars: Any) -> float:
        """One step; its loss."""
        feeds: dict[str, Any] = {**self.held, "step": self.step_count}
        feeds |= dict(x) if isinstance(x, Mapping) else {"x": x}
        if label is not None:
            feeds["label"] = label
        for name, v in scalars.items():
            feeds[name] = np.asarray(v, helper.tensor_dtype_to_np_dtype(self.types[name]))
        names = [o.name for o in self.session.get_outputs()]
        out = dict(zip(names, self.session.run(None, feeds), strict=True))
        self.held = {n: out[f"{n}.new"] for n in self.held}
        self.step_count = out["step.new"]
        self.seen = {n: a for n, a in out.items() if not n.endswith(".new")}
        return float(out["loss"])

    @property
    def nodes(self) -> int:
        return len(self.built.model.graph.node)

    def state(self) -> ox.TrainingState:
        """What the graph holds now, as a state."""
        start = ox.init(self.built.spec, self.built.params)
        ahead = int(self.step_count) - max(start.steps.values())
        return replace(
            start,
            params={n: self.held[n] for n in start.params},
            slots={n: {s: self.held[f"{n}.{s}"] for s in held} for n, held in start.slots.items()},
            steps={n: k + ahead for n, k in start.steps.items()},
            buffers={n: self.held[n] for n in self.built.buffers},
        )
