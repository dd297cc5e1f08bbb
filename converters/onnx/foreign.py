"""Steps anybody's ONNX update graph. Imports onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from optexport.parity.runs import Arrays
from optexport.parity.subjects import Subject, SubjectError

from ._graph import numpy_type, read_model, shape_of

__all__ = ["adopt"]

# How a graph may call the gradient of a parameter, and a tensor after the update.
_GRADIENTS = ("{}.grad", "{}_grad", "grad_{}", "{}/grad", "d{}")
_NEW = ("{}.new", "{}_new", "new_{}", "{}_out", "{}_next", "{}.out", "{}/new")
_STEPS = ("step", "t", "iteration", "count")
_RATES = ("lr", "learning_rate", "eta")


def adopt(made: Any, arguments: Mapping[str, Any], name: str) -> Subject | None:
    """A subject of an update graph: a model or its path; None where ``made`` is neither.

    arguments: values of inputs that are neither parameters, gradients nor state (``lr`` and the like), and
        the first values of state that does not start at 0.

    Raises:
        SubjectError: no parameter with a gradient is among its inputs, or an input has no value.
    """
    if not isinstance(made, onnx.ModelProto | str | os.PathLike):
        return None
    if isinstance(made, str) and not made.endswith(".onnx"):
        return None
    model, _ = read_model(made)
    graph = _Graph(model, arguments, name)
    return Subject(
        name, "onnx", lambda params, dtype: _Run(graph, params), (graph.dtype,), shapes=graph.shapes
    )


class _Graph:
    """Which input of a graph is what."""

    def __init__(self, model: onnx.ModelProto, arguments: Mapping[str, Any], name: str) -> None:
        own = {i.name for i in model.graph.initializer}
        inputs = {i.name: i for i in model.graph.input if i.name not in own}
        outputs = [o.name for o in model.graph.output]
        self.model, self.inputs = model, inputs
        self.gradient = {
            p: g.format(p) for p in inputs for g in _GRADIENTS if g.format(p) in inputs and _after(p, outputs)
        }
        if not self.gradient:
            raise SubjectError(
                f"{name}: expected inputs NAME and NAME.grad (or NAME_grad, grad_NAME) with an output NAME.new (or "
                f"NAME_new, NAME_out), found the inputs {', '.join(inputs) or 'none'} and the outputs "
                f"{', '.join(outputs)}; a training graph computes its gradients from data: give the update alone"
            )
        self.new = {i: _after(i, outputs) for i in inputs if _after(i, outputs) is not None}
        self.state = [i for i in self.new if i not in self.gradient]
        self.shapes = {p: tuple(shape_of(inputs[p])) for p in self.gradient}
        self.types = {n: numpy_type(i) for n, i in inputs.items()}
        self.dtype = np.dtype(self.types[next(iter(self.gradient))]).name
        fixed = set(inputs) - set(self.new) - set(self.gradient.values())
        self.rate = next((r for r in _RATES if r in fixed), None)
        self.values: dict[str, Any] = {}
        for other in sorted(fixed | set(self.state)):
            if other in arguments:
                self.values[other] = np.asarray(arguments[other], self.types[other])
            elif other in self.state:
                self.values[other] = np.zeros(shape_of(inputs[other]), self.types[other])
            elif other not in _STEPS:
                raise SubjectError(
                    f"{name}: input {other!r} expected a value, found none; pass it with --args, as in "
                    f'{{"{other}": 0.01}}'
                )
        self.counter = next((s for s in _STEPS if s in fixed and s not in arguments), None)


def _after(name: str, outputs: list[str]) -> str | None:
    return next((n.format(name) for n in _NEW if n.format(name) in outputs), None)


class _Run:
    def __init__(self, graph: _Graph, params: Arrays) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.graph, self.count = graph, 0
        self.held = dict(graph.values) | {
            p: np.asarray(params[p], graph.types[p]).copy() for p in graph.gradient
        }
        self.rates = graph.rate is not None

    def step(self, grads: Arrays, rate: float = 1.0) -> None:
        g = self.graph
        feed = dict(self.held)
        for p, gradient in g.gradient.items():
            feed[gradient] = np.asarray(grads[p], g.types[gradient])
        if g.rate is not None:
            feed[g.rate] = np.asarray(self.held[g.rate] * rate, g.types[g.rate])
        if g.counter is not None:
            feed[g.counter] = np.full(shape_of(g.inputs[g.counter]), self.count, g.types[g.counter])
        names = list(g.new.values())
        made = dict(zip(names, self.session.run(names, feed), strict=True))
        self.held |= {i: made[o] for i, o in g.new.items() if o is not None}
        self.count += 1

    def params(self) -> dict[str, np.ndarray]:
        return {p: np.array(self.held[p]) for p in self.graph.gradient}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        return {
            p: {
                s: np.array(self.held[s])
                for s in self.graph.state
                if s.startswith(p) and np.shape(self.held[s]) == self.graph.shapes[p]
            }
            for p in self.graph.gradient
        }
