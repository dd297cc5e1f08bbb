"""Models, artifacts and samples for the tests of ONNX' files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

DATA = Path(__file__).parents[2] / "data"
# Each has more than 64 bytes: smaller tensors stay in the file, external data or not.
SHAPES = {"layers.10": (20,), "layers.2": (5, 7)}
LR = 0.02
ATTRIBUTES = {
    "alpha": 0.8,
    "beta": 0.97,
    "epsilon": 1e-7,
    "weight_decay": 0.05,
    "adam_mode": 0,
    "correct_bias": 1,
}


def samples(folder: str) -> list[dict[str, Any]]:
    return list(json.loads((DATA / folder / "expected.json").read_text())["samples"])


def sha256(array: np.ndarray) -> str:
    """Over the little-endian C-order bytes, as in expected.json."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(100 + step)
    return {n: (0.1 * rng.standard_normal(s)).astype(np.float32) for n, s in SHAPES.items()}


def special(shape: tuple[int, ...]) -> np.ndarray:
    """Float32 whose bits a cast would change: NaNs with payloads, denormals, signed zeros, infinities."""
    bits = np.array(
        [0x7FC12345, 0xFFA00001, 0x00000001, 0x807FFFFF, 0x80000000, 0x7F800000, 0x3F800001], np.uint32
    )
    return np.resize(bits, shape).view(np.float32)


def linear_model() -> onnx.ModelProto:
    """The loss is the sum of parameter times input, so that each gradient is the input itself."""
    held = {**weights(), "frozen": np.full(1, 0.5, np.float32)}
    nodes, terms = [], []
    for i, name in enumerate(SHAPES):
        nodes += [
            helper.make_node("Mul", [name, f"x{i}"], [f"p{i}"]),
            helper.make_node("ReduceSum", [f"p{i}"], [f"s{i}"], keepdims=0),
        ]
        terms.append(f"s{i}")
    nodes += [
        helper.make_node("Add", terms, ["sum"]),
        helper.make_node("Squeeze", ["frozen"], ["f"]),
        helper.make_node("Add", ["sum", "f"], ["loss"]),
    ]
    inputs = [helper.make_tensor_value_info(f"x{i}", T.FLOAT, s) for i, s in enumerate(SHAPES.values())]
    graph = helper.make_graph(
        nodes,
        "linear",
        inputs,
        [helper.make_tensor_value_info("loss", T.FLOAT, [])],
        [numpy_helper.from_array(a, n) for n, a in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)


def make_artifacts(folder: Path, optimizer: str = "AdamW", **attributes: Any) -> Path:
    """The training API's four files for `linear_model`; attributes of the optimizer's node are set."""
    artifacts = pytest.importorskip(
        "onnxruntime.training.artifacts", reason="needs ONNX Runtime's training build"
    )
    folder.mkdir()
    artifacts.generate_artifacts(
        linear_model(),
        requires_grad=list(SHAPES),
        frozen_params=["frozen"],
        optimizer=artifacts.OptimType[optimizer],
        artifact_directory=folder,
    )
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        model.ir_version = min(model.ir_version, 9)  # the onnx package may write newer than the runtime reads
        if path.name == "optimizer_model.onnx":
            for node in model.graph.node:
                for a in node.attribute:
                    if a.name in attributes:
                        a.CopyFrom(helper.make_attribute(a.name, attributes[a.name]))
        onnx.save(model, path)
    return folder


class Run:
    """A run of the training API that starts from a checkpoint."""

    def __init__(self, folder: Path, checkpoint: Path, lr: float = LR) -> None:
        from onnxruntime.training import api

        self.api = api
        self.state = api.CheckpointState.load_checkpoint(checkpoint)
        self.module = api.Module(folder / "training_model.onnx", self.state, folder / "eval_model.onnx")
        self.optimizer = api.Optimizer(folder / "optimizer_model.onnx", self.module)
        self.optimizer.set_learning_rate(lr)

    def steps(self, first: int, count: int) -> Run:
        self.module.train()
        for step in range(first, first + count):
            self.module(*gradients(step).values())
            self.optimizer.step()
            self.module.lazy_reset_grad()
        return self

    def save(self, path: Path) -> Path:
        self.api.CheckpointState.save_checkpoint(self.state, path, include_optimizer_state=True)
        return path
