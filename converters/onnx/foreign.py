"""Steps anybody's ONNX update graph. Imports onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from optexport.parity.runs import Arrays, starting_state
from optexport.parity.subjects import Subject, SubjectError
from optexport.specs import Spec
from optexport.state.manifest import spec_from_text

from ._graph import numpy_type, read_model, shape_of
from .training.tape import reads

__all__ = ["adopt"]

# How a graph may call the gradient of a parameter, and a tensor after the update.
_GRADIENTS = ("{}.grad", "{}_grad", "grad_{}", "{}/grad", "d{}")
_NEW = ("{}.new", "{}_new", "new_{}", "{}_out", "{}_next", "{}.out", "{}/new")
_STEPS = ("step", "t", "iteration", "count")
_RATES = ("lr", "learning_rate", "eta")


def adopt(made: Any, arguments: Mapping[str, Any], name: str) -> Subject | None:
    """A subject of an update graph: a model or its path; None where ``made`` is neither. Of a training graph, the
    update alone: its gradients, values inside the graph, are inputs of what is left.

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
    graph = _Graph(_update_of(model), arguments, name)
    return Subject(
        name,
        "onnx",
        lambda params, dtype: _Run(graph, params),
        (graph.dtype,),
        shapes=graph.shapes,
        hint=graph.spec.groups[-1] if graph.spec is not None and len(graph.spec.groups) == 1 else None,
    )


class _Graph:
    """Which input of a graph is what."""

    def __init__(self, model: onnx.ModelProto, arguments: Mapping[str, Any], name: str) -> None:
        own = {i.name for i in model.graph.initializer}
        inputs = {i.name: i for i in model.graph.input if i.name not in own}
        outputs = [o.name for o in model.graph.output]
        self.model, self.inputs, self.spec = model, inputs, _told_spec(model)
        self.gradient = {
            p: g.format(p) for p in inputs for g in _GRADIENTS if g.format(p) in inputs and _after(p, outputs)
        }
        if not self.gradient:
            raise SubjectError(
                f"{name}: expected inputs NAME with an output NAME.new (or NAME_new, NAME_out) and a gradient NAME.grad "
                f"(or NAME_grad, grad_NAME), an input or a value inside the graph, found the inputs "
                f"{', '.join(inputs) or 'none'} and the outputs {', '.join(outputs)}"
            )
        self.new = {i: _after(i, outputs) for i in inputs if _after(i, outputs) is not None}
        self.state = [i for i in self.new if i not in self.gradient]
        self.shapes = {p: tuple(shape_of(inputs[p])) for p in self.gradient}
        self.types = {n: numpy_type(i) for n, i in inputs.items()}
        self.dtype = np.dtype(self.types[next(iter(self.gradient))]).name
        fixed = set(inputs) - set(self.new) - set(self.gradient.values())
        self.rate = next((r for r in _RATES if r in fixed), None)
        self.values: dict[str, Any] = {}
        self.zeros: list[str] = []  # state of which nothing is said
        for other in sorted(fixed | set(self.state)):
            if other in arguments:
                self.values[other] = np.asarray(arguments[other], self.types[other])
            elif other in self.state:
                self.values[other] = np.zeros(shape_of(inputs[other]), self.types[other])
                self.zeros.append(other)
            elif other not in _STEPS:
                raise SubjectError(
                    f"{name}: input {other!r} expected a value, found none; pass it with --args, as in "
                    f'{{"{other}": 0.01}}'
                )
        self.counter = next((s for s in _STEPS if s in fixed and s not in arguments), None)


def _told_spec(model: onnx.ModelProto) -> Spec | None:
    """What optexport wrote into a graph that it made."""
    text = next((p.value for p in model.metadata_props if p.key == "optexport.spec"), None)
    return spec_from_text(text) if text is not None else None


def _first(graph: _Graph, held: Arrays) -> dict[str, np.ndarray]:
    """Slots as they start, by name, where optexport made the graph and it says which rule it has."""
    if graph.spec is None:
        return {}
    params = {p: held[p] for p in graph.gradient}
    start = starting_state(graph.spec, params, None, None)
    return {f"{n}.{slot}": value for n in params for slot, value in start.full_slots(n).items()}


def _after(name: str, outputs: Collection[str]) -> str | None:
    return next((n.format(name) for n in _NEW if n.format(name) in outputs), None)


def _update_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """What follows a training graph's gradients, which become inputs; other graphs as they are."""
    g = model.graph
    own = {i.name for i in g.initializer}
    inputs = {i.name: i for i in g.input if i.name not in own}
    outputs = {o.name: o for o in g.output}
    maker = {o: n for n in g.node for o in n.output if o}
    cut: dict[str, str] = {}  # gradient -> parameter
    for p in inputs:
        if _after(p, outputs):
            cut |= {f.format(p): p for f in _GRADIENTS if f.format(p) in maker and f.format(p) not in inputs}
    if not cut:
        return model

    read = {o: _reads(o, maker, cut) for o in outputs}
    wanted = [o for o in outputs if read[o] & cut.keys() and o not in cut]
    # State that the update reads, and that moves without a gradient: a count, the product of momenta.
    state = set().union(*(read[o] for o in wanted)) & inputs.keys()
    for i in sorted(state):
        after = _after(i, outputs)
        if after and after not in wanted and read[after] & inputs.keys() <= state:
            wanted.append(after)
    needed = set().union(*(read[o] for o in wanted))
    kept = [n for n in g.node if needed & set(n.output) - cut.keys()]
    gradients = [onnx.ValueInfoProto(name=n, type=inputs[p].type) for n, p in cut.items() if n in needed]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for held, values in (
        (made.graph.node, kept),
        (made.graph.input, [*(v for n, v in inputs.items() if n in needed), *gradients]),
        (made.graph.output, [outputs[o] for o in wanted]),
        (made.graph.initializer, [i for i in g.initializer if i.name in needed]),
    ):
        del held[:]
        held.extend(values)
    return made


def _reads(output: str, maker: Mapping[str, onnx.NodeProto], cut: Collection[str]) -> set[str]:
    """Every value that an output follows from, back to the gradients and no further."""
    found: set[str] = set()
    todo = [output]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        node = None if name in cut else maker.get(name)
        if node is not None:
            todo += reads(node)
    return found


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
        self.held |= {n: v for n, v in _first(graph, self.held).items() if n in graph.zeros}
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
        found: dict[str, dict[str, np.ndarray]] = {p: {} for p in self.graph.gradient}
        for s in self.graph.state:
            # "w1" begins "w10.m" as well.
            owner = max((p for p in found if s.startswith(p)), key=len, default=None)
            if owner is not None and np.shape(self.held[s]) == self.graph.shapes[owner]:
                found[owner][s] = np.array(self.held[s])
        return found
