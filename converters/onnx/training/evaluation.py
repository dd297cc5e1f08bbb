"""The model as it is when it does not train: for measuring it, and for handing it on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optexport.errors import ModelError

from .composites import write_out
from .forward import Meant, load_model, read_forward, with_initializers
from .losses import build_loss

__all__ = ["evaluation", "inference_model", "with_values", "without_values"]


def evaluation(
    model: onnx.ModelProto | str | os.PathLike[str],
    meant: Meant,
    buffers: Iterable[str],
    loss: str | None,
    output: str | None,
    options: Mapping[str, Any],
) -> onnx.ModelProto:
    """Outputs, and ``loss`` before them where one is asked for, by running statistics and without dropout.

    Inputs: the model's own, ``label`` where the loss has one, every parameter and buffer.
    buffers: running statistics that a step moves.

    Raises:
        ModelError: as `training_graph`, of which these are the same nodes.
    """
    forward = read_forward(model, replace(meant, batch_norm="inference", dropout=0.0))
    tape = forward.tape
    held = {**forward.params, **{n: tape.constants.pop(n) for n in buffers}}
    inputs = list(forward.data)
    outputs = list(forward.outputs)
    if loss is not None:
        y = output or forward.outputs[0].name
        scalar = y
        if loss != "output":
            scalar, _, label = build_loss(tape, loss, y, "label", options)
            inputs.append(label)
        tape.op("ReduceSum", scalar, name="loss", keepdims=0)
        outputs = [helper.make_tensor_value_info("loss", tape.types[scalar], []), *outputs]
    write_out(tape)
    for node in tape.nodes:
        _at_rest(node)
    inputs += [helper.make_tensor_value_info(n, tape.types[n], a.shape) for n, a in held.items()]
    graph = helper.make_graph(tape.nodes, "evaluation", inputs, outputs, tape.initializers())
    opsets = [helper.make_opsetid("", tape.opset)]
    version = helper.find_min_ir_version_for(opsets)
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(8, int(version)))


def inference_model(
    model: onnx.ModelProto | str | os.PathLike[str], values: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """The forward model with these values in place of its own, and nothing of it in training mode.

    values: parameters and running statistics.

    Raises:
        ModelError: a value is of no tensor of the model.
    """
    proto = with_values(model, values)
    for node in proto.graph.node:
        _at_rest(node)
    return proto


def with_values(
    model: onnx.ModelProto | str | os.PathLike[str], values: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """A copy of the model with these values in place of its own.

    Raises:
        ModelError: a value is of no tensor of the model.
    """
    proto, where = load_model(model)
    own = {i.name: i for i in proto.graph.initializer}
    for name, value in values.items():
        if name not in own:
            raise ModelError(f"{where}: parameter {name!r}: expected a tensor of this name, found none")
        own[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
    return proto


def without_values(proto: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with types and shapes of these tensors but no values, for `with_values` to put others in. ``proto`` is
    used up, as by `with_initializers`."""
    given = set(names)
    return with_initializers(proto, [
        onnx.TensorProto(name=t.name, data_type=t.data_type, dims=list(t.dims)) if t.name in given else t
        for t in proto.graph.initializer
    ])  # fmt: skip


def _at_rest(node: onnx.NodeProto) -> None:
    """Without training mode."""
    for a in node.attribute:
        if a.name == "training_mode" and a.i:
            a.i = 0
            del node.output[1:]
    if node.op_type == "Dropout":
        del node.input[2:]
