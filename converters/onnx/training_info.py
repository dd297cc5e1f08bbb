"""The training graph in ONNX' own form: a forward model with ``TrainingInfoProto``.

``ModelProto.graph`` is the forward model as it is used (running statistics, no dropout), its parameters
and statistics as initializers. ``training_info[0].algorithm`` has the rest: loss, gradient and update.
Nodes that both have are in the forward model alone, for a step is the two joined (onnx/onnx.proto:
inputs, initializers, nodes and outputs end to end). Slots, ``step`` and the learning rate are
initializers of the algorithm; the rate is an input too, so that a caller may overrule it.

``update_binding`` says which output replaces which tensor. The initialization resets slots and ``step``
for a fresh run. A run that goes on has none: its initializers are the state, and a program that
initializes before it trains must not lose it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optexport import __version__
from optexport.errors import CheckpointError, ModelError, UnknownNameError
from optexport.specs import Spec
from optexport.specs import spec as plain
from optexport.state.manifest import spec_text
from optexport.state.training import TrainingState

from .emit import IR_VERSION
from .training.composites import write_out
from .training.forward import Meant, read_forward
from .training_graph import Built, build

__all__ = ["TRAINING", "build_training_info", "exact", "fresh_state", "joined", "started"]

# Key in metadata_props: what the graph's own metadata says, and "behind": updates that a parameter lacks.
TRAINING = "optexport.training"
PREFIX = "train"


def build_training_info(
    model: onnx.ModelProto | str | os.PathLike[str],
    loss: str,
    spec: Spec | None = None,
    *,
    state: TrainingState | None = None,
    meant: Meant | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """The training of a forward model as ONNX' standard keeps it.

    spec: the optimizer of a fresh run; state: a run that goes on, with its parameters' values where it has
        them. One of the two. model, loss, meant, options: as for `training_graph.build`.

    Raises:
        ModelError: as there, or ``state`` is of another model.
    """
    built, held = started(model, loss, spec, state, meant=meant, **options)
    forward = _inference(model, meant or Meant(), held)
    made = onnx.ModelProto()
    made.CopyFrom(built.model)
    made.ir_version = max(made.ir_version, IR_VERSION, forward.ir_version)
    made.graph.CopyFrom(forward.graph)
    algorithm = _Algorithm(built.model.graph, forward.graph)
    info = made.training_info.add()
    info.algorithm.CopyFrom(algorithm.build(held.tensors(built.model)))
    for name in held.moving(built):
        info.update_binding.add(key=name, value=algorithm.named(f"{name}.new"))
    if held.is_fresh:
        names = [n for n in held.moving(built) if n not in held.params and n not in held.buffers]
        info.initialization.CopyFrom(_initialization(info.algorithm, names))
        for name in names:
            info.initialization_binding.add(key=name, value=f"{name}.first")
    meta = {p.key: p.value for p in built.model.metadata_props}
    told = {**json.loads(meta[TRAINING]), "behind": held.behind}
    helper.set_model_props(
        made, {"optexport.spec": spec_text(held.spec), TRAINING: json.dumps(told, sort_keys=True)}
    )
    made.producer_name, made.producer_version = "optexport", __version__
    return made


def fresh_state(
    model: onnx.ModelProto | str | os.PathLike[str], loss: str, spec: Spec, **options: Any
) -> TrainingState:
    """The state of a model's own values before the first update."""
    return started(model, loss, spec, None, **options)[1].state


def _fresh(spec: Spec, built: Built) -> TrainingState:
    spec = spec.settle(built.params)
    steps = {n: spec.group(n).first_step for n in built.params}
    return TrainingState(spec, built.params, {}, steps, dtype="float32", buffers=built.buffers)


def started(
    model: onnx.ModelProto | str | os.PathLike[str],
    loss: str,
    spec: Spec | None,
    state: TrainingState | None,
    **options: Any,
) -> tuple[Built, _Held]:
    """The training graph of a spec or a state, and the tensors that it starts from.

    Raises:
        ModelError: the state's parameters are not the model's, or would lose digits in its type.
    """
    given = state.spec if state is not None else spec
    if given is None or (spec is not None and state is not None):
        raise ModelError("expected a spec or a state, one of the two")
    if state is not None and any("master" in s for s in state.slots.values()):
        state = state.without_masters()
    try:
        built = build(model, loss, given, steps=None if state is None else state.steps, **options)
    except UnknownNameError:
        if state is not None:  # which parameter it is, and whose
            _check_same(build(model, loss, plain("sgd"), **options).params, state)
        raise
    if state is None:
        state = _fresh(given, built)
    else:
        _check_same(built.params, state)
        state = replace(state, params={n: state.params.get(n, a) for n, a in built.params.items()})
    return built, _Held(state, built)


def _check_same(params: Mapping[str, np.ndarray], state: TrainingState) -> None:
    for name in state.names:
        if name not in params:
            raise ModelError(
                f"the state has parameter {name!r}, which the model does not train; it trains "
                f"{', '.join(list(params)[:6])}; rename the state's parameters, or say what trains (train=)"
            )
    for name, value in params.items():
        if name not in state.names:
            raise ModelError(
                f"the model trains {name!r}, which the state does not have; it has {', '.join(state.names[:6])}; "
                "freeze it (freeze=), or rename the state's parameters"
            )
        found = state.shape(name)
        if found is not None and found != value.shape:
            raise ModelError(
                f"parameter {name!r}: the model's shape is {list(value.shape)}, the state's {list(found)}; expected the same"
            )


class _Held:
    """The tensors of a run, by the names that they have in the graph."""

    def __init__(self, state: TrainingState, built: Built) -> None:
        self.spec, self.state = state.spec, state
        self.params = dict(state.params)
        self.buffers = {n: state.buffers.get(n, a) for n, a in built.buffers.items()}
        self.slots = {f"{n}.{s}": a for n in built.params for s, a in state.full_slots(n).items()}
        self.step = max(state.steps.values(), default=0)
        self.behind = {n: self.step - k for n, k in state.steps.items() if k != self.step}
        self.is_fresh = all(k == state.spec.group(n).first_step for n, k in state.steps.items()) and not any(
            state.slots.values()
        )

    def moving(self, built: Built) -> list[str]:
        """Names of the tensors that a step replaces."""
        outputs = {o.name for o in built.model.graph.output}
        return [n for n in (*self.params, *self.buffers, *self.slots, "step") if f"{n}.new" in outputs]

    def tensors(self, model: onnx.ModelProto) -> dict[str, np.ndarray]:
        """Every input of the graph whose value is known, in the graph's types."""
        known: dict[str, np.ndarray] = {}
        for i, group in enumerate(self.spec.groups):
            for name, value in group.hyperparameters.items():
                known |= dict.fromkeys((name, f"{name}.{i}"), np.asarray(value))
        known |= {**self.params, **self.buffers, **self.slots, "step": np.asarray(self.step, np.int64)}
        held = {}
        for info in model.graph.input:
            if info.name not in known:
                continue
            dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            is_rate = info.name not in self.slots and not info.type.tensor_type.shape.dim
            held[info.name] = exact(known[info.name], dtype, info.name, rounds=is_rate)
        return held


def exact(array: np.ndarray, dtype: np.dtype[Any], name: str, *, rounds: bool = False) -> np.ndarray:
    """The array in another type, where that loses nothing; rounds: a hyperparameter, which the graph rounds."""
    made = np.asarray(array).astype(dtype)
    if rounds or made.dtype == array.dtype:
        return made
    with np.errstate(invalid="ignore"):
        same = np.array_equal(made.astype(array.dtype), array, equal_nan=made.dtype.kind == "f")
    if not same:
        raise ModelError(
            f"tensor {name!r}: the graph has {dtype.name}, the state {array.dtype.name}, and its numbers would be rounded; "
            "cast it first, knowing that"
        )
    return made


def _inference(model: onnx.ModelProto | str | os.PathLike[str], meant: Meant, held: _Held) -> onnx.ModelProto:
    """The forward model as it is used, its values those of the run; the same nodes as the training graph's."""
    own = {"loss", "label", "step", "seed", *(h for g in held.spec.groups for h in g.hyperparameters)}
    forward = read_forward(model, replace(meant, batch_norm="inference", dropout=0.0), own)
    tape = forward.tape
    write_out(tape)
    values = {**held.params, **held.buffers}
    initializers = [i for i in tape.initializers() if i.name not in values]
    initializers += [
        numpy_helper.from_array(
            exact(a, helper.tensor_dtype_to_np_dtype(tape.types[n]), n), n
        )
        for n, a in values.items()
    ]  # fmt: skip
    data = [d for d in forward.data if d.name not in values]
    graph = helper.make_graph(tape.nodes, "forward", data, list(forward.outputs), initializers)
    opset = helper.make_opsetid("", tape.opset)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=int(helper.find_min_ir_version_for([opset]))
    )


class _Algorithm:
    """The training graph without what the forward model has already."""

    def __init__(self, step: onnx.GraphProto, forward: onnx.GraphProto) -> None:
        self.step, self.forward = step, forward
        self.there = {_told(n) for n in forward.node}
        self.values = {i.name: i.SerializeToString(deterministic=True) for i in forward.initializer}
        self.taken = {
            *self.values,
            *(i.name for i in forward.input),
            *(o for n in forward.node for o in n.output),
        }
        self.own = {i.name for i in step.input}
        self.renamed: dict[str, str] = {}

    def named(self, name: str) -> str:
        return self.renamed.get(name, name)

    def _claim(self, name: str) -> None:
        """Another name for a value whose own the forward model has."""
        if name not in self.taken:
            return
        new, n = f"{PREFIX}/{name}", 1
        every = self.taken | self.own | set(self.renamed.values())
        while new in every:
            n += 1
            new = f"{PREFIX}_{n}/{name}"
        self.renamed[name] = new

    def build(self, held: Mapping[str, np.ndarray]) -> onnx.GraphProto:
        """held: values of inputs that become initializers."""
        initializers = [
            numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n)
            for n, a in held.items()
            if n not in self.values
        ]
        for tensor in self.step.initializer:
            if self.values.get(tensor.name) != tensor.SerializeToString(deterministic=True):
                self._claim(tensor.name)
                initializers.append(_copy(tensor, name=self.named(tensor.name)))
        nodes = [made for n in self.step.node if (made := self._node(n)) is not None]
        inputs = [i for i in self.step.input if i.name not in self.taken and not self._is_state(i.name, held)]
        outputs = [_copy(o, name=self.named(o.name)) for o in self.step.output
                   if self.named(o.name) not in {f.name for f in self.forward.output}]  # fmt: skip
        return helper.make_graph(
            nodes, "training_step", inputs, outputs, initializers, doc_string=self.step.doc_string
        )

    def _is_state(self, name: str, held: Mapping[str, np.ndarray]) -> bool:
        return name in held and any(o.name == f"{name}.new" for o in self.step.output)

    def _node(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The node with its new names; None where the forward model has it."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        _rename(made, self.renamed)
        if _told(made) in self.there:
            return None
        for name in node.output:
            self._claim(name)
        _rename(made, self.renamed)
        return made


def _told(node: onnx.NodeProto) -> bytes:
    """What a node does, whatever it is called."""
    made: bytes = _copy(node, name="").SerializeToString(deterministic=True)
    return made


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for held in (node.input, node.output):
        for i, name in enumerate(held):
            held[i] = names.get(name, name)
    for a in node.attribute:
        for graph in (a.g, *a.graphs):
            for inner in graph.node:
                _rename(inner, names)


def _copy(proto: Any, *, name: str) -> Any:
    made = type(proto)()
    made.CopyFrom(proto)
    made.name = name
    return made


def _initialization(algorithm: onnx.GraphProto, names: Iterable[str]) -> onnx.GraphProto:
    """Slots and ``step`` as they are before the first update; what is one number throughout is spread out."""
    tensors = {i.name: i for i in algorithm.initializer}
    nodes, outputs = [], []
    for name in names:
        array = numpy_helper.to_array(tensors[name])
        first = f"{name}.first"
        if array.size > 1 and array.tobytes() == array.reshape(-1)[:1].tobytes() * array.size:
            shape = numpy_helper.from_array(np.asarray(array.shape, np.int64))
            nodes.append(helper.make_node("Constant", [], [f"{first}.shape"], value=shape))
            value = numpy_helper.from_array(array.reshape(-1)[:1])
            nodes.append(helper.make_node("ConstantOfShape", [f"{first}.shape"], [first], value=value))
        else:
            nodes.append(helper.make_node("Constant", [], [first], value=_copy(tensors[name], name="")))
        outputs.append(helper.make_tensor_value_info(first, tensors[name].data_type, list(array.shape)))
    return helper.make_graph(nodes, "initialization", [], outputs)


def joined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model that runs one training step: forward graph and algorithm end to end, as the standard joins them.

    Raises:
        CheckpointError: it has no training information, or several.
    """
    if len(model.training_info) != 1:
        raise CheckpointError(f"expected a model with one training_info, found {len(model.training_info)}")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    algorithm = model.training_info[0].algorithm
    del made.training_info[:]
    for part in ("input", "initializer", "node", "output"):
        getattr(made.graph, part).extend(getattr(algorithm, part))
    return made
