"""State in a model's TrainingInfoProto: the operators of ``ai.onnx.preview.training``.

The algorithm graph has one node for some parameters; its inputs are R, T, then all parameters, all
gradients and all of each slot, and its outputs the same without R, T and gradients. Which tensor is
which follows from that order, what replaces it from ``update_binding``. Hyperparameters are the node's
attributes. Source: onnx/defs/training/defs.cc; onnx/onnx.proto, TrainingInfoProto.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optexport import __version__
from optexport.dialects import Native
from optexport.errors import CheckpointError, NamingError
from optexport.state.files import whole_or_nothing
from optexport.state.native import NativeGroup, NativeState

from . import _protobuf as pb
from ._model import TYPES, Model, Node, Tensor
from ._own_training_info import SPEC, read_own
from .dialect import OPTIMIZERS

__all__ = ["FORMAT", "NEXT_T", "read_state", "write_state"]

FORMAT = "onnx-training-info"
# Key of `NativeState.extras`: parameter -> the T of its next update.
NEXT_T = "T"
DOMAIN = "ai.onnx.preview.training"
# What T counts in a model that this wrote; others' may have started at 0 or at 1.
COUNTS, COMPLETED = "optexport.T", "completed updates"
ENTRIES = {e.name: e for e in OPTIMIZERS if e.framework == "onnx"}
_DEEP = 16


def read_state(path: str) -> NativeState:
    """The state in ``path``; slots are called V and H as in the operators' own description.

    A model that `training_info.build_training_info` made has the rule's own slots: see `_own_training_info`.

    ``extras["T"]`` has the T of each parameter's next update, from which the dialect counts completed
    ones. The argument ``t0`` is there where the graph shows whether T is counted up before or after
    an update.

    Raises:
        CheckpointError: damaged, without training information, or with an algorithm that has no such
            operator.
    """
    model = Model(path)
    if not model.training:
        raise CheckpointError(
            f"{path}: is an update graph, which holds no state; open the bundle that belongs to it"
            if SPEC in model.metadata
            else f"{path}: holds no optimizer state (training_info); pass it as weights (--model)"
        )
    if SPEC in model.metadata:
        return read_own(model)
    out = NativeState("onnx", FORMAT, named=True, ordered=False)
    main = model.main()
    read = _Reader(model, {n: t for n, t in main.tensors.items() if t.is_number}, out)
    for info in model.training:
        for data in info.get(2, []):
            read.algorithm(model.fields.bytes_of(data, "algorithm"), model.bindings(info.get(4, [])))
    if out.optimizer is None:
        raise CheckpointError(
            f"{path}: expected a node {', '.join(ENTRIES)} of {DOMAIN} in the training algorithm, found none"
        )
    listed = [p for g in out.groups for p in g.params]
    out.weights = {p: read.initial[p].array for p in listed if p in read.initial}
    first = {p: int(g.arguments.get("t0", 0)) for g in out.groups for p in g.params}
    out.steps = {
        p: n - first[p] if (n := out.extras.get(NEXT_T, {}).get(p)) is not None else None for p in listed
    }
    if any("t0" not in g.arguments for g in out.groups) and out.extras.get(NEXT_T):
        out.warnings.append(
            "the file does not say which T its first update had; completed updates are T, counted from 0 "
            "(--hyper t0=1 where it was 1)"
        )
    return out


class _Reader:
    """Collects the optimizer nodes of one model."""

    def __init__(self, model: Model, initial: Mapping[str, Tensor], out: NativeState) -> None:
        self.model, self.out = model, out
        self.initial = dict(initial)
        self.made: dict[str, Node] = {}
        self.bound: Mapping[str, str] = {}

    def fail(self, what: str) -> Any:
        raise CheckpointError(f"{self.model.path}: {what}")

    def algorithm(self, data: memoryview, bound: Mapping[str, str]) -> None:
        graph = self.model.graph(data, nodes=True)
        twice = set(graph.tensors) & set(self.initial)
        if twice:
            self.fail(f"tensor {min(twice)!r} stands in the model and in its algorithm; expected it once")
        self.initial |= graph.tensors
        self.bound = bound
        self.made = {o: n for n in graph.nodes for o in n.outputs if o}
        for node in graph.nodes:
            if node.domain == DOMAIN and node.op in ENTRIES:
                self._optimizer(node, ENTRIES[node.op])

    def _optimizer(self, node: Node, entry: Native) -> None:
        if self.out.optimizer not in (None, node.op):
            self.fail(f"expected one optimizer, found {self.out.optimizer} and {node.op}")
        self.out.optimizer = node.op
        slots = [n for n, _ in entry.slots]
        each, rest = divmod(len(node.inputs) - 2, 2 + len(slots))
        if rest or each < 1 or len(node.outputs) != each * (1 + len(slots)):
            self.fail(
                f"{node.op} has {len(node.inputs)} inputs and {len(node.outputs)} outputs; expected R, T, then as many "
                f"parameters, gradients and {' and '.join(slots)}, and new values of all but the gradients"
            )
        columns = [node.inputs[2 + i * each : 2 + (i + 1) * each] for i in range(2 + len(slots))]
        params, held = columns[0], dict(zip(slots, columns[2:], strict=True))
        self._check_bound([*params, *(n for c in columns[2:] for n in c)], node.outputs)
        arguments, step = self._arguments(node, entry)
        for i, param in enumerate(params):
            if not param or param in self.out.slots:
                self.fail(f"parameter {param!r} is updated twice")
            self.out.slots[param] = {s: self._tensor(c[i], f"{param!r}, slot {s}") for s, c in held.items()}
            if step is not None:
                self.out.extras.setdefault(NEXT_T, {})[param] = step
        group = next((g for g in self.out.groups if g.arguments == arguments), None)
        if group is None:
            self.out.groups.append(NativeGroup(arguments, list(params)))
        else:
            group.params += params

    def _check_bound(self, names: Iterable[str], outputs: Iterable[str]) -> None:
        """What an update makes must be what replaces its input, else the file is no running state."""
        for name, output in zip(names, outputs, strict=True):
            if self.bound.get(name, output) != output:
                self.fail(
                    f"update_binding replaces {name!r} by {self.bound[name]!r}; expected the update's {output!r}"
                )

    def _tensor(self, name: str, what: str) -> np.ndarray:
        if name not in self.initial:
            self.fail(
                f"parameter {what}: expected the initializer {name!r}, found none; the state is not in this file"
            )
        return self.initial[name].array

    def _arguments(self, node: Node, entry: Native) -> tuple[dict[str, Any], int | None]:
        """Arguments, and the T of the next update, as far as the file tells them."""
        out: dict[str, Any] = {}
        for name in entry.arguments:
            if name in node.attributes:
                out[name] = _plain(node.attributes[name])
            elif name not in ("lr", "t0"):
                out[name] = entry.arguments[name]  # the operator's own defaults
        unknown = set(node.attributes) - set(entry.arguments)
        if unknown:
            self.fail(f"{node.op} has the attribute {min(unknown)!r}; expected {', '.join(entry.arguments)}")
        rate = self._value(node.inputs[0])
        if rate is not None:
            out["lr"] = _plain(rate)
        step = self._value(node.inputs[1])
        if step is not None and (int(step) != step or not 0 <= step < 1 << 62):
            self.fail(f"T is {step}; expected a whole number ≥ 0")
        if self._counted_before(node.inputs[1]):
            out["t0"] = 1
        elif self.model.metadata.get(COUNTS) == COMPLETED:
            out["t0"] = 0
        return out, None if step is None else int(step)

    def _counted_before(self, name: str) -> bool:
        """Whether T is a state plus one: completed updates are counted up before they are made."""
        made = self.made.get(name)
        return (
            made is not None
            and made.op == "Add"
            and not made.domain
            and any(self.bound.get(i) == name for i in made.inputs)
        )

    def _value(self, name: str, depth: int = 0) -> Any:
        """The number that a tensor is at the next step; None where the file does not tell."""
        if name in self.initial:
            array = self.initial[name].array
            if array.size != 1:
                self.fail(f"{name!r} has the shape {list(array.shape)}; expected one number")
            return array.reshape(())[()]
        node = self.made.get(name)
        if node is None or node.domain or depth > _DEEP:
            return None
        if node.op == "Constant":
            value = next((v for v in node.attributes.values() if v is not None), None)
            if isinstance(value, Tensor):
                return value.array.reshape(-1)[0] if value.array.size == 1 else None
            return value
        if node.op == "Identity" and len(node.inputs) == 1:
            return self._value(node.inputs[0], depth + 1)
        if node.op == "Add" and len(node.inputs) == 2:
            terms = [self._value(i, depth + 1) for i in node.inputs]
            return None if None in terms else terms[0] + terms[1]
        return None


def _plain(value: Any) -> float | int | str:
    """A Python value; a float32 as the shortest decimal that it is, since the rule rounds it again."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value  # type: ignore[no-any-return]


# -- writing --------------------------------------------------------------------------------------


@dataclass
class _Lane:
    """Parameters of one node: one group at one step, of one dtype."""

    group: NativeGroup
    step: int
    dtype: np.dtype[Any]
    params: list[str]


def write_state(state: NativeState, path: str, *, external_above: int = 1_800 << 20) -> None:
    """Write a model whose graph holds the parameters and whose training information updates them.

    The gradients are inputs of the algorithm, called ``<param>.grad``; the model itself is not known
    here. A tensor ``T.<i>`` counts completed updates.

    external_above: with more bytes of tensors than this they go to a file beside it (protobuf ends at
        2 GiB).

    Raises:
        CheckpointError: no values of a parameter, or a dtype that the operators do not take.
        NamingError: a parameter has the name that one of these tensors gets.
    """
    entry = ENTRIES[str(state.optimizer)]
    lanes = _lanes(state, [n for n, _ in entry.slots], path)
    outside = _Outside(path)
    arrays = [*state.weights.values(), *(a for s in state.slots.values() for a in s.values())]
    if sum(a.nbytes for a in arrays) > external_above:
        outside.start()
    parts = _model(state, entry, lanes, outside)
    with whole_or_nothing(path) as file:
        for part in parts:
            file.write(part.data if isinstance(part, np.ndarray) else part)
        if outside.arrays:
            # A name that no file has: the model which stands here until the end keeps its own data.
            with whole_or_nothing(outside.path) as data:
                for array in outside.arrays:
                    data.write(array.data)


class _Outside:
    """Tensors that go to a file beside the model, and its name; none until `start`."""

    def __init__(self, model: str) -> None:
        self.model, self.name, self.at = model, "", 0
        self.arrays: list[np.ndarray] = []

    @property
    def path(self) -> str:
        return os.path.join(os.path.dirname(self.model), self.name)

    def start(self) -> None:
        stem, count = os.path.basename(self.model), 0
        self.name = f"{stem}.data"
        while os.path.lexists(self.path):
            count += 1
            self.name = f"{stem}.{count}.data"

    def values(self, raw: np.ndarray) -> list[pb.Part]:
        """TensorProto's fields for these bytes."""
        if not self.name or raw.size < 64:
            return pb.message(9, [raw])
        where = {"location": self.name, "offset": str(self.at), "length": str(raw.size)}
        self.arrays.append(raw)
        self.at += raw.size
        return [*(p for k, v in where.items() for p in pb.key_value(13, k, v)), *pb.number(14, 1)]


def _lanes(state: NativeState, slots: Iterable[str], path: str) -> list[_Lane]:
    out: list[_Lane] = []
    for group in state.groups:
        held: dict[tuple[int, np.dtype[Any]], list[str]] = {}
        for param in group.params:
            if param not in state.weights:
                raise CheckpointError(
                    f"{path}: parameter {param!r}: expected its values, which are part of this file, found none; "
                    "pass the weights (--model)"
                )
            arrays = {"values": state.weights[param], **state.slots.get(param, {})}
            kinds = {s: a.dtype.newbyteorder("=") for s, a in arrays.items()}
            wrong = [
                s for s, k in kinds.items() if k != kinds["values"] or k.name not in ("float32", "float64")
            ]
            if wrong:
                raise CheckpointError(
                    f"{path}: parameter {param!r}: the operators take float32 or float64, the same for parameter and "
                    f"slots; found {', '.join(f'{s} {k.name}' for s, k in kinds.items())}; cast them first"
                )
            other = [s for s, a in arrays.items() if a.shape != state.weights[param].shape]
            if other or set(arrays) - {"values", *slots}:
                raise CheckpointError(
                    f"{path}: parameter {param!r}: expected slots {', '.join(slots)} of its shape "
                    f"{list(state.weights[param].shape)}, found "
                    f"{', '.join(f'{s} {list(a.shape)}' for s, a in arrays.items() if s != 'values')}"
                )
            held.setdefault((state.steps.get(param) or 0, kinds["values"]), []).append(param)
        out += [_Lane(group, step, dtype, params) for (step, dtype), params in held.items()]
    return out


def _tensor(field: int, name: str, array: np.ndarray, outside: _Outside) -> list[pb.Part]:
    kind = array.dtype.newbyteorder("<")
    raw = np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8)
    head: list[pb.Part] = [p for d in array.shape for p in pb.number(1, d)]
    head += pb.number(2, TYPES[kind])
    return pb.message(field, [*head, *pb.text(8, name), *outside.values(raw)])


def _value_info(field: int, name: str, dtype: np.dtype[Any], shape: Iterable[int]) -> list[pb.Part]:
    dims = [p for d in shape for p in pb.message(1, pb.number(1, d))]
    kind = [*pb.number(1, TYPES[dtype.newbyteorder("<")]), *pb.message(2, dims)]
    return pb.message(field, [*pb.text(1, name), *pb.message(2, pb.message(1, kind))])


def _node(
    op: str, inputs: Iterable[str], outputs: Iterable[str], domain: str, **attributes: Any
) -> list[pb.Part]:
    out = [p for i, names in ((1, inputs), (2, outputs)) for n in names for p in pb.text(i, n)]
    out += pb.text(4, op)
    for name, value in attributes.items():
        if isinstance(value, str):
            held = [*pb.text(4, value), *pb.number(20, 3)]
        else:
            held = [*pb.float32(2, value), *pb.number(20, 1)]
        out += pb.message(5, [*pb.text(1, name), *held])
    return pb.message(1, [*out, *(pb.text(7, domain) if domain else [])])


def _model(state: NativeState, entry: Native, lanes: list[_Lane], outside: _Outside) -> list[pb.Part]:
    names: set[str] = set()
    made = _Algorithm(entry, state, outside, names)
    main: list[pb.Part] = pb.text(2, "parameters")
    for lane in lanes:
        for param in lane.params:
            made.claim(param)
            main += _tensor(5, param, state.weights[param], outside)
    for i, lane in enumerate(lanes):
        made.add(str(i), lane)
    algorithm = [*made.nodes, *pb.text(2, "update"), *made.tensors, *made.inputs, *made.outputs]
    bindings = [p for k, v in made.bindings.items() for p in pb.key_value(4, k, v)]
    return [
        *pb.number(1, 8),
        *pb.text(2, "optexport"),
        *pb.text(3, __version__),
        *pb.message(7, main),
        *pb.message(8, [*pb.text(1, ""), *pb.number(2, 17)]),
        *pb.message(8, [*pb.text(1, DOMAIN), *pb.number(2, 1)]),
        *pb.key_value(14, COUNTS, COMPLETED),
        *pb.message(20, [*pb.message(2, algorithm), *bindings]),
    ]


class _Algorithm:
    """The pieces of the algorithm graph."""

    def __init__(self, entry: Native, state: NativeState, outside: _Outside, names: set[str]) -> None:
        self.entry, self.state, self.outside, self.names = entry, state, outside, names
        self.nodes: list[pb.Part] = []
        self.tensors: list[pb.Part] = []
        self.inputs: list[pb.Part] = []
        self.outputs: list[pb.Part] = []
        self.bindings: dict[str, str] = {}

    def claim(self, name: str) -> str:
        if name in self.names:
            raise NamingError(
                f"{self.outside.model}: two tensors would be called {name!r}; rename the parameter (--names)"
            )
        self.names.add(name)
        return name

    def tensor(self, name: str, array: np.ndarray) -> str:
        self.tensors += _tensor(5, self.claim(name), array, self.outside)
        return name

    def bind(self, name: str, dtype: np.dtype[Any], shape: Iterable[int]) -> str:
        """The output that replaces a tensor."""
        output = self.claim(f"{name}.new")
        self.outputs += _value_info(12, output, dtype, shape)
        self.bindings[name] = output
        return output

    def add(self, index: str, lane: _Lane) -> None:
        """The node of one lane, and what counts its updates."""
        arguments = {**self.entry.arguments, **lane.group.arguments}
        rate = self.tensor(f"R.{index}", np.asarray(arguments["lr"], lane.dtype))
        count = self.tensor(f"T.{index}", np.asarray(lane.step, np.int64))
        one = self.tensor(f"one.{index}", np.asarray(1, np.int64))
        counted = self.bind(count, np.dtype(np.int64), ())
        columns: dict[str, list[str]] = {"": [], "grad": []}
        for param in lane.params:
            shape = self.state.weights[param].shape
            columns[""].append(param)
            columns["grad"].append(self.claim(f"{param}.grad"))
            self.inputs += _value_info(11, f"{param}.grad", lane.dtype, shape)
            for slot, _ in self.entry.slots:
                # A parameter that was never updated starts from zeros, as the operators do.
                value = self.state.slots.get(param, {}).get(slot, np.zeros(shape, lane.dtype))
                columns.setdefault(slot, []).append(self.tensor(f"{param}.{slot}", value))
        outputs = [
            self.bind(name, lane.dtype, self.state.weights[param].shape)
            for column in columns
            if column != "grad"
            for name, param in zip(columns[column], lane.params, strict=True)
        ]
        attributes = {
            k: v for k, v in arguments.items() if k in self.entry.arguments and k not in ("lr", "t0")
        }
        inputs = [rate, counted if arguments["t0"] else count, *(n for c in columns.values() for n in c)]
        self.nodes += _node("Add", [count, one], [counted], "")
        self.nodes += _node(self.entry.name, inputs, outputs, DOMAIN, **attributes)
