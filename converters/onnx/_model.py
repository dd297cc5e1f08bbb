"""An ``.onnx`` file without the onnx package: its tensors mapped, its graphs as far as state needs them.

ModelProto: graph 7, metadata_props 14, training_info 20. GraphProto: node 1, initializer 5.
TensorProto: dims 1, data_type 2, segment 3, float_data 4, int32_data 5, int64_data 7, name 8, raw_data 9,
double_data 10, uint64_data 11, external_data 13, data_location 14. Source: onnx/onnx.proto.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file

from ._beside import map_beside
from ._protobuf import Fields, doubles, floats, varints

__all__ = ["DTYPES", "TYPES", "GraphPart", "Model", "Node", "Tensor", "is_model"]

# ONNX' numbering of element types, as far as they are numbers of whole bytes.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    14: np.dtype("<c8"),
    15: np.dtype("<c16"),
    16: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(ml_dtypes.float8_e4m3fn),
    18: np.dtype(ml_dtypes.float8_e4m3fnuz),
    19: np.dtype(ml_dtypes.float8_e5m2),
    20: np.dtype(ml_dtypes.float8_e5m2fnuz),
}
TYPES = {dtype: number for number, dtype in DTYPES.items()}

_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
_SNIFFED_FIELDS = 4096
_MAX_TENSORS = 100_000
_MAX_NODES = 250_000
_MAX_DIMS = 32  # NumPy's limit before its second version
_INT32_HELD = {2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20}


def _looks_like_model(data: memoryview) -> bool:
    """Whether the bytes are fields of a ModelProto, an IR version and a graph among them, to the very end."""
    walker = Fields("")
    walker.left = _SNIFFED_FIELDS
    seen: dict[int, int | memoryview] = {}
    try:
        for number, value in walker.walk(data):
            if number not in _MODEL_FIELDS or isinstance(value, int) != (number in (1, 5)):
                return False
            seen[number] = value
    except CheckpointError:
        return False
    version = seen.get(1)
    return 7 in seen and isinstance(version, int) and 0 < version < 1 << 16


@dataclass
class Node:
    """One node: what it is, what goes in and out, and its attributes as plain values (or a `Tensor`)."""

    op: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass
class GraphPart:
    """Nodes (where they were asked for) and initializers by name."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Model:
    """One model file.

    path: of the file. data: its bytes.

    Raises:
        CheckpointError: the bytes are no model, or are damaged; so does everything that is asked of it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.data = map_file(path)
        self.fields = Fields(path)
        self._external: dict[str, memoryview] = {}
        # Tensors do not share bytes: what they take together is no more than what is there.
        self._left: dict[str, int] = {}
        self._top = self.fields.table(self.data)
        if len(self._top.get(7, [])) != 1:
            self.fields.fail(f"{len(self._top.get(7, []))} graphs; expected one")

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Texts that the model's producer left."""
        out: dict[str, str] = {}
        for value in self._top.get(14, []):
            key, text = self._pair(value, "metadata_props")
            out[key] = text
        return out

    @cached_property
    def training(self) -> list[dict[int, list[int | memoryview]]]:
        """The fields of each TrainingInfoProto."""
        return [self.fields.table(self.fields.bytes_of(v, "training_info")) for v in self._top.get(20, [])]

    def main(self, *, nodes: bool = False) -> GraphPart:
        """The model's own graph; its nodes only where they are asked for."""
        return self.graph(self.fields.bytes_of(self._top[7][0], "graph"), nodes=nodes)

    def graph(self, data: memoryview, *, nodes: bool) -> GraphPart:
        out = GraphPart()
        for number, value in self.fields.walk(data):
            if number == 1 and nodes:
                if len(out.nodes) >= _MAX_NODES:
                    self.fields.fail(f"more than {_MAX_NODES} nodes")
                out.nodes.append(self._node(self.fields.bytes_of(value, "a node")))
            elif number == 5:
                tensor = Tensor(self, self.fields.bytes_of(value, "an initializer"))
                if len(out.tensors) >= _MAX_TENSORS:
                    self.fields.fail(f"more than {_MAX_TENSORS} initializers")
                if tensor.name in out.tensors:
                    self.fields.fail(f"initializer {tensor.name!r} occurs twice")
                out.tensors[tensor.name] = tensor
        return out

    def bindings(self, values: Iterable[int | memoryview]) -> dict[str, str]:
        """Name of a tensor -> the output that replaces it after a step.

        Raises:
            CheckpointError: a name occurs twice.
        """
        out: dict[str, str] = {}
        for value in values:
            key, output = self._pair(value, "update_binding")
            if key in out:
                self.fields.fail(f"update_binding has {key!r} twice")
            out[key] = output
        return out

    def _pair(self, value: int | memoryview, what: str) -> tuple[str, str]:
        held = self.fields.table(self.fields.bytes_of(value, what))
        key, text = (
            self.fields.bytes_of(held[i][-1], what) if i in held else memoryview(b"") for i in (1, 2)
        )
        # Metadata may be long, a name may not.
        return self.fields.text_of(key, what), bytes(text).decode("utf-8", "replace")

    def _node(self, data: memoryview) -> Node:
        f = self.fields
        held = f.table(data)

        def texts(number: int, what: str) -> list[str]:
            return [f.text_of(v, what) for v in held.get(number, [])]

        out = Node(
            (texts(4, "op_type") or [""])[-1],
            (texts(7, "domain") or [""])[-1],
            texts(1, "a node's input"),
            texts(2, "a node's output"),
            {},
        )
        for value in held.get(5, []):
            attribute = f.table(f.bytes_of(value, "an attribute"))
            if 1 in attribute:
                name = f.text_of(attribute[1][-1], "an attribute's name")
                out.attributes[name] = self._attribute(attribute)
        return out

    def _attribute(self, held: dict[int, list[int | memoryview]]) -> Any:
        """A float, int, bytes or tensor; None for what a node of ours does not have."""
        f = self.fields
        if 2 in held:
            data = f.bytes_of(held[2][-1], "an attribute")
            if len(data) != 4:
                f.fail(f"a float attribute of {len(data)} bytes")
            return np.frombuffer(data, "<f4")[0]
        if 3 in held:
            return f.number_of(held[3][-1], "an attribute")
        if 4 in held:
            return bytes(f.bytes_of(held[4][-1], "an attribute")[: 1 << 10])
        if 5 in held:
            return Tensor(self, f.bytes_of(held[5][-1], "an attribute"))
        # A float or int that is 0 may be left out; its type (20) tells.
        kind = f.number_of(held[20][-1], "an attribute's type") if 20 in held else 0
        return {1: np.float32(0), 2: 0, 3: b""}.get(kind)

    def external(self, location: str, what: str) -> memoryview:
        """The bytes of a data file beside the model."""
        if location not in self._external:
            self._external[location] = map_beside(self.path, location, what)
        return self._external[location]

    def take(self, source: str, size: int, available: int, what: str) -> None:
        """Count ``size`` bytes of a source as used."""
        self._left.setdefault(source, available)
        self._left[source] -= size
        if self._left[source] < 0:
            self.fields.fail(f"{what}: tensors have more bytes together than are there; they overlap")


class Tensor:
    """One TensorProto; its values are looked at when they are asked for."""

    def __init__(self, model: Model, data: memoryview) -> None:
        self._model = model
        self._held = model.fields.table(data)
        name = self._held.get(8)
        self.name = model.fields.text_of(name[-1], "an initializer's name") if name else ""
        kind = self._held.get(2)
        self.type = model.fields.number_of(kind[-1], "data_type") if kind else 0

    @property
    def is_number(self) -> bool:
        """Whether its element type is one of `DTYPES`."""
        return self.type in DTYPES

    @cached_property
    def array(self) -> np.ndarray:
        """The values, a read-only view of the file where they are raw.

        Raises:
            CheckpointError: shape, type and bytes do not agree.
        """
        f, what = self._model.fields, f"tensor {self.name!r}"
        if not self.is_number:
            f.fail(f"{what} has data_type {self.type}; expected a number's")
        if 3 in self._held:
            f.fail(f"{what} is a segment of a tensor; expected a whole one")
        dims = [int(d) for d in varints(self._held.get(1, []), f, what).view(np.int64)]
        if len(dims) > _MAX_DIMS or any(d < 0 for d in dims):
            f.fail(f"{what} has the shape {dims[: _MAX_DIMS + 1]}; expected at most {_MAX_DIMS} sizes ≥ 0")
        count = math.prod(dims)
        location = self._held.get(14)
        if location and f.number_of(location[-1], "data_location") == 1:
            values = self._external(count, what)
        elif 9 in self._held:
            raw = f.bytes_of(self._held[9][-1], what)
            self._fits(len(raw), count, what, "raw_data")
            values = np.frombuffer(raw, DTYPES[self.type])
        else:
            values = self._typed(what)
            if values.size != count:
                f.fail(f"{what} of shape {dims} has {values.size} values; expected {count}")
        values.flags.writeable = False
        return values.reshape(dims)

    def _fits(self, found: int, count: int, what: str, where: str) -> None:
        expected = count * DTYPES[self.type].itemsize
        if found != expected:
            self._model.fields.fail(f"{what}: {where} has {found} bytes; its shape needs {expected}")

    def _typed(self, what: str) -> np.ndarray:
        """Values in the field of their type."""
        f, dtype = self._model.fields, DTYPES[self.type]
        if self.type in (1, 14):
            return floats(self._held.get(4, []), f, what).view(dtype)
        if self.type in (11, 15):
            return doubles(self._held.get(10, []), f, what).view(dtype)
        number = 5 if self.type in _INT32_HELD else 7 if self.type == 7 else 11
        # Half precision and 8-bit floats stand there as their bits.
        bits = np.dtype(f"u{dtype.itemsize}") if dtype.kind in "fV" else dtype
        return varints(self._held.get(number, []), f, what, bits).view(dtype)

    def _external(self, count: int, what: str) -> np.ndarray:
        f = self._model.fields
        entries = dict(self._model._pair(v, "external_data") for v in self._held.get(13, []))
        size = count * DTYPES[self.type].itemsize
        start, length = (self._whole(entries, key, what) for key in ("offset", "length"))
        data = self._model.external(entries.get("location", ""), what)
        if length is not None:
            self._fits(length, count, what, "external_data's length")
        start = start or 0
        if start > len(data) or size > len(data) - start:
            f.fail(
                f"{what}: expected {size} bytes at {start} of {entries.get('location')!r}, which has {len(data)}"
            )
        self._model.take(entries["location"], size, len(data), what)
        return np.frombuffer(data[start : start + size], DTYPES[self.type])

    def _whole(self, entries: dict[str, str], key: str, what: str) -> int | None:
        text = entries.get(key)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 19:
            self._model.fields.fail(f"{what}: external_data's {key} is {text[:40]!r}; expected a number ≥ 0")
        return int(text)


def is_model(path: str) -> bool:
    """Whether ``path`` is a model file; False for a folder, and for what cannot be read."""
    if os.path.isdir(path):
        return False
    try:
        return _looks_like_model(map_file(path))
    except CheckpointError:
        return False
