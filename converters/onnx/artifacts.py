"""Files for ONNX Runtime's training API (``onnxruntime.training.api``, 1.19.2 the last), a ported run inside.

``training_model.onnx``   forward, loss and gradient; each gradient is added to its buffer
``eval_model.onnx``       the loss by running statistics and without dropout
``optimizer_model.onnx``  ``AdamWOptimizer`` or ``SGDOptimizerV2`` with the run's own attributes
``checkpoint``            parameters, momentums, completed updates, first learning rate

Forward and gradient are the plain operators of a training graph, so the package's own builder is not
needed, and every loss and operator of a training graph is there. What the API fixes are names: a buffer
``<param>_grad.accumulation.buffer``, the switch ``lazy_reset_grad``, and the optimizer's inputs. Running
statistics move inside the training model: the accumulator, which adds to the memory of its first input,
adds what a step changes. Source: orttraining/training_api/module.cc, optimizer.cc of 1.19.2; the files
that onnxruntime.training.artifacts makes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport import __version__
from optexport.errors import CheckpointError, ModelError
from optexport.state.files import whole_or_nothing
from optexport.state.lift import native_state
from optexport.state.training import TrainingState

from . import _ort_state
from .training.evaluation import evaluation
from .training.forward import Meant
from .training_info import exact, started

__all__ = ["FILES", "write_artifacts"]

FILES = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint")
# Operator sets and files that the last training build reads.
_OPSET, _IR = 21, 10
_DOMAIN = "com.microsoft"
RESET = "lazy_reset_grad"


def write_artifacts(
    model: onnx.ModelProto | str | os.PathLike[str],
    loss: str,
    state: TrainingState,
    folder: str | os.PathLike[str],
    *,
    meant: Meant | None = None,
    keep: Sequence[str] = (),
    output: str | None = None,
    loss_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write the four files, all or none; their paths.

    state: of ``onnxruntime:AdamWOptimizer`` or ``onnxruntime:SGDOptimizerV2``, see ``translate``.
    folder: made where it does not exist; files of these names in it are replaced.
    keep: outputs of the model that training and evaluation give after the loss. The others as for
        `training_graph.build`.

    Raises:
        ModelError: as there; the state is of another model; an operator is newer than the API's build.
        CheckpointError: the API cannot hold the state, or the folder cannot be written.
    """
    meant, folder = meant or Meant(), os.fspath(folder)
    entry = {g.native for g in state.spec.groups}
    if not entry <= {f"onnxruntime:{n}" for n in (_ort_state.ADAMW, _ort_state.SGD)}:
        raise CheckpointError(
            f"{folder}: the training API runs {_ort_state.ADAMW} and {_ort_state.SGD}; found "
            f"{', '.join(sorted(n or 'a rule of the catalogue' for n in entry))}; translate the state first"
        )
    options = {"loss_options": loss_options, "output": output, "meant": meant, "keep": keep}
    built, held = started(model, loss, None, state, **options)
    state = replace(held.state, buffers=held.buffers)
    training = _training_model(built.model, held.params, held.buffers, keep)
    measured = evaluation(model, meant, built.buffers, loss, output, loss_options or {})
    _keep_outputs(measured, ["loss", *keep])
    native = native_state(replace(state, buffers={}), folder)
    native.weights = {
        n: exact(a, helper.tensor_dtype_to_np_dtype(T.FLOAT), n) for n, a in held.params.items()
    }
    where = os.path.join(folder, FILES[3])
    held_there = _ort_state.checkpoint_of(native, where)
    held_there.frozen = dict(held.buffers)
    models = dict(zip(FILES, (training, measured, _optimizer_model(native)), strict=False))
    for name, made in models.items():
        _check_versions(made, name)
    _write(folder, models, held_there)
    return [os.path.join(folder, n) for n in FILES]


def _write(folder: str, models: Mapping[str, onnx.ModelProto], checkpoint: Any) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise CheckpointError(f"{folder}: {e.strerror}; expected a folder to write to") from None
    with ExitStack() as stack:
        for name, made in models.items():
            file = stack.enter_context(whole_or_nothing(os.path.join(folder, name)))
            file.write(made.SerializeToString(deterministic=True))
        _ort_state.write_checkpoint(checkpoint, os.path.join(folder, FILES[3]))


def _training_model(
    step: onnx.ModelProto, params: Iterable[str], buffers: Iterable[str], keep: Sequence[str]
) -> onnx.ModelProto:
    """The step without its update: loss out, gradients into their buffers, running statistics moved in place."""
    params, buffers = list(params), list(buffers)
    wanted = ["loss", *(f"{p}.grad" for p in params), *(f"{b}.new" for b in buffers), *keep]
    nodes = _needed(step.graph.node, wanted)
    inputs = {i.name: i for i in step.graph.input}
    read = {i for n in nodes for i in n.input}
    infos = [i for n, i in inputs.items() if n in read and n not in params and n not in buffers]
    infos += [inputs[n] for n in (*params, *buffers)]
    added, flags, outputs = [], [], []
    for p in params:
        grad, kind = f"{p}_grad", inputs[p].type
        infos.append(helper.make_value_info(f"{grad}.accumulation.buffer", kind))
        added.append(
            _accumulate(f"{grad}.accumulation.buffer", f"{p}.grad", RESET, f"{grad}.accumulation.out")
        )
        outputs.append(helper.make_tensor_value_info(f"{grad}.accumulation.out", T.BOOL, [1]))
    never = numpy_helper.from_array(
        numpy_helper.to_array(helper.make_tensor("", T.BOOL, [1], [0])), "optexport/never"
    )
    for b in buffers:
        flags.append(f"optexport/{b}/moved")
        added += [
            helper.make_node("Sub", [f"{b}.new", b], [f"optexport/{b}/change"]),
            _accumulate(b, f"optexport/{b}/change", never.name, flags[-1]),
        ]
    if flags:
        # The loss waits for them, so that no output of their own is needed.
        nodes = [_renamed(n, "loss", "optexport/loss") for n in nodes]
        added += [
            helper.make_node("Concat", flags, ["optexport/moved"], axis=0),
            helper.make_node("Cast", ["optexport/moved"], ["optexport/moved/int"], to=T.INT32),
            helper.make_node("ReduceMin", ["optexport/moved/int"], ["optexport/moved/least"], keepdims=0),
            helper.make_node("Cast", ["optexport/moved/least"], ["optexport/moved/all"], to=T.BOOL),
            helper.make_node("Where", ["optexport/moved/all", "optexport/loss", "optexport/loss"], ["loss"]),
        ]  # fmt: skip
    infos.append(helper.make_tensor_value_info(RESET, T.BOOL, [1]))
    given = {o.name: o for o in step.graph.output}
    graph = helper.make_graph(
        [*nodes, *added],
        "training",
        infos,
        [*(given[n] for n in ("loss", *keep)), *outputs],
        [i for i in step.graph.initializer if i.name in read] + ([never] if flags else []),
    )
    return _model(graph, next(o.version for o in step.opset_import if not o.domain))


def _accumulate(buffer: str, value: str, reset: str, done: str) -> onnx.NodeProto:
    """Adds to the memory of ``buffer``; with ``reset`` it starts from zero."""
    return helper.make_node("InPlaceAccumulatorV2", [buffer, value, reset], [done], domain=_DOMAIN)


def _needed(nodes: Sequence[onnx.NodeProto], wanted: Iterable[str]) -> list[onnx.NodeProto]:
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _renamed(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for held in (made.input, made.output):
        for i, name in enumerate(held):
            held[i] = new if name == old else name
    return made


def _keep_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    kept = {o.name: o for o in model.graph.output}
    nodes = _needed(model.graph.node, names)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(kept[n] for n in names)
    read = {i for n in nodes for i in n.input}
    held = [i for i in model.graph.initializer if i.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(held)


def _optimizer_model(native: Any) -> onnx.ModelProto:
    """One node over sequences of all parameters, as the API feeds them."""
    adam = native.optimizer == _ort_state.ADAMW
    entry = _ort_state.ENTRIES[native.optimizer]
    held = {**entry.arguments, **native.groups[0].arguments}
    attributes = {k: held[k] for k in entry.arguments if k != "lr"}
    lists = [
        "params",
        "gradients",
        *(["first_order_moments", "second_order_moments"] if adam else ["first_order_moments"]),
    ]
    scalars = [
        helper.make_tensor_value_info("learning_rate", T.FLOAT, [1]),
        helper.make_tensor_value_info("step", T.INT64, [1]),
    ]
    read = ["learning_rate", "step", *lists] if adam else ["learning_rate", "params", "gradients"]
    node = helper.make_node(native.optimizer, read, ["update_completed"], domain=_DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "update",
        [*scalars, *(helper.make_tensor_sequence_value_info(n, T.FLOAT, None) for n in lists)],
        [helper.make_tensor_value_info("update_completed", T.BOOL, None)],
    )
    return _model(graph, 18)


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(_DOMAIN, 1)]
    made = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=max(8, int(helper.find_min_ir_version_for(opsets[:1]))),
    )
    made.producer_name, made.producer_version = "optexport", __version__
    return made


def _check_versions(model: onnx.ModelProto, name: str) -> None:
    opset = max(o.version for o in model.opset_import if not o.domain)
    if opset > _OPSET or model.ir_version > _IR:
        raise ModelError(
            f"{name}: operator set {opset}; the last build of the training API has {_OPSET}; export the model with that "
            "or an older one"
        )
