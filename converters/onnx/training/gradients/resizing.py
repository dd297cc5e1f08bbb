"""Resizing: every mode is a fixed matrix along each axis."""

from __future__ import annotations

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ..backward import Gradients, Op, gradient

__all__: list[str] = []


@gradient("Resize")
def resize(op: Op, g: str) -> Gradients:
    """The transposed matrix of each axis; whole-number copies of the nearest element are summed instead."""
    t = op.tape
    rest = tuple(None for _ in op.inputs[1:])
    for axis, (n, m) in enumerate(_sizes(op)):
        if n is None or m is None:
            continue
        matrix = _matrix(op, axis, n, m)
        if np.array_equal(matrix, np.eye(n)):
            continue
        if m % n == 0 and np.array_equal(matrix, np.repeat(np.eye(n), m // n, axis=0)):
            g = _sum_copies(op, g, axis, n, m // n)
        else:
            g = _product(op, g, axis, matrix)
    return (t.reshape_like(g, op.x), *rest)


def _sizes(op: Op) -> list[tuple[int | None, int | None]]:
    """(size before, size after) of every axis; None for one that keeps its unknown size."""
    found: list[tuple[int | None, int | None]] = []
    shape, out = op.shape(), op.tape.shapes.get(op.y)
    for i in range(op.rank()):
        n, m = (s[i] if s is not None else None for s in (shape, out))
        if isinstance(n, int) and isinstance(m, int):
            found.append((n, m))
        elif _keeps(op, i) or (n is not None and n == m):
            found.append((None, None))
        else:
            raise op.error(f"axis {i} has an unknown size, expected known ones for what it resizes")
    return found


def _axes(op: Op) -> list[int]:
    given = op.attribute("axes")
    return [int(a) % op.rank() for a in given] if given is not None else list(range(op.rank()))


def _keeps(op: Op, axis: int) -> bool:
    axes = _axes(op)
    if axis not in axes:
        return True
    return bool(op.input(2)) and float(np.atleast_1d(op.constant(2))[axes.index(axis)]) == 1.0


def _matrix(op: Op, axis: int, n: int, m: int) -> np.ndarray:
    """[m, n], found by resizing the unit vectors by ONNX' own definition."""
    axes = _axes(op)
    if axis not in axes:
        return np.eye(n)
    i, k = axes.index(axis), len(axes)
    kept = {a.name: helper.get_attribute_value(a) for a in op.proto.attribute if a.name != "axes"}
    policy = kept.pop("keep_aspect_ratio_policy", b"stretch")
    inputs: dict[str, np.ndarray] = {"x": np.eye(n)}
    if op.input(1):
        region = op.constant(1)
        whole = np.asarray([0, 1], np.float32)
        inputs["roi"] = np.asarray(region, np.float32)[[i, i + k]] if np.size(region) else whole
        crops = op.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        if crops and n == m and list(inputs["roi"]) != [0, 1]:
            raise op.error(
                f"axis {axis} is cropped and keeps its size, which runtimes do not agree on; use Slice"
            )
    by_scale = bool(op.input(2)) or policy != b"stretch"
    if by_scale:
        scale = float(np.atleast_1d(op.constant(2))[i]) if op.input(2) else _ratio(op, policy)
        inputs["scales"] = np.asarray([scale], np.float32)
    else:
        inputs["sizes"] = np.asarray([m], np.int64)
    names = [name if name in inputs else "" for name in ("x", "roi", "scales", "sizes")]
    while not names[-1]:
        names.pop()
    node = helper.make_node("Resize", names, ["y"], axes=[1], **kept)
    graph = helper.make_graph(
        [node],
        "axis",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for name, a in inputs.items()],
        [helper.make_tensor_value_info("y", 11, None)],
    )  # fmt: skip
    evaluator = ReferenceEvaluator(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", op.tape.opset)], ir_version=10)
    )
    # What is filled in outside of the image does not depend on it.
    filled, unit = (evaluator.run(["y"], {**inputs, "x": x}) for x in (np.zeros((n, n)), np.eye(n)))
    matrix: np.ndarray = (np.asarray(unit[0]) - np.asarray(filled[0])).T  # type: ignore[index]
    if matrix.shape != (m, n):
        raise op.error(f"axis {axis}: expected size {m}, found {matrix.shape[0]}")
    return matrix


def _ratio(op: Op, policy: bytes) -> float:
    """The one scale of all axes where sizes are bounds (keep_aspect_ratio_policy)."""
    shape = op.shape() or ()
    ratios = [float(s) / int(shape[a] or 1) for a, s in zip(_axes(op), op.constant(3), strict=True)]
    return min(ratios) if policy == b"not_larger" else max(ratios)


def _sum_copies(op: Op, g: str, axis: int, n: int, copies: int) -> str:
    t = op.tape
    dims = [d if isinstance(d, int) else t.dim(g, i) for i, d in enumerate(t.shapes[g])]
    apart = t.reshape(g, (*dims[:axis], n, copies, *dims[axis + 1 :]))
    return t.reduce("ReduceSum", apart, [axis + 1], keep=False)


def _product(op: Op, g: str, axis: int, matrix: np.ndarray) -> str:
    """g contracted with the matrix along an axis."""
    t = op.tape
    rank = op.rank()
    held = t.constant(matrix.astype(t.dtype(g)), "resize")
    last = [*(i for i in range(rank) if i != axis), axis]
    moved = g if axis == rank - 1 else t.transpose(g, last)
    out = t.op("MatMul", moved, held)
    t.shapes[out] = (*t.shapes[moved][:-1], matrix.shape[1])
    return out if axis == rank - 1 else t.transpose(out, [int(i) for i in np.argsort(last)])
