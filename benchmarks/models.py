"""The models of the training benchmarks: each in PyTorch, and as an ONNX graph with the same parameters.

    mlp            784-512-512-10, batch 64
    cnn            three 3×3 convolutions (one of stride 2, one of 4 groups), two batch normalisations in
                   training mode, one max pooling; batch 64 of 1×28×28
    transformer    two pre-norm encoder layers of width 64 with 4 heads, an embedding of 1000 words,
                   exact GELU, the mean over 32 places; batch 32

The graphs are written by hand as PyTorch's exporter writes them, so that a benchmark needs no exporter and
every parameter keeps its name. Their operator sets are those for which ONNX Runtime's CUDA provider has had
every kernel for years (``Pad``, ``MaxPool`` and others of newer sets came to it late).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

__all__ = ["MODELS", "Model"]

OPSET, WITH_GELU = 18, 20
CLASSES = 10
WIDTH, HEADS, LENGTH, WORDS, LAYERS = 64, 4, 32, 1000, 2


@dataclass(frozen=True)
class Model:
    """One model.

    module: a torch module with its parameters as torch draws them. graph: (values by name, batch) -> the
    forward model; batch a number, or a symbol. batch: (generator, size) -> (input, label).
    options: of ``ox.training_graph``. size: of the benchmark's batch.
    """

    name: str
    size: int
    module: Callable[[], Any]
    graph: Callable[[Mapping[str, np.ndarray], int | str], onnx.ModelProto]
    batch: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    options: Mapping[str, Any] = field(default_factory=dict)

    def values(self, module: Any) -> dict[str, np.ndarray]:
        """Parameters and running statistics of a torch module, copied, by name."""
        held = {n: v.detach().cpu().numpy().copy() for n, v in module.state_dict().items()}
        return {n: v for n, v in held.items() if not n.endswith("num_batches_tracked")}


class _Writer:
    """Nodes of one graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        out = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(map(str, values))
        self.constants[name] = np.asarray(values, np.int64)
        return name

    def number(self, value: float) -> str:
        """A node: a single number among the initializers might be a parameter."""
        return self("Constant", value=numpy_helper.from_array(np.asarray(value, np.float32)))

    def linear(self, x: str, name: str, out: str | None = None) -> str:
        """On the last axis of any rank: what the exporter makes of ``torch.nn.Linear``."""
        turned = self("Transpose", f"{name}.weight", perm=[1, 0])
        return self("Add", self("MatMul", x, turned), f"{name}.bias", name=out)

    def model(
        self,
        values: Mapping[str, np.ndarray],
        kind: int,
        shape: list[int | str],
        batch: int | str,
        opset: int = OPSET,
    ) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", kind, shape)
        y = helper.make_tensor_value_info("y", T.FLOAT, [batch, CLASSES])
        held = [numpy_helper.from_array(a, n) for n, a in {**values, **self.constants}.items()]
        graph = helper.make_graph(self.nodes, "forward", [x], [y], held)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(made)
        return made


def _mlp_module() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES)
    )


def _mlp_graph(values: Mapping[str, np.ndarray], batch: int | str) -> onnx.ModelProto:
    w = _Writer()
    h = "x"
    for i in ("0", "2", "4"):
        last = i == "4"
        h = w("Gemm", h, f"{i}.weight", f"{i}.bias", transB=1, name="y" if last else None)
        h = h if last else w("Relu", h)
    return w.model(values, T.FLOAT, [batch, 784], batch)


def _cnn_module() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 49, CLASSES),
    )  # fmt: skip


def _cnn_graph(values: Mapping[str, np.ndarray], batch: int | str) -> onnx.ModelProto:
    w = _Writer()

    def conv(h: str, i: int, stride: int = 1, groups: int = 1) -> str:
        return w(
            "Conv", h, f"{i}.weight", f"{i}.bias", kernel_shape=[3, 3], pads=[1] * 4,
            strides=[stride] * 2, group=groups, dilations=[1, 1],
        )  # fmt: skip

    def norm(h: str, i: int) -> str:
        names = [f"{i}.{s}" for s in ("weight", "bias", "running_mean", "running_var")]
        return w("Relu", w("BatchNormalization", h, *names, epsilon=1e-5, momentum=0.9))

    h = norm(conv("x", 0), 1)
    h = norm(conv(h, 3, stride=2), 4)
    h = w("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    h = w("Flatten", w("Relu", conv(h, 7, groups=4)), axis=1)
    w("Gemm", h, "10.weight", "10.bias", transB=1, name="y")
    return w.model(values, T.FLOAT, [batch, 1, 28, 28], batch)


def _transformer_module() -> Any:
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            n = self.norm1(x)
            q, k, v = (
                f(n).reshape(-1, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
                for f in (self.q, self.k, self.v)
            )
            a = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5, -1)
            x = x + self.o((a @ v).transpose(1, 2).reshape(-1, LENGTH, WIDTH))
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(WORDS, WIDTH)
            self.place = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Any) -> Any:
            h = self.embed(x) + self.place
            for layer in self.layers:
                h = layer(h)
            return self.head(self.norm(h).mean(1))

    return Encoder()


def _transformer_graph(values: Mapping[str, np.ndarray], batch: int | str) -> onnx.ModelProto:
    w = _Writer()

    def norm(h: str, name: str) -> str:
        return w("LayerNormalization", h, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=1e-5)

    def heads(h: str, name: str) -> str:
        parted = w("Reshape", w.linear(h, name), w.ints(-1, LENGTH, HEADS, WIDTH // HEADS))
        return w("Transpose", parted, perm=[0, 2, 1, 3])

    h = w("Add", w("Gather", "embed.weight", "x", axis=0), "place")
    for i in range(LAYERS):
        at = f"layers.{i}"
        n = norm(h, f"{at}.norm1")
        q, k, v = (heads(n, f"{at}.{s}") for s in "qkv")
        score = w(
            "Mul", w("MatMul", q, w("Transpose", k, perm=[0, 1, 3, 2])), w.number((WIDTH // HEADS) ** -0.5)
        )
        mixed = w("Transpose", w("MatMul", w("Softmax", score, axis=-1), v), perm=[0, 2, 1, 3])
        h = w("Add", h, w.linear(w("Reshape", mixed, w.ints(-1, LENGTH, WIDTH)), f"{at}.o"))
        up = w("Gelu", w.linear(norm(h, f"{at}.norm2"), f"{at}.up"))
        h = w("Add", h, w.linear(up, f"{at}.down"))
    mean = w("ReduceMean", norm(h, "norm"), w.ints(1), keepdims=0)
    w("Gemm", mean, "head.weight", "head.bias", transB=1, name="y")
    return w.model(values, T.INT64, [batch, LENGTH], batch, WITH_GELU)


def _images(*shape: int) -> Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]:
    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.standard_normal((n, *shape), np.float32), rng.integers(0, CLASSES, n)

    return draw


def _sentences(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, WORDS, (n, LENGTH)), rng.integers(0, CLASSES, n)


MODELS = {
    m.name: m
    for m in (
        Model("mlp", 64, _mlp_module, _mlp_graph, _images(784)),
        Model("cnn", 64, _cnn_module, _cnn_graph, _images(1, 28, 28), {"batch_norm": "train"}),
        Model("transformer", 32, _transformer_module, _transformer_graph, _sentences),
    )
}
