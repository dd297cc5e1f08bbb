"""Passes over a forward graph before it is differentiated: folding, lowering, expansion."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optexport.errors import ModelError, NamingError

from .backward import handled
from .ceiling import round_windows_down
from .composites import SEED, batch_norm_training, dropout_mask
from .tape import Tape, reads

if TYPE_CHECKING:
    from .forward import Forward

__all__ = ["lower_batch_norm", "lower_dropout", "rename_inner", "simplify"]

_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}
_BIGGEST = 1 << 22  # elements of a folded constant, so that folding does not blow a model up


def simplify(proto: onnx.ModelProto, tape: Tape, params: Mapping[str, np.ndarray]) -> None:
    """Put the nodes on the tape: constants folded where no parameter is involved, unread nodes gone,
    operators without a gradient rule replaced by their function bodies.

    Raises:
        ModelError: shape inference finds the model inconsistent.
    """
    nodes = list(proto.graph.node)
    for node in nodes:
        _complete(node, tape)
    for _ in range(4):
        _infer(proto, nodes, tape, params)
        while round_windows_down(nodes, tape):
            _infer(proto, nodes, tape, params)
        folded = _Folder(tape).run(nodes)
        expanded = [made for n in folded for made in _expanded(n, tape)]
        settled = len(expanded) == len(folded) == len(nodes)
        nodes = expanded
        if settled:
            break
    tape.nodes = _read(nodes, {o.name for o in proto.graph.output})


def _infer(
    proto: onnx.ModelProto, nodes: list[onnx.NodeProto], tape: Tape, params: Mapping[str, np.ndarray]
) -> None:
    """Shapes and types of every value, from ONNX' own inference."""
    held = [numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n)
            for n, a in tape.constants.items() if a.size <= 1 << 12 or a.dtype.kind == "i"]  # fmt: skip
    known = {**dict(tape.constants.items()), **params}
    given = {h.name for h in held}
    inputs = [i for i in proto.graph.input if i.name not in known]
    inputs += [_info(n, a) for n, a in known.items() if n not in given]
    graph = helper.make_graph(nodes, "forward", inputs, list(proto.graph.output), held)
    model = helper.make_model(graph, opset_imports=list(proto.opset_import), ir_version=proto.ir_version)
    try:
        made = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as e:
        raise ModelError(f"shape inference: {' '.join(str(e).split())[:300]}") from None
    for info in (*made.graph.value_info, *made.graph.input, *made.graph.output):
        kind = info.type.tensor_type
        tape.types[info.name] = kind.elem_type
        if kind.HasField("shape"):
            tape.shapes[info.name] = tuple(
                d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim
            )
    for name, a in known.items():
        tape.shapes[name], tape.types[name] = a.shape, helper.np_dtype_to_tensor_dtype(a.dtype)


def _info(name: str, a: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)


def _read(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that an output depends on."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(o in needed for o in node.output):
            needed |= reads(node)
            kept.append(node)
    return kept[::-1]


class _Folder:
    """One walk: nodes with constant inputs become constants, and so do shapes that are known."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        # Integer vectors of which some entries are symbols: what Shape and its kin give.
        self.partial: dict[str, list[int | str | None]] = {}
        self.same: dict[str, str] = {}

    def run(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        return [made for node in nodes for made in self.node(node)]

    def node(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        constants = self.tape.constants
        kind = node.op_type
        if kind == "CastLike":
            to = self.tape.types[node.input[1]]
            node = helper.make_node("Cast", [node.input[0]], list(node.output), name=node.name, to=to)
        if kind == "SequenceAt" and (split := self.same.get(node.input[0])) is not None:
            yield from self._sequence_item(node, split)
            return
        if kind == "SplitToSequence" and self._split(node):
            return
        if self._vector(node):
            return
        if (
            kind == "Constant"
            or (
                node.input
                and kind not in _RANDOM
                and not any(
                    a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute
                )
                and all(i in constants for i in node.input if i)
            )
        ) and self._evaluate(node):
            return
        yield node

    def _evaluate(self, node: onnx.NodeProto) -> bool:
        """Whether the node's outputs are constants now."""
        held = {i: self.tape.constants[i] for i in node.input if i}
        outputs = [o for o in node.output if o]
        graph = helper.make_graph(
            [node], "one", [_info(n, a) for n, a in held.items()],
            [helper.make_tensor_value_info(o, T.UNDEFINED, None) for o in outputs],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.tape.opset)])
        try:
            results = ReferenceEvaluator(model).run(outputs, held)
        except Exception:
            return False
        if any(not isinstance(r, (np.ndarray, np.generic)) or np.size(r) > _BIGGEST for r in results):
            return False
        for name, value in zip(outputs, results, strict=True):
            self.tape.constants[name] = np.asarray(value)
        return True

    def _vector(self, node: onnx.NodeProto) -> bool:
        """Parts of shapes of which some dimensions are numbers; whether the node is a constant now."""
        out = node.output[0]
        shape = self.tape.shapes.get(out)
        if not (node.op_type == "Shape" or any(i in self.partial for i in node.input)):
            return False  # `_evaluate` does the rest
        if shape is None or len(shape) > 1:
            return False
        entries = self._entries(node)
        if entries is None or (shape == () and len(entries) != 1):
            return False
        if any(not isinstance(e, int) for e in entries):
            self.partial[out] = entries
            return False
        dtype = self.tape.dtype(out)
        self.tape.constants[out] = np.asarray(entries[0] if shape == () else entries, dtype)
        return True

    def _of(self, name: str) -> list[Any] | None:
        if name in self.partial:
            return self.partial[name]
        a = self.tape.constants.get(name)
        return None if a is None or a.dtype.kind != "i" or a.ndim > 1 else [int(i) for i in np.atleast_1d(a)]

    def _entries(self, node: onnx.NodeProto) -> list[Any] | None:
        kind = node.op_type
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if kind == "Shape":
            shape = self.tape.shapes.get(node.input[0])
            return None if shape is None else list(shape[attributes.get("start", 0) : attributes.get("end")])
        if kind == "Size" and (size := self.tape.static(node.input[0])) is not None:
            return [int(np.prod(size, dtype=np.int64))]
        if kind not in ("Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity"):
            return None
        if kind == "Cast" and attributes["to"] not in (T.INT64, T.INT32):
            return None
        parts = [self._of(i) for i in node.input]
        first = parts[0]
        if first is None or (kind == "Concat" and None in parts):
            return None
        if kind == "Concat":
            return [e for p in parts for e in p or ()]
        if kind == "Gather":
            index = parts[1]
            return None if index is None else [first[i] for i in index if -len(first) <= i < len(first)]
        if kind == "Slice":
            bounds = [p[0] if p else None for p in (*parts[1:3], parts[4] if len(parts) > 4 else [1])]
            return None if None in bounds else first[slice(*bounds)]
        return list(first)

    def _split(self, node: onnx.NodeProto) -> bool:
        self.same[node.output[0]] = node.SerializeToString().hex()
        return True

    def _sequence_item(self, node: onnx.NodeProto, split: str) -> Iterator[onnx.NodeProto]:
        """Item i of a split sequence, as a Slice."""
        origin = onnx.NodeProto.FromString(bytes.fromhex(split))
        x = origin.input[0]
        attributes = {a.name: helper.get_attribute_value(a) for a in origin.attribute}
        axis, keep = attributes.get("axis", 0), attributes.get("keepdims", 1)
        index = self.tape.constants.get(node.input[1])
        sizes = self.tape.constants.get(origin.input[1]) if len(origin.input) > 1 else np.int64(1)
        shape = self.tape.shapes.get(x)
        if index is None or sizes is None or shape is None or not isinstance(shape[axis], int):
            raise ModelError(
                f"node {node.name or node.output[0]!r} (SequenceAt): expected a split of known sizes and a constant "
                "position; export without sequences"
            )
        ends = (
            np.cumsum(sizes)
            if np.ndim(sizes)
            else np.append(np.arange(int(sizes), shape[axis], int(sizes)), shape[axis])
        )
        i = range(len(ends))[int(index)]
        start = int(ends[i - 1]) if i else 0
        ints = [self.tape.ints(v) for v in (start, int(ends[i]), axis)]
        squeezed = len(origin.input) < 2 and not keep
        out = self.tape.fresh(f"{node.output[0]}/item") if squeezed else node.output[0]
        yield helper.make_node("Slice", [x, *ints], [out])
        if squeezed:
            yield helper.make_node("Squeeze", [out, self.tape.ints(axis)], [node.output[0]])


def _expanded(node: onnx.NodeProto, tape: Tape) -> Iterator[onnx.NodeProto]:
    """The node, or its operator's function body where no rule differentiates it."""
    if node.domain not in ("", "ai.onnx") or handled(node.op_type):
        yield node
        return
    body = _body(node, tape)
    if body is None:
        yield node
        return
    names = dict.fromkeys(body.input, "") | dict(zip(body.input, node.input, strict=False))
    names |= {
        o: (made or tape.fresh(f"{node.output[0]}/{o}"))
        for o, made in zip(body.output, node.output, strict=False)
    }
    given = {a.name: a for a in node.attribute}
    for inner in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        copy.name = ""  # the runtime wants names of nodes to be unique
        for held in (copy.input, copy.output):
            for i, name in enumerate(held):
                if name:
                    held[i] = names.setdefault(name, tape.fresh(f"{node.output[0]}/{name}"))
        for a in list(copy.attribute):
            if a.ref_attr_name:
                copy.attribute.remove(a)
                if a.ref_attr_name in given:
                    own = onnx.AttributeProto()
                    own.CopyFrom(given[a.ref_attr_name])
                    own.name = a.name
                    copy.attribute.append(own)
        yield copy


def _complete(node: onnx.NodeProto, tape: Tape) -> None:
    """Write down the defaults that the operator's function body refers to: inference takes them from the node."""
    if (
        node.domain in ("", "ai.onnx")
        and not handled(node.op_type)
        and onnx.defs.has(node.op_type, tape.opset)
    ):
        given = {a.name for a in node.attribute}
        schema: Any = onnx.defs.get_schema(node.op_type, tape.opset, "")
        if schema.has_function:
            node.attribute.extend(
                a.default_value
                for n, a in schema.attributes.items()
                if n not in given and a.default_value.name
            )


def _body(node: onnx.NodeProto, tape: Tape) -> onnx.FunctionProto | None:
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, tape.opset, "")
    except onnx.defs.SchemaError:
        return None
    function = onnx.FunctionProto()
    # A body is written in one version of the operators, the newest that the model may have is meant.
    if schema.has_function:
        version = max(v for v in schema.function_opset_versions if v <= tape.opset)
        function.ParseFromString(schema.get_function_with_opset_version(version))
        return function
    if schema.has_context_dependent_function:
        types = [
            helper.make_tensor_type_proto(tape.types.get(i, T.FLOAT), tape.shapes.get(i)).SerializeToString()
            for i in node.input
        ]
        version = max(v for v in schema.context_dependent_function_opset_versions if v <= tape.opset)
        made = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types
        )
        function.ParseFromString(made)
        return function if function.node else None
    return None


def lower_batch_norm(forward: Forward, mode: str | None, where: str) -> None:
    """Batch normalisation as the caller means it.

    ``train``: plain operators with the batch's statistics, and the running ones moved as PyTorch does
    (the variance that is kept is the unbiased one). Raises ModelError: the caller does not say.
    """
    tape = forward.tape
    found = [n for n in tape.nodes if n.op_type == "BatchNormalization"]
    if not found:
        return
    if mode is None:
        raise ModelError(
            f"{where}: has {len(found)} BatchNormalization nodes, which exporters write in inference mode even for a "
            "model in training; say batch_norm='train' (the batch's statistics, running ones move) or "
            "'inference' (running ones, fixed)"
        )
    nodes, tape.nodes = tape.nodes, []
    for node in nodes:
        if node.op_type == "BatchNormalization" and mode == "train":
            batch_norm_training(forward, node, where)
        else:
            tape.nodes.append(node)


def lower_dropout(forward: Forward, ratio: float | None) -> None:
    """Dropout with a mask that follows from the graph's input ``seed``, so that a run can be repeated."""
    tape = forward.tape
    if SEED in tape.types and any(n.op_type == "Dropout" for n in tape.nodes):
        raise NamingError(
            f"the model has a value {SEED!r}, the name of the input that dropout follows; rename it"
        )
    nodes, tape.nodes = tape.nodes, []
    for index, node in enumerate(nodes):
        if node.op_type != "Dropout":
            tape.nodes.append(node)
            continue
        own = tape.constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else np.float32(0.5)
        if own is None and ratio is None:
            raise ModelError(
                f"node {node.name or node.output[0]!r} (Dropout): its ratio {node.input[1]!r} is computed, expected a "
                "constant; state the probability (dropout=)"
            )
        p = float(own) if ratio is None and own is not None else float(ratio or 0.0)
        if not 0 <= p < 1:
            raise ModelError(
                f"node {node.name or node.output[0]!r} (Dropout): ratio expected from 0 up to, not with, 1, found {p}"
            )
        if p == 0.0:
            tape.op("Identity", node.input[0], name=node.output[0], like=node.input[0])
            if len(node.output) > 1 and node.output[1]:
                every = tape.constant(np.asarray(True), "every")
                tape.op("Expand", every, tape.shape_of(node.input[0]), name=node.output[1])
            continue
        if SEED not in tape.types:
            forward.data.append(helper.make_tensor_value_info(SEED, T.INT64, []))
            tape.types[SEED], tape.shapes[SEED] = T.INT64, ()
        mask = dropout_mask(tape, node.input[0], p, index)
        scaled = tape.mul(mask, 1 / (1 - p))
        tape.op("Mul", node.input[0], scaled, name=node.output[0], like=node.input[0])
        if len(node.output) > 1 and node.output[1]:
            tape.op("Cast", mask, name=node.output[1], like=mask, to=T.BOOL)


def rename_inner(proto: onnx.ModelProto, reserved: Collection[str]) -> dict[str, str]:
    """Give inner values whose names may be the training graph's others; old name -> new, outputs included.

    reserved: the graph's own names; ``<name>.0`` counts as ``<name>``, and a tensor's ``.new``, ``.grad`` and
    slots are reserved as well.
    """
    tensors = {i.name for i in (*proto.graph.initializer, *proto.graph.input)}
    taken = tensors | {o for n in proto.graph.node for o in n.output}
    new: dict[str, str] = {}
    for name in [o for n in proto.graph.node for o in n.output]:
        stem, _, end = name.rpartition(".")
        own = name.partition(".")[0] in reserved or end in ("new", "grad") or stem in tensors
        if own or name.startswith("optexport/"):
            made = f"model/{name}"
            while made in taken:
                made += "_"
            taken.add(made)
            new[name] = made
    if new:
        _rename(proto.graph, new)
    return new


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    for node in graph.node:
        for held in (node.input, node.output):
            for i, name in enumerate(held):
                held[i] = new.get(name, name)
        for a in node.attribute:
            for inner in (*a.graphs, *([a.g] if a.HasField("g") else [])):
                own = {v.name for v in (*inner.input, *inner.initializer)}
                own |= {o for n in inner.node for o in n.output}
                _rename(inner, {k: v for k, v in new.items() if k not in own})
    for value in (*graph.output, *graph.value_info):
        value.name = new.get(value.name, value.name)
