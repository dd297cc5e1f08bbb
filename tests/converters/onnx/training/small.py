"""A small net with batch normalisation and max pooling, as an ONNX graph and in torch, with the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

SHAPES = {
    "conv.weight": (4, 2, 3, 3),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "norm.running_mean": (4,),
    "norm.running_var": (4,),
    "head.weight": (3, 16),
    "head.bias": (3,),
}
PARAMS = [n for n in SHAPES if "running" not in n]
BUFFERS = [n for n in SHAPES if "running" in n]
OPTIONS = {"batch_norm": "train"}
LOSS = "softmax_cross_entropy"


def values(dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    held = {n: rng.standard_normal(s) * 0.3 for n, s in SHAPES.items()}
    held["norm.weight"] = held["norm.weight"] + 1
    held["norm.running_mean"], held["norm.running_var"] = np.zeros(4), np.ones(4)
    return {n: a.astype(dtype) for n, a in held.items()}


def model(dtype: str = "float32", opset: int = 18) -> onnx.ModelProto:
    kind = {"float32": T.FLOAT, "float64": T.DOUBLE}[dtype]
    norm = [f"norm.{s}" for s in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", *norm], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", kind, ["N", 2, 4, 4])],
        [helper.make_tensor_value_info("y", kind, ["N", 3])],
        [numpy_helper.from_array(a, n) for n, a in values(dtype).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def batches(n: int, dtype: str = "float32") -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [(rng.standard_normal((6, 2, 4, 4)).astype(dtype), rng.integers(0, 3, 6)) for _ in range(n)]


def module() -> Any:
    """The same net in torch, from the same values."""
    import torch
    from torch import nn

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(4)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.norm(self.conv(x)))
            return self.head(nn.functional.max_pool2d(h, 2).flatten(1))

    made = Small()
    made.load_state_dict({n: torch.from_numpy(a) for n, a in values().items()}, strict=False)
    return made
