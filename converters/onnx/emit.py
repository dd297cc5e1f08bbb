"""The ONNX update graph: one optimizer step of any spec in plain ``ai.onnx`` operators.

Inputs    ``<param>``, ``<param>.grad``, ``<param>.<slot>``; ``step`` (int64: completed updates); each
          runtime hyperparameter (``lr``), or ``lr.0``, ``lr.1``, … where groups differ in it.
Outputs   ``<param>.new``, ``<param>.<slot>.new``; ``step.new``.

Every rule is a local function (domain ``optexport``) with the rule's own names inside, called once a
tensor; its scalars are another, called once a group. The graph has no state and no foreign operator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

import onnx
from onnx import TensorProto as T
from onnx import helper

from optexport import __version__
from optexport.errors import CheckpointError, HyperparameterError, NamingError, UnknownNameError
from optexport.ir import Program, Reach, equations, fold, reach
from optexport.specs import Spec
from optexport.state.training import TrainingState

from . import _calls, _layout
from ._calls import Graph, Lane, Shape, bucket, call, declare, flat, scalar_type, together
from ._functions import DOMAIN, OPSET, Functions, functions
from ._own_training_info import emitted_groups, emitted_paths

__all__ = ["DTYPES", "IR_VERSION", "emit", "emitted_groups", "emitted_paths", "emitted_state"]

IR_VERSION = 8
DTYPES = {"float32": T.FLOAT, "float64": T.DOUBLE, "float16": T.FLOAT16, "bfloat16": T.BFLOAT16}
Layout = Literal["parameters", "flat"]
ANY_PARAMETER: Mapping[str, Any] = {"param": ("n",)}


def emit(
    spec: Spec,
    params: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    steps: Mapping[str, int] | None = None,
    runtime: Sequence[str] = ("lr",),
    layout: Layout = "parameters",
    blocks: bool = True,
) -> onnx.ModelProto:
    """The update graph of ``spec`` for parameters of these shapes.

    params: name -> shape, or an array that has it; when there are none, the graph is for one parameter
        called ``param``, a vector of any length (flatten yours, and call it once for each).
    dtype: of parameters, gradients and slots; float16 and bfloat16 are widened to float32 inside and
        rounded once at the end.
    steps: completed updates by parameter, where they differ: the input ``step`` is then the largest,
        and the others are that much behind it for ever. A fresh optimizer's counts when None.
    runtime: hyperparameters that are graph inputs (scalars; double for float64, else float); the
        others are constants of the graph. ``lr_mult`` multiplies inside.
    layout: ``flat`` takes, for each group, ``flat.<g>``, ``flat.<g>.grad`` and ``flat.<g>.<slot>``: all
        its parameters in one buffer of shape (rows, row length), C order, padded at the end; the
        table of what lies where is ``metadata_props["optexport.flat"]``. Where the rule is
        elementwise the number of rows is free: a part of the rows may be updated alone. Groups with slots
        of another shape than the parameter's, or a rule that sums over the group, stay as they are.
    blocks: update a big parameter block by block, so that the intermediates stay in a processor's cache; a GPU
        wants it whole (False). The numbers are the same.

    Raises:
        HyperparameterError: an unknown dtype or layout, a runtime name that no rule has.
        UnknownNameError: a group or ``steps`` names a parameter that ``params`` lacks.
        NamingError: two inputs or outputs would have one name.
    """
    if dtype not in DTYPES:
        raise HyperparameterError(f"emit onnx: dtype expected one of {', '.join(DTYPES)}, found {dtype!r}")
    if layout not in ("parameters", "flat"):
        raise HyperparameterError(f"emit onnx: layout expected 'parameters' or 'flat', found {layout!r}")
    if not params and layout == "flat":
        raise HyperparameterError("emit onnx: layout 'flat' expected the parameters' shapes, found none")
    shapes: dict[str, Any] = {
        n: tuple(int(i) for i in getattr(v, "shape", v)) for n, v in (params or {}).items()
    }
    shapes = shapes or dict(ANY_PARAMETER)
    spec = spec.settle(shapes)
    graph = Graph(DTYPES[dtype])
    _scalar_inputs(graph, spec, runtime)
    grouped = []
    for lane in _lanes(spec, shapes, dict(steps or {})):
        made, scalars = _prepare(graph, lane, spec, runtime)
        if made.update is None:
            grouped.append((lane, made, scalars))
            for name, shape in lane.shapes.items():
                declare(graph, name, shape, made, lane.slots)
        else:
            _emit_lane(graph, lane, made, scalars, layout, cut=blocks)
    together(graph, grouped)
    graph.node("Add", ["step", graph.integers(1, "one")], ["step.new"])
    graph.outputs.append(helper.make_tensor_value_info("step.new", T.INT64, []))
    return _model(graph, spec, shapes, dtype)


def _lanes(spec: Spec, shapes: Mapping[str, Shape], steps: Mapping[str, int]) -> Iterator[Lane]:
    unknown = [n for n in steps if n not in shapes]
    if unknown:
        raise UnknownNameError(f"steps: {unknown[0]!r} is no parameter; expected one of {', '.join(shapes)}")
    steps = {n: steps.get(n, spec.group(n).first_step) for n in shapes}
    last = max(steps.values())
    index = 0
    for g, group in enumerate(spec.groups):
        by_offset: dict[int, dict[str, Shape]] = {}
        for name in group.params or ():
            by_offset.setdefault(steps[name] - last, {})[name] = shapes[name]
        for offset, held in sorted(by_offset.items(), reverse=True):
            yield Lane(index, g, group, offset, held)
            index += 1


def _input_of(spec: Spec, name: str, group: int) -> str:
    """The graph input that drives a runtime hyperparameter in a group."""
    values = {g.hyperparameters[name] for g in spec.groups if name in g.hyperparameters}
    return name if len(values) == 1 else f"{name}.{group}"


def _scalar_inputs(graph: Graph, spec: Spec, runtime: Sequence[str]) -> None:
    """Inputs ``step`` and the runtime hyperparameters."""
    kind = T.DOUBLE if graph.dtype == T.DOUBLE else T.FLOAT
    names: list[str] = []
    for h in runtime:
        having = [i for i, g in enumerate(spec.groups) if h in g.hyperparameters]
        if not having:
            known = sorted({k for g in spec.groups for k in g.hyperparameters})
            raise HyperparameterError(
                f"emit onnx: runtime hyperparameter {h!r} expected one of {', '.join(known)}; no rule has it"
            )
        names += dict.fromkeys(_input_of(spec, h, i) for i in having)
    graph.inputs.append(helper.make_tensor_value_info("step", T.INT64, []))
    for name in names:
        graph.inputs.append(helper.make_tensor_value_info(name, kind, []))


def _prepare(graph: Graph, lane: Lane, spec: Spec, runtime: Sequence[str]) -> tuple[Functions, list[str]]:
    """The lane's functions, and the names of the scalars that its updates take."""
    live = [h for h in runtime if h in lane.group.hyperparameters]
    known = {k: v for k, v in lane.group.values().items() if k not in live}
    made = _functions(graph, lane, fold(lane.group.rule.program, known), known, live)
    return made, _call_scalars(graph, lane, spec, made)


def _emit_lane(
    graph: Graph, lane: Lane, made: Functions, scalars: Sequence[str], layout: Layout, *, cut: bool
) -> None:
    elementwise = reach(made.program) is Reach.ELEMENTWISE
    if layout == "flat" and all(s.shape == "param" for s in lane.slots):
        flat(graph, lane, made, scalars, elementwise)
        return
    for name, shape in lane.shapes.items():
        declare(graph, name, shape, made, lane.slots)
    # A parameter of unknown length cannot be cut or joined.
    sized = elementwise and lane.shapes != ANY_PARAMETER
    for names in _layout.buckets(lane.shapes) if sized else [[n] for n in lane.shapes]:
        tiles = _layout.blocks(lane.shapes[names[0]]) if sized and cut and len(names) == 1 else None
        if len(names) > 1:
            bucket(graph, {n: lane.shapes[n] for n in names}, made, scalars)
        elif tiles:
            _calls.blocks(graph, names[0], lane.shapes[names[0]], tiles, made, scalars)
        else:
            call(graph.nodes, names[0], made, scalars)


def _functions(
    graph: Graph, lane: Lane, program: Program, known: Mapping[str, float], live: Sequence[str]
) -> Functions:
    """The lane's functions; lanes with the same program share them."""
    rule = lane.group.rule
    bare = frozenset(h for h in live if h != "lr" or lane.group.lr_mult == 1)
    key = (program.nodes, tuple(program.outputs.items()), bare)
    if key not in graph.functions:
        taken = {f.update.name for f in graph.functions.values() if f.update is not None}
        name, n = rule.family, 1
        while name in taken:
            n += 1
            name = f"{rule.family}_{n}"
        title = f"One update by rule {rule.family}: " + ", ".join(f"{k}={v}" for k, v in rule.options.items())
        types = {s.name: kind for s in lane.slots if (kind := scalar_type(s)) is not None}
        graph.functions[key] = functions(program, name, graph.dtype, known, bare, title, types)
    return graph.functions[key]


def _call_scalars(graph: Graph, lane: Lane, spec: Spec, made: Functions) -> list[str]:
    """Call the lane's scalar function; names of all scalars of its update."""
    stem = f"optexport/{lane.index}"
    values = {n: _input_of(spec, key, lane.group_index) for n, key in made.direct.items()}
    computed = {n: f"{stem}/{n}" for n in made.crossing if n not in values}
    if made.scalars is not None:
        inputs = []
        for key in made.hosted:
            if key == "step":
                inputs.append(_step(graph, lane.offset))
                continue
            name = _double(graph, _input_of(spec, key, lane.group_index))
            if key == "lr" and lane.group.lr_mult != 1:
                factor = graph.double(lane.group.lr_mult, f"{stem}/lr_mult")
                graph.node("Mul", [name, factor], [f"{stem}/lr_scaled"])
                name = f"{stem}/lr_scaled"
            inputs.append(name)
        graph.node(made.scalars.name, inputs, list(computed.values()), domain=DOMAIN)
    values |= computed
    return [values[n] for n in made.crossing]


def _double(graph: Graph, name: str) -> str:
    """A runtime hyperparameter in double."""
    if graph.dtype == T.DOUBLE:
        return name
    wide = f"optexport/{name}"
    if wide not in graph.made:
        graph.made.add(wide)
        graph.node("Cast", [name], [wide], to=T.DOUBLE)
    return wide


def _step(graph: Graph, offset: int) -> str:
    """Completed updates of a lane, in double."""
    name = f"optexport/step{offset or ''}"
    if name not in graph.made:
        graph.made.add(name)
        count = "step"
        if offset:
            count = f"optexport/count{offset}"
            graph.node("Add", ["step", graph.integers(offset, f"offset{offset}")], [count])
        graph.node("Cast", [count], [name], to=T.DOUBLE)
    return name


def _model(graph: Graph, spec: Spec, shapes: Mapping[str, Shape], dtype: str) -> onnx.ModelProto:
    from optexport.state.manifest import spec_text

    _check_names([i.name for i in graph.inputs], [o.name for o in graph.outputs])
    proto = helper.make_graph(
        graph.nodes,
        "update",
        graph.inputs,
        graph.outputs,
        list(graph.initializers.values()),
        doc_string=_about(spec, shapes, dtype),
    )
    local = [f for made in graph.functions.values() for f in (made.scalars, made.update) if f is not None]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(proto, functions=local, opset_imports=opsets, ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "optexport", __version__
    metadata = {"optexport.spec": spec_text(spec), "optexport.copied": json.dumps(graph.copied)}
    if graph.flat:
        metadata["optexport.flat"] = json.dumps({"buffers": graph.flat})
    helper.set_model_props(model, metadata)
    return model


def _check_names(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in (*inputs, *outputs):
        if name in seen or name.startswith("optexport/"):
            raise NamingError(
                f"emit onnx: parameter names give {name!r} twice or use a reserved name; rename one of them"
            )
        seen.add(name)


def _about(spec: Spec, shapes: Mapping[str, Shape], dtype: str) -> str:
    """The graph's documentation: what it is, and the equations of every group."""
    lines = [
        f"One optimizer update of {len(shapes)} parameters ({dtype}). Inputs: parameters, gradients (.grad), "
        "slots (.<slot>), step (completed updates) and runtime hyperparameters; outputs: the same tensors "
        "after the update (.new). t is step + 1. Scalars are computed in double.",
    ]
    for i, group in enumerate(spec.groups):
        values = ", ".join(f"{k}={v:g}" for k, v in group.hyperparameters.items())
        mult = f", learning rate times {group.lr_mult:g}" if group.lr_mult != 1 else ""
        lines += ["", f"Group {i}: {group.rule.family}, {len(group.params or ())} parameters; {values}{mult}"]
        lines += [f"  {line}" for line in equations(group.rule.program)]
    return "\n".join(lines)


def emitted_state(state: TrainingState, module: str) -> NoReturn:
    """A graph has no file of state: its slots are inputs. module: of the graph's file.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f"{module}: an update graph takes {state.names[0]!r} and the other parameters' state as inputs, not from an .onnx "
        "file; write the state as a bundle (--to bundle) beside it"
    )
