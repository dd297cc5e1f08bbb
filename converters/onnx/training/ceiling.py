"""Pooling whose last window may reach past the image (``ceil_mode``), where ONNX and its runtime differ.

The runtime, as PyTorch, leaves out a window that would start behind the image; ONNX' shape inference
counts it, and every shape after it would be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from optexport.errors import ModelError

from .tape import Tape

__all__ = ["round_windows_down"]


def round_windows_down(nodes: Sequence[onnx.NodeProto], tape: Tape) -> bool:
    """Switch ``ceil_mode`` off in place where it adds no window; whether a node has changed.

    Raises:
        ModelError: one axis has a window more and another one that is left out: no plain node says that.
    """
    changed = False
    for node in nodes:
        if node.op_type not in ("AveragePool", "MaxPool", "LpPool"):
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        sizes = tape.shapes.get(node.input[0], ())[2:]
        if not given.get("ceil_mode") or not sizes or not all(isinstance(n, int) for n in sizes):
            continue
        counts = [_counts(i, int(n or 0), len(sizes), given) for i, n in enumerate(sizes)]
        if all(up == kept for up, kept, _ in counts):
            continue
        if any(kept != down for _, kept, down in counts):
            raise ModelError(
                f"node {node.name or node.output[0]!r} ({node.op_type}): ceil_mode adds a window along one axis and "
                "leaves one out along another, expected one of the two; pad explicitly, with ceil_mode=0"
            )
        for a in [a for a in node.attribute if a.name == "ceil_mode"]:
            node.attribute.remove(a)
        changed = True
    return changed


def _counts(axis: int, n: int, rank: int, given: dict[str, object]) -> tuple[int, int, int]:
    """Windows along an axis: rounded up, those of them that start in the image or before, rounded down."""

    def entry(name: str, i: int, default: int) -> int:
        held = given.get(name)
        return int(held[i]) if isinstance(held, (list, tuple)) else default

    stride = entry("strides", axis, 1)
    begin, end = entry("pads", axis, 0), entry("pads", axis + rank, 0)
    reach = entry("dilations", axis, 1) * (entry("kernel_shape", axis, 1) - 1) + 1
    room = n + begin + end - reach
    up, down = -(-room // stride) + 1, room // stride + 1
    kept = up - 1 if (up - 1) * stride >= n + begin else up
    return up, kept, down
