"""Writing nodes: a graph that grows, and what is known of every value in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

__all__ = ["Dims", "Tape", "reads", "same_dims"]

# A dimension: a number, a symbol (equal symbols are equal dimensions), or None where nothing is known.
Dim = int | str | None
Dims = tuple[Dim, ...]


def same_dims(a: Dims | None, b: Dims | None) -> bool:
    """Whether two shapes are known to be equal."""
    return a is not None and b is not None and a == b and None not in a


def reads(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, those that the graphs inside it take from outside included."""
    found = {i for i in node.input if i}
    for a in node.attribute:
        for graph in (*a.graphs, *([a.g] if a.HasField("g") else [])):
            own = {v.name for v in (*graph.input, *graph.initializer)}
            own |= {o for n in graph.node for o in n.output}
            found |= {i for n in graph.node for i in reads(n)} - own
            found |= {o.name for o in graph.output} - own
    return found


class Tape:
    """Nodes in the order they run.

    shapes: value -> dimensions, absent where even their number is unknown. types: value -> ONNX
    element type. constants: value -> array, for initializers that are neither trained nor data.
    opset: version of ``ai.onnx`` that the nodes are of. stored: a node's output -> the value that stands for it
    everywhere else, where that is another one (a rounded one).
    """

    def __init__(self, opset: int, taken: Iterable[str] = ()) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.shapes: dict[str, Dims] = {}
        self.types: dict[str, int] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.stored: dict[str, str] = {}
        self._taken = set(taken)
        self._tried: dict[str, int] = {}
        self._same: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._shape_of: dict[str, str] = {}

    def fresh(self, hint: str) -> str:
        """A name that no value has."""
        name, n = hint, self._tried.get(hint, 1)
        while name in self._taken:
            n += 1
            name = f"{hint}_{n}"
        self._taken.add(name)
        self._tried[hint] = n
        return name

    def op(
        self, kind: str, *inputs: str, name: str | None = None, like: str | None = None, **attributes: Any
    ) -> str:
        """Append a node with one output; the output's name.

        name: of the output. like: a value whose shape and type the output has.
        """
        return self.ops(kind, inputs, [name], like=like, **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str | None],
        *,
        like: str | None = None,
        **attributes: Any,
    ) -> list[str]:
        """Append a node; the names of its outputs, new ones where None stands."""
        names = [self.fresh(f"grad/{kind}") if o is None else o for o in outputs]
        given = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), names, **given))
        for n in names:
            source = like or (inputs[0] if inputs else None)
            if source in self.types:
                self.types[n] = self.types[source]
            if like in self.shapes:
                self.shapes[n] = self.shapes[like]
        return names

    # Constants.

    def constant(self, value: Any, hint: str = "const") -> str:
        """An initializer; equal ones are one."""
        array = np.asarray(value)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._same:
            name = self._same[key] = self.fresh(f"grad/{hint}")
            self.constants[name], self.shapes[name] = array, array.shape
            self.types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        return self._same[key]

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, np.int64), "ints")

    def scalar(self, value: float, like: str) -> str:
        """A number of the element type of ``like``."""
        return self.constant(np.asarray(value, self.dtype(like)), "number")

    def dtype(self, name: str) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self.types.get(name, T.FLOAT))

    # Arithmetic. An operand that is a Python number takes the other's element type.

    def _binary(self, kind: str, a: str | float, b: str | float) -> str:
        like = a if isinstance(a, str) else b
        assert isinstance(like, str)
        names = [x if isinstance(x, str) else self.scalar(x, like) for x in (a, b)]
        out = self.op(kind, *names)
        self.types[out] = self.types.get(like, T.FLOAT)
        shapes = [self.shapes.get(n) for n in names]
        if None not in shapes:
            self.shapes[out] = _broadcast(shapes[0] or (), shapes[1] or ())
        return out

    def add(self, a: str | float, b: str | float) -> str:
        return self._binary("Add", a, b)

    def sub(self, a: str | float, b: str | float) -> str:
        return self._binary("Sub", a, b)

    def mul(self, a: str | float, b: str | float) -> str:
        return self._binary("Mul", a, b)

    def div(self, a: str | float, b: str | float) -> str:
        return self._binary("Div", a, b)

    def compare(self, kind: str, a: str, b: str | float) -> str:
        """``Greater``, ``Less``, ``Equal``, …: a mask."""
        other = b if isinstance(b, str) else self.scalar(b, a)
        out = self.op(kind, a, other, like=a)
        self.types[out] = T.BOOL
        return out

    def where(self, mask: str, a: str | float, b: str | float) -> str:
        like = a if isinstance(a, str) else b
        assert isinstance(like, str)
        names = [x if isinstance(x, str) else self.scalar(x, like) for x in (a, b)]
        out = self.op("Where", mask, *names)
        self.types[out] = self.types.get(like, T.FLOAT)
        if like in self.shapes and mask in self.shapes:
            self.shapes[out] = _broadcast(self.shapes[like], self.shapes[mask])
        return out

    def unary(self, kind: str, x: str, **attributes: Any) -> str:
        return self.op(kind, x, like=x, **attributes)

    def cast(self, x: str, to: int) -> str:
        if self.types.get(x) == to:
            return x
        out = self.op("Cast", x, like=x, to=to)
        self.types[out] = to
        return out

    # Shapes.

    def rank(self, name: str) -> int | None:
        return len(self.shapes[name]) if name in self.shapes else None

    def static(self, name: str) -> tuple[int, ...] | None:
        """The shape where every dimension is a number."""
        shape = self.shapes.get(name)
        if shape is None or not all(isinstance(d, int) for d in shape):
            return None
        return tuple(d for d in shape if isinstance(d, int))

    def shape_of(self, name: str) -> str:
        """The shape as a value: a constant where it is static."""
        static = self.static(name)
        if static is not None:
            return self.ints(*static)
        if name not in self._shape_of:
            out = self._shape_of[name] = self.op("Shape", name)
            self.types[out] = T.INT64
            if name in self.shapes:
                self.shapes[out] = (len(self.shapes[name]),)
        return self._shape_of[name]

    def dim(self, name: str, axis: int) -> str:
        """One dimension as an int64 vector of one."""
        shape = self.shapes.get(name)
        if shape is not None and isinstance(shape[axis], int):
            return self.ints(int(shape[axis] or 0))
        out = self.op("Gather", self.shape_of(name), self.ints(axis), axis=0)
        self.types[out], self.shapes[out] = T.INT64, (1,)
        return out

    def concat_dims(self, parts: Sequence[str]) -> str:
        """int64 vectors end to end; a constant where all are."""
        if all(p in self.constants for p in parts):
            return self.ints(*(int(i) for p in parts for i in self.constants[p]))
        out = self.op("Concat", *parts, axis=0)
        self.types[out], self.shapes[out] = T.INT64, (len(parts),)
        return out

    def reshape(self, x: str, dims: Sequence[int | str]) -> str:
        """dims: numbers (one may be -1), or names of int64 vectors of one."""
        known = all(isinstance(d, int) for d in dims)
        target = self.ints(*(d for d in dims if isinstance(d, int))) if known else self.concat_dims(
            [self.ints(d) if isinstance(d, int) else d for d in dims]
        )  # fmt: skip
        out = self.op("Reshape", x, target)
        self.shapes[out] = tuple(d if isinstance(d, int) and d >= 0 else None for d in dims)
        return out

    def reshape_like(self, x: str, like: str) -> str:
        """``x`` in the shape of ``like``."""
        if same_dims(self.shapes.get(x), self.shapes.get(like)):
            return x
        shape = self.shapes.get(like)
        unknown = [i for i, d in enumerate(shape or ()) if not isinstance(d, int)]
        if shape is not None and len(unknown) <= 1 and 0 not in shape:
            dims = [d if isinstance(d, int) else -1 for d in shape]
            out = self.op("Reshape", x, self.ints(*dims))
        else:
            out = self.op("Reshape", x, self.shape_of(like))
        if shape is not None:
            self.shapes[out] = shape
        return out

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        out = self.op("Transpose", x, perm=list(perm))
        if x in self.shapes:
            self.shapes[out] = tuple(self.shapes[x][i] for i in perm)
        return out

    def expand_like(self, x: str, like: str) -> str:
        return self.op("Expand", x, self.shape_of(like), like=like)

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        """axes: of the result, from 0 on."""
        out = self.op("Unsqueeze", x, self.ints(*axes))
        if x in self.shapes:
            rest = iter(self.shapes[x])
            self.shapes[out] = tuple(
                1 if i in set(axes) else next(rest) for i in range(len(self.shapes[x]) + len(axes))
            )
        return out

    def reduce(self, kind: str, x: str, axes: Sequence[int] | None, keep: bool = True) -> str:
        """``ReduceSum``, ``ReduceMean``, ``ReduceMax`` over axes from 0 on, or over all."""
        inputs = [x] if axes is None else [x, self.ints(*axes)]
        out = self.op(kind, *inputs, keepdims=int(keep))
        shape = self.shapes.get(x)
        if shape is not None:
            gone = set(range(len(shape)) if axes is None else axes)
            self.shapes[out] = tuple(
                1 if i in gone else d for i, d in enumerate(shape) if keep or i not in gone
            )
        return out

    def sum_to(self, g: str, like: str) -> str:
        """The gradient of a broadcast: ``g`` summed to the shape of ``like``."""
        have, want = self.shapes.get(g), self.shapes.get(like)
        if same_dims(have, want):
            return g
        if have is not None and want is not None and None not in have and None not in want:
            extra = len(have) - len(want)
            sums = [i for i, d in enumerate(have) if i < extra or (want[i - extra] == 1 and d != 1)]
            # A symbol against another symbol: only the run knows.
            if all(have[i] == want[i - extra] or want[i - extra] == 1 for i in range(extra, len(have))):
                out = self.reduce("ReduceSum", g, sums) if sums else g
                return self.reshape_like(out, like)
        return self._sum_to_at_run_time(g, like)

    def _sum_to_at_run_time(self, g: str, like: str) -> str:
        """Ones before the target's shape up to the rank of ``g``; axes where the two differ are summed."""
        have, want = self.shape_of(g), self.shape_of(like)
        missing = self.op("Sub", self.op("Shape", have), self.op("Shape", want))
        ones = self.op("Expand", self.ints(1), missing)
        padded = self.op("Concat", ones, want, axis=0)
        differ = self.op("Not", self.op("Equal", padded, have))
        axes = self.op("Squeeze", self.op("NonZero", differ), self.ints(0))
        out = self.op("ReduceSum", g, axes, keepdims=1, noop_with_empty_axes=1)
        out = self.op("Reshape", out, want)
        self.types[out] = self.types.get(g, T.FLOAT)
        if like in self.shapes:
            self.shapes[out] = self.shapes[like]
        return out

    def initializers(self) -> list[onnx.TensorProto]:
        """The constants that a node reads."""
        used = {i for n in self.nodes for i in n.input}
        return [numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n)
                for n, a in self.constants.items() if n in used]  # fmt: skip


def _broadcast(a: Dims, b: Dims) -> Dims:
    n = max(len(a), len(b))
    wide = [(1,) * (n - len(s)) + tuple(s) for s in (a, b)]
    return tuple(_one(x, y) for x, y in zip(*wide, strict=True))


def _one(x: Dim, y: Dim) -> Dim:
    if x == y or y == 1:
        return x
    if x == 1:
        return y
    # A number greater than one decides; two different symbols are equal or one is 1.
    return x if isinstance(x, int) else y if isinstance(y, int) else None
