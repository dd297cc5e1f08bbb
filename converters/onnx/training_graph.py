"""The training graph: forward, loss, gradient and update in one graph of plain ``ai.onnx`` operators.

Inputs    the model's own; ``label``; ``<param>``, ``<param>.<slot>``; ``<buffer>`` (running statistics);
          ``step`` (int64: completed updates); ``seed`` (int64) where the model has dropout; each runtime
          hyperparameter (``lr``).
Outputs   ``loss`` first; ``<param>.new``, ``<param>.<slot>.new``, ``<buffer>.new``; ``step.new``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from optexport import __version__
from optexport.errors import HyperparameterError, ModelError, NamingError
from optexport.schedules.inline import inline
from optexport.specs import Spec
from optexport.state.files import whole_or_nothing
from optexport.state.manifest import spec_text

from .emit import IR_VERSION, emit
from .training.backward import differentiate
from .training.composites import SEED, write_out
from .training.forward import Forward, Meant, read_forward
from .training.half import half_type
from .training.losses import build_loss
from .training.tape import Tape

__all__ = ["Built", "Meant", "build", "training_graph", "write"]

# Names that are always the graph's own; those of hyperparameters are, too.
_OWN = ("loss", "label", "step", SEED)
_REAL = {T.FLOAT: "float32", T.DOUBLE: "float64"}


@dataclass(frozen=True)
class Built:
    """A training graph and what it starts from.

    model: the graph. params: values of the tensors that train. buffers: running statistics.
    spec: the spec, settled on the parameters. notes: one sentence each, for the person who trains.
    """

    model: onnx.ModelProto
    params: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    spec: Spec
    notes: list[str] = field(default_factory=list)


def training_graph(
    model: onnx.ModelProto | str | os.PathLike[str], loss: str, spec: Spec, **options: Any
) -> onnx.ModelProto:
    """The graph alone; arguments as for `build`."""
    return build(model, loss, spec, **options).model


def build(
    model: onnx.ModelProto | str | os.PathLike[str],
    loss: str,
    spec: Spec,
    *,
    loss_options: Mapping[str, Any] | None = None,
    output: str | None = None,
    meant: Meant | None = None,
    runtime: Sequence[str] | None = None,
    steps: Mapping[str, int] | None = None,
    keep: Sequence[str] = (),
    compute: str | None = None,
    blocks: bool = True,
) -> Built:
    """The training graph of a forward model.

    model: a forward model, or its path. loss: a name of `losses.LOSSES`, or ``"output"`` where the
        model's own output is the scalar to minimise. loss_options: the loss's own (``label_smoothing``).
    spec: the optimizer. output: which output the loss is of, needed where there are several.
    meant: what the caller states about the model.
    runtime: hyperparameters that are inputs; the learning rate where None, unless it is scheduled.
    steps: completed updates by parameter, where they differ.
    keep: outputs of the model that the graph gives too (``"logits"``), after ``loss``.
    compute: ``float16``: forward and backward in half precision where it does no harm, parameters, slots,
        running statistics and the loss in float32. Small gradients need a rule with loss scaling
        (``overflow="dynamic"``): the graph then multiplies the loss by the scale before the backward pass.
        ``bfloat16``: the same, by rounding what float32 kernels compute.
    blocks: as for `emit`; a GPU wants False.

    Raises:
        ModelError: the model cannot be trained as it stands; the message names the node or tensor.
        HyperparameterError, UnknownNameError: of the loss or the spec.
    """
    own = {*_OWN, *(h for g in spec.groups for h in g.hyperparameters)}
    half = None if compute in (None, "float32") else half_type(str(compute))
    forward = read_forward(model, meant or Meant(), own, half)
    tape = forward.tape
    y = _output(forward, output)
    _check_names(forward, keep)
    scalar, seed, label = _loss(tape, forward, loss, y, loss_options or {})
    scale = _scale(tape, spec)
    seed = seed if scale is None else tape.mul(seed, tape.cast(scale, tape.types[seed]))
    grads = _gradients(tape, forward, y if label is not None else scalar, seed)
    write_out(tape)
    dtype = _dtype(forward)
    shapes = {n: a.shape for n, a in forward.params.items()}
    spec, runtime = _scheduled(spec.settle(shapes), runtime)
    update = emit(spec, shapes, dtype=dtype, runtime=runtime, steps=steps, blocks=blocks)
    if scale is not None:
        tape.nodes.insert(0, _scale_source(tape, scale, spec, update))
    made = _join(tape, forward, update, grads, scalar, label, list(keep))
    metadata = {
        "optexport.spec": spec_text(spec),
        "optexport.training": json.dumps(
            {
                "data": [d.name for d in forward.data],
                "label": label.name if label is not None else None,
                "loss": loss,
                "params": list(forward.params),
                "buffers": list(forward.buffers),
            }
        ),
    }
    helper.set_model_props(made, metadata)
    return Built(made, forward.params, forward.buffers, spec, forward.notes)


def write(model: onnx.ModelProto, path: str | os.PathLike[str]) -> int:
    """Write a graph, whole or not at all; the number of bytes.

    Raises:
        ModelError: it is over the 2 GiB of one protobuf (frozen tensors are in it; train or shrink them).
        CheckpointError: the file cannot be written.
    """
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except Exception:
        raise ModelError(
            f"{os.fspath(path)}: the graph is over 2 GiB, which one ONNX file cannot hold"
        ) from None
    with whole_or_nothing(path) as file:
        file.write(data)
    return len(data)


def _output(forward: Forward, wanted: str | None) -> str:
    told = {new: old for old, new in forward.renamed.items()}
    names = {told.get(o.name, o.name): o.name for o in forward.outputs}
    if wanted is None and len(names) > 1:
        raise ModelError(f"the model has outputs {', '.join(names)}; say which one the loss is of (output=)")
    if wanted is not None and wanted not in names:
        raise ModelError(f"output {wanted!r} expected one of {', '.join(names)}")
    return names[wanted] if wanted is not None else next(iter(names.values()))


def _check_names(forward: Forward, keep: Sequence[str]) -> None:
    taken = {d.name for d in forward.data} | set(forward.params)
    reserved = sorted({"loss", "label", "step"} & taken)
    if reserved:
        raise NamingError(
            f"the model has an input or parameter {reserved[0]!r}, a name of the training graph; rename it"
        )
    outputs = {o.name for o in forward.outputs}
    for name in keep:
        if name in forward.renamed:
            raise NamingError(
                f"keep: the model's output {name!r} has a name of the training graph; rename it"
            )
        if name not in outputs:
            raise ModelError(f"keep: {name!r} expected an output of the model: {', '.join(sorted(outputs))}")


def _loss(
    tape: Tape, forward: Forward, loss: str, y: str, options: Mapping[str, Any]
) -> tuple[str, str, onnx.ValueInfoProto | None]:
    """(loss, the seed of the backward pass, the label's input where the loss has one)."""
    if loss == "output":
        if tape.static(y) not in ((), (1,)):
            raise ModelError(
                f"loss output: {y!r} expected a scalar, found shape {list(tape.shapes.get(y, ('unknown',)))}"
            )
        return y, tape.constant(np.ones(tape.static(y) or (), tape.dtype(y)), "one"), None
    return build_loss(tape, loss, y, "label", options)


def _gradients(tape: Tape, forward: Forward, y: str, seed: str) -> dict[str, str]:
    """Parameter -> its gradient, under the name ``<param>.grad``."""
    found = differentiate(tape, y, forward.params, seed)
    for name in [n for n in forward.params if n not in found]:
        forward.notes.append(f"parameter {name!r}: the loss does not depend on it; it does not train")
        tape.constants[name] = forward.params.pop(name)
    if not forward.params:
        raise ModelError("expected a tensor that trains, found none that the loss depends on")
    grads = {}
    for name, g in found.items():
        if name in forward.masked:
            table = forward.params[name]
            mask = np.ones((len(table), *(1 for _ in table.shape[1:])), tape.dtype(g))
            mask[list(forward.masked[name])] = 0
            g = tape.mul(g, tape.constant(mask, "rows"))
        grads[name] = tape.op("Identity", g, name=f"{name}.grad", like=name)
    return grads


def _scale(tape: Tape, spec: Spec) -> str | None:
    """A value for the loss scale that the rules divide gradients by, None where they do not."""
    kinds = {str(g.rule.options.get("overflow", "none")) for g in spec.groups}
    scaled = kinds & {"static", "dynamic"}
    values = {g.hyperparameters.get("loss_scale") for g in spec.groups}
    if not scaled:
        return None
    if len(kinds) > 1 or len(values) > 1:
        raise HyperparameterError(
            "the loss has one scale: expected groups with one loss scaling and one loss_scale, found "
            f"{', '.join(sorted(kinds))} with {', '.join(map(str, values))}"
        )
    name = tape.fresh("loss/scale")
    tape.types[name], tape.shapes[name] = T.FLOAT, ()
    return name


def _scale_source(tape: Tape, scale: str, spec: Spec, update: onnx.ModelProto) -> onnx.NodeProto:
    """The node that gives the scale: an input, a slot (equal beside every parameter), or a number."""
    inputs = {i.name for i in update.graph.input}
    first = (spec.groups[0].params or ("",))[0]
    source = next((n for n in ("loss_scale", f"{first}.loss_scale") if n in inputs), None)
    if source is None:
        source = tape.constant(np.asarray(spec.groups[0].hyperparameters["loss_scale"], np.float32), "scale")
    return helper.make_node("Cast", [source], [scale], to=T.FLOAT)


def _dtype(forward: Forward) -> str:
    kinds = {a.dtype.name for a in forward.params.values()}
    if len(kinds) > 1 or not kinds <= set(_REAL.values()):
        raise ModelError(
            f"parameters have the types {', '.join(sorted(kinds))}; expected all float32, or all float64"
        )
    return str(kinds.pop())


def _scheduled(spec: Spec, runtime: Sequence[str] | None) -> tuple[Spec, Sequence[str]]:
    """The spec with its schedules inside its rules, and what is left to be an input."""
    asked = () if runtime is None else tuple(runtime)
    inside = inline(spec, asked)
    if runtime is not None:
        return inside, asked
    has_lr = any("lr" in g.hyperparameters for g in inside.groups)
    return inside, ("lr",) if has_lr else ()


def _join(
    tape: Tape,
    forward: Forward,
    update: onnx.ModelProto,
    grads: Mapping[str, str],
    loss: str,
    label: onnx.ValueInfoProto | None,
    keep: Sequence[str],
) -> onnx.ModelProto:
    """One model of forward, backward and update."""
    tape.op("Identity", loss, name="loss")
    buffers = {
        n: helper.make_tensor_value_info(n, tape.types[n], a.shape) for n, a in forward.buffers.items()
    }
    for name, value in forward.updates.items():
        tape.op("Identity", value, name=f"{name}.new")
    inputs = [*forward.data, *([label] if label is not None else [])]
    inputs += [i for i in update.graph.input if i.name not in grads.values()]
    inputs += buffers.values()
    outputs = [helper.make_tensor_value_info("loss", tape.types[loss], [])]
    outputs += [o for o in forward.outputs if o.name in keep]
    outputs += [o for o in update.graph.output if o.name != "step.new"]
    outputs += [helper.make_tensor_value_info(f"{n}.new", tape.types[n], a.shape)
                for n, a in forward.buffers.items()]  # fmt: skip
    outputs += [o for o in update.graph.output if o.name == "step.new"]
    if tape.static(loss) not in ((), None):
        tape.nodes[-1 - len(forward.updates)].op_type = "Squeeze"
    _check_once(inputs, outputs, [*tape.nodes, *update.graph.node])
    _name_nodes([*tape.nodes, *update.graph.node])
    graph = helper.make_graph(
        [*tape.nodes, *update.graph.node],
        "training_step",
        inputs,
        outputs,
        [*tape.initializers(), *update.graph.initializer],
        doc_string=update.graph.doc_string,
    )
    # The rule's operators mean the same in every version from that of `emit` on.
    for function in update.functions:
        for o in function.opset_import:
            o.version = o.version if o.domain else tape.opset
    opsets = [helper.make_opsetid("", tape.opset), *(o for o in update.opset_import if o.domain)]
    made = helper.make_model(
        graph,
        functions=list(update.functions),
        opset_imports=opsets,
        ir_version=max(IR_VERSION, _ir(tape.opset)),
    )
    made.producer_name, made.producer_version = "optexport", __version__
    return made


def _name_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    """Every node a name of its own: runtimes name what they fuse after what it replaces, and 1.19's then refuses two
    of one name.
    """
    taken: set[str] = set()
    for node in nodes:
        if node.name in taken:
            node.name = ""
        taken.add(node.name)
    for node in nodes:
        if node.name:
            continue
        name = next(o for o in node.output if o)
        while name in taken:
            name += "/node"
        taken.add(name)
        node.name = name


def _check_once(
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
) -> None:
    """Names of tensors and data that meet others (a weight called ``w.new``) would be one value."""
    made = [*(i.name for i in inputs), *(o for n in nodes for o in n.output if o)]
    for names in (made, [o.name for o in outputs]):
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise NamingError(
                    f"the model's tensors give the training graph two values called {name!r}; rename one of them"
                )
            seen.add(name)


def _ir(opset: int) -> int:
    """The file version that an operator set came with."""
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))
