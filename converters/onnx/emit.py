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
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport import __version__
from optexport.errors import HyperparameterError, NamingError, UnknownNameError
from optexport.ir import Program, Reach, equations, fold, reach
from optexport.specs import Group, Spec

from . import _layout
from ._functions import DOMAIN, OPSET, Functions, functions

__all__ = ["DTYPES", "IR_VERSION", "emit"]

IR_VERSION = 8
DTYPES = {"float32": T.FLOAT, "float64": T.DOUBLE, "float16": T.FLOAT16, "bfloat16": T.BFLOAT16}
Layout = Literal["parameters", "flat"]
ANY_PARAMETER: Mapping[str, Any] = {"param": ("n",)}
Shape = tuple[int, ...]


def emit(
    spec: Spec,
    params: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    steps: Mapping[str, int] | None = None,
    runtime: Sequence[str] = ("lr",),
    layout: Layout = "parameters",
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
        elementwise the number of rows is free: a part of the rows may be updated alone.

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
    graph = _Graph(DTYPES[dtype])
    _scalar_inputs(graph, spec, runtime)
    for lane in _lanes(spec, shapes, dict(steps or {})):
        _emit_lane(graph, lane, spec, runtime, layout)
    graph.node("Add", ["step", graph.integers(1, "one")], ["step.new"])
    graph.outputs.append(helper.make_tensor_value_info("step.new", T.INT64, []))
    return _model(graph, spec, shapes, dtype)


@dataclass(frozen=True)
class _Lane:
    """Parameters that share all scalars: one group at one step count.

    index: of the lane's flat buffer. offset: step count minus the input ``step``, at most 0.
    """

    index: int
    group_index: int
    group: Group
    offset: int
    shapes: Mapping[str, Shape]

    @property
    def slots(self) -> tuple[str, ...]:
        return self.group.rule.slot_names


@dataclass
class _Graph:
    """The graph under construction."""

    dtype: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    functions: dict[tuple[Any, ...], Functions] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    flat: list[dict[str, Any]] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), **attributes))

    def integers(self, value: int | Sequence[int], hint: str = "") -> str:
        """Name of an int64 constant; equal ones are one initializer."""
        text = hint or "x".join(map(str, np.atleast_1d(value)))
        name = f"optexport/{'shape_' if not hint else ''}{text}"
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(value, np.int64), name)
        return name

    def double(self, value: float, name: str) -> str:
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(value, np.float64), name))
        return name

    def tensor(self, name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.dtype, list(shape))


def _lanes(spec: Spec, shapes: Mapping[str, Shape], steps: Mapping[str, int]) -> Iterator[_Lane]:
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
            yield _Lane(index, g, group, offset, held)
            index += 1


def _input_of(spec: Spec, name: str, group: int) -> str:
    """The graph input that drives a runtime hyperparameter in a group."""
    values = {g.hyperparameters[name] for g in spec.groups if name in g.hyperparameters}
    return name if len(values) == 1 else f"{name}.{group}"


def _scalar_inputs(graph: _Graph, spec: Spec, runtime: Sequence[str]) -> None:
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


def _emit_lane(graph: _Graph, lane: _Lane, spec: Spec, runtime: Sequence[str], layout: Layout) -> None:
    live = [h for h in runtime if h in lane.group.hyperparameters]
    known = {k: v for k, v in lane.group.values().items() if k not in live}
    program = fold(lane.group.rule.program, known)
    made = _functions(graph, lane, program, known, live)
    scalars = _call_scalars(graph, lane, spec, made)
    elementwise = reach(program) is Reach.ELEMENTWISE
    if layout == "flat":
        _emit_flat(graph, lane, made, scalars, elementwise)
        return
    for name, shape in lane.shapes.items():
        _declare(graph, name, shape, made, lane.slots)
    # A parameter of unknown length cannot be cut or joined.
    sized = elementwise and lane.shapes != ANY_PARAMETER
    for names in _layout.buckets(lane.shapes) if sized else [[n] for n in lane.shapes]:
        tiles = _layout.blocks(lane.shapes[names[0]]) if sized and len(names) == 1 else None
        if len(names) > 1:
            _emit_bucket(graph, {n: lane.shapes[n] for n in names}, made, scalars)
        elif tiles:
            _emit_blocks(graph, names[0], lane.shapes[names[0]], tiles, made, scalars)
        else:
            _call(graph.nodes, names[0], made, scalars)


def _functions(
    graph: _Graph, lane: _Lane, program: Program, known: Mapping[str, float], live: Sequence[str]
) -> Functions:
    """The lane's functions; lanes with the same program share them."""
    rule = lane.group.rule
    bare = frozenset(h for h in live if h != "lr" or lane.group.lr_mult == 1)
    key = (program.nodes, tuple(program.outputs.items()), bare)
    if key not in graph.functions:
        taken = {f.update.name for f in graph.functions.values()}
        name, n = rule.family, 1
        while name in taken:
            n += 1
            name = f"{rule.family}_{n}"
        title = f"One update by rule {rule.family}: " + ", ".join(f"{k}={v}" for k, v in rule.options.items())
        graph.functions[key] = functions(program, name, graph.dtype, known, bare, title)
    return graph.functions[key]


def _call_scalars(graph: _Graph, lane: _Lane, spec: Spec, made: Functions) -> list[str]:
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


def _double(graph: _Graph, name: str) -> str:
    """A runtime hyperparameter in double."""
    if graph.dtype == T.DOUBLE:
        return name
    wide = f"optexport/{name}"
    if wide not in graph.made:
        graph.made.add(wide)
        graph.node("Cast", [name], [wide], to=T.DOUBLE)
    return wide


def _step(graph: _Graph, offset: int) -> str:
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


def _value(stem: str, key: str) -> str:
    """The input of one tensor: the parameter itself, its gradient, or a slot."""
    return stem if key == "param" else f"{stem}.{key}"


def _declare(
    graph: _Graph, stem: str, shape: Sequence[int | str], made: Functions, slots: Sequence[str]
) -> None:
    """Graph inputs and outputs of one parameter or flat buffer."""
    for key in ("param", "grad", *slots):
        graph.inputs.append(graph.tensor(_value(stem, key), shape))
    for key in made.outputs:
        graph.outputs.append(graph.tensor(f"{_value(stem, key)}.new", shape))
        if key in made.copied:
            graph.copied.append(f"{_value(stem, key)}.new")


def _call(nodes: list[onnx.NodeProto], stem: str, made: Functions, scalars: Sequence[str]) -> None:
    """Call the update function on ``<stem>``, ``<stem>.grad``, …, giving ``<stem>.new``, …"""
    nodes.append(
        helper.make_node(
            made.update.name,
            [*(_value(stem, key) for key in made.tensors), *scalars],
            [f"{_value(stem, key)}.new" for key in made.outputs],
            name=stem,
            domain=DOMAIN,
        )
    )


def _emit_bucket(graph: _Graph, shapes: Mapping[str, Shape], made: Functions, scalars: Sequence[str]) -> None:
    """Small parameters joined along their first axis, updated, and cut apart again.

    Parameters that differ in other axes are flattened first.
    """
    stem = f"optexport/bucket/{next(iter(shapes))}"
    direct = _layout.joins_directly(shapes.values())
    for key in made.tensors:
        parts = []
        for name, shape in shapes.items():
            part = _value(name, key)
            if not direct and len(shape) != 1:
                graph.node("Reshape", [part, graph.integers([-1], "line")], [f"optexport/{part}/line"])
                part = f"optexport/{part}/line"
            parts.append(part)
        graph.node("Concat", parts, [_value(stem, key)], axis=0)
    _call(graph.nodes, stem, made, scalars)
    lengths = [s[0] if direct else _layout.size(s) for s in shapes.values()]
    sizes = graph.integers(lengths, f"sizes/{stem}")
    for key in made.outputs:
        outs = {f"{_value(n, key)}.new": s for n, s in shapes.items()}
        parts = [o if direct or len(s) == 1 else f"optexport/{o}/line" for o, s in outs.items()]
        graph.node("Split", [f"{_value(stem, key)}.new", sizes], parts, axis=0)
        for part, (out, shape) in zip(parts, outs.items(), strict=True):
            if part != out:
                graph.node("Reshape", [part, graph.integers(shape)], [out])


def _emit_blocks(
    graph: _Graph, name: str, shape: Shape, tiles: tuple[int, int], made: Functions, scalars: Sequence[str]
) -> None:
    """A big parameter seen as rows, updated row by row."""
    stem = f"optexport/blocks/{name}"
    rows = graph.integers(tiles)
    for key in made.tensors:
        graph.node("Reshape", [_value(name, key), rows], [_value(stem, key)])
    _scan(graph, stem, stem, tiles[1], made, scalars)
    for key in made.outputs:
        graph.node(
            "Reshape", [f"{_value(stem, key)}.new", graph.integers(shape)], [f"{_value(name, key)}.new"]
        )


def _scan(graph: _Graph, stem: str, body: str, row: int, made: Functions, scalars: Sequence[str]) -> None:
    """Apply the update to every row of ``<stem>`` in turn."""
    inner = f"{body}/row"
    nodes: list[onnx.NodeProto] = []
    _call(nodes, inner, made, scalars)
    block = helper.make_graph(
        nodes,
        f"{body}/update",
        [graph.tensor(_value(inner, key), [row]) for key in made.tensors],
        [graph.tensor(f"{_value(inner, key)}.new", [row]) for key in made.outputs],
    )
    graph.node(
        "Scan",
        [_value(stem, key) for key in made.tensors],
        [f"{_value(stem, key)}.new" for key in made.outputs],
        body=block,
        num_scan_inputs=len(made.tensors),
    )


def _emit_flat(
    graph: _Graph, lane: _Lane, made: Functions, scalars: Sequence[str], elementwise: bool
) -> None:
    """A lane's parameters in one buffer: row by row, or, where the rule reduces, cut into parameters."""
    stem = f"flat.{lane.index}"
    table = _layout.segments(lane.shapes.items())
    used = sum(_layout.size(s) for s in lane.shapes.values())
    rows, row = _layout.flat_shape(used)
    _declare(graph, stem, (f"{stem}.rows" if elementwise else rows, row), made, lane.slots)
    graph.flat.append(
        {
            "name": stem,
            "group": lane.group_index,
            "shape": [rows, row],
            "slots": list(lane.slots),
            "segments": [{"name": s.name, "offset": s.offset, "shape": list(s.shape)} for s in table],
        }
    )
    if elementwise:
        _scan(graph, stem, f"optexport/{stem}", row, made, scalars)
    else:
        _emit_cut(graph, stem, table, (rows, row), made, scalars)


def _emit_cut(
    graph: _Graph,
    stem: str,
    table: Sequence[_layout.Segment],
    shape: tuple[int, int],
    made: Functions,
    scalars: Sequence[str],
) -> None:
    """A flat buffer cut into its parameters, each updated whole, and joined again; padding is kept."""
    line, padding = graph.integers([-1], "line"), f"optexport/{stem}/padding"
    used = sum(_layout.size(s.shape) for s in table)
    left = shape[0] * shape[1] - used
    sizes = graph.integers([*(_layout.size(s.shape) for s in table), left], f"sizes/{stem}")
    parts = [f"optexport/{stem}/{s.name}" for s in table]
    for key in made.tensors:
        graph.node("Reshape", [_value(stem, key), line], [f"optexport/{_value(stem, key)}/line"])
        cut = [f"{_value(p, key)}/line" for p in parts]
        graph.node(
            "Split", [f"optexport/{_value(stem, key)}/line", sizes], [*cut, _value(padding, key)], axis=0
        )
        for piece, part, s in zip(cut, parts, table, strict=True):
            graph.node("Reshape", [piece, graph.integers(s.shape)], [_value(part, key)])
    for part in parts:
        _call(graph.nodes, part, made, scalars)
    for key in made.outputs:
        new = [f"{_value(p, key)}.new" for p in parts]
        for name in new:
            graph.node("Reshape", [name, line], [f"{name}/line"])
        rest = _value(padding, key if key in made.tensors else "param")
        joined = f"optexport/{_value(stem, key)}.new/line"
        graph.node("Concat", [*(f"{n}/line" for n in new), rest], [joined], axis=0)
        graph.node("Reshape", [joined, graph.integers(shape)], [f"{_value(stem, key)}.new"])


def _model(graph: _Graph, spec: Spec, shapes: Mapping[str, Shape], dtype: str) -> onnx.ModelProto:
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
