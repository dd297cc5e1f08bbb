"""Small models of the kinds that people train, and their export. Imports torch and onnxscript."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

BATCH = 6
functional = nn.functional


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class CNN(nn.Module):
    """A strided and a grouped convolution, batch normalisation, overlapping and plain max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 12, (3, 2), padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(12 * 2 * 2, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.features(x), 1))


class Residual(nn.Module):
    """ResNet-18's basic block."""

    def __init__(self, width: int, out: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.act = act()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        return self.act(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """ResNet-18 as it is (stem, four stages of two blocks), only narrow.

    act: SiLU for long runs. ReLU's derivative jumps at 0, and in 50 steps of some 10,000 activations one of them
    comes so near to 0 that two float32 runs are on two sides of it, and go apart from there (PyTorch's from its
    own float64 run, too).
    """

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), act(), nn.MaxPool2d(3, 2, 1)
        )
        widths = (8, 8, 12, 16, 20)
        blocks = []
        for i in range(4):
            blocks += [Residual(widths[i], widths[i + 1], 1 if i == 0 else 2, act)]
            blocks += [Residual(widths[i + 1], widths[i + 1], 1, act)]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class Inverted(nn.Module):
    """MobileNet's inverted residual: expand, depthwise, squeeze and excite, project."""

    def __init__(
        self, width: int, hidden: int, out: int, kernel: int, stride: int, act: type[nn.Module]
    ) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act())
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            act(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(hidden, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, hidden, 1),
            nn.Hardsigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and width == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        y = self.project(y * self.squeeze(y))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.blocks = nn.Sequential(
            Inverted(8, 16, 8, 3, 1, nn.ReLU6), Inverted(8, 24, 12, 5, 2, nn.Hardswish)
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Encoder(nn.Module):
    """Token embedding and PyTorch's own encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)
        with torch.no_grad():  # the layers are copies of one
            for p in self.layers.parameters():
                p.add_(0.05 * torch.randn_like(p))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(x)).mean(1))


class Causal(nn.Module):
    """A GPT-2 block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (
            u.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for u in self.qkv(self.ln1(x)).split(c, 2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(functional.gelu(self.up(self.ln2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A decoder whose head is its embedding; logits are [batch, vocabulary, time]."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.blocks = nn.Sequential(Causal(16, 2), Causal(16, 2))
        self.ln = nn.LayerNorm(16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        return self.head(self.ln(self.blocks(h))).transpose(1, 2)


class ViT(nn.Module):
    """Patches by a convolution, a class token, pre-norm encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, 16))
        self.position = nn.Parameter(0.1 * torch.randn(1, 17, 16))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.ln, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(h.shape[0], -1, -1), h], 1) + self.position
        for layer in self.layers:
            h = layer(h)
        return self.head(self.ln(h)[:, 0])


@dataclass(frozen=True)
class Case:
    """A model, its batches, and what has to be said of its file.

    slower: what learning rates are multiplied by. noise: parts of names of parameters whose exact gradient is 0,
    so that nothing but rounding moves them.
    """

    name: str
    make: Callable[[], nn.Module]
    data: tuple[int, ...]
    tokens: bool = False
    label: tuple[int, ...] = ()
    classes: int = 5
    meant: dict[str, Any] = field(default_factory=dict)
    slower: float = 1.0
    noise: tuple[str, ...] = ()

    def module(self) -> nn.Module:
        torch.manual_seed(7)
        return self.make()

    def batch(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(100 + i)
        x: np.ndarray = (
            rng.integers(0, 20, (BATCH, *self.data))
            if self.tokens
            else rng.standard_normal((BATCH, *self.data)).astype(np.float32)
        )
        return x, rng.integers(0, self.classes, (BATCH, *self.label))


CASES = {
    c.name: c
    for c in (
        Case("mlp", MLP, (12,)),
        Case("cnn", CNN, (1, 14, 14), meant={"batch_norm": "train"}),
        Case("resnet", ResNet, (3, 40, 40), meant={"batch_norm": "train"}),
        Case("resnet_silu", lambda: ResNet(nn.SiLU), (3, 40, 40), meant={"batch_norm": "train"}, slower=0.1),
        Case(
            "mobilenet",
            MobileNet,
            (3, 12, 12),
            meant={"batch_norm": "train"},
            noise=("project.1.bias", "1.expand.1.running_mean"),
        ),
        Case("encoder", Encoder, (7,), tokens=True, noise=("in_proj_bias",)),
        Case(
            "gpt",
            GPT,
            (8,),
            tokens=True,
            label=(8,),
            classes=20,
            meant={"tied": ["wte.weight", "head.weight"]},
            noise=("qkv.bias",),
        ),
        Case("vit", ViT, (3, 16, 16), noise=("in_proj_bias",)),
    )
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks (torchvision is not installed, an axis was specialised) are not ours to read."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export(module: nn.Module, x: np.ndarray, *, symbolic: bool = False, **options: Any) -> onnx.ModelProto:
    """The file's content that ``torch.onnx.export`` writes, with ``optimize=False`` unless told."""
    shapes = ({0: torch.export.Dim("batch", min=2)},) if symbolic else None
    with _quiet():
        program = torch.onnx.export(
            module, (torch.from_numpy(x),), dynamo=True, input_names=["x"], output_names=["y"],
            dynamic_shapes=shapes, verbose=False, **{"optimize": False, **options},
        )  # fmt: skip
    assert program is not None
    return program.model_proto


@cache
def exported(name: str, symbolic: bool) -> onnx.ModelProto:
    case = CASES[name]
    return export(case.module().train(), case.batch(0)[0], symbolic=symbolic)
