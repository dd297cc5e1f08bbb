"""Time and memory of a whole training step: forward, loss, gradient and AdamW, against PyTorch in the same process.

    python benchmarks/train_step.py [--rounds 61] [--threads 2] [--out benchmarks/results]

Contenders take turns round by round; medians of all rounds, the pause before each lets what it started end.
Denormals are flushed on both sides. Needs torch, onnxscript (torch's exporter) and a stock onnxruntime.

`cpu` is the time of the one thread that works where --threads 1 is given; a machine that others use too changes
it less than the time that passes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import optexport as ox
from optexport.converters.onnx.runtime import Trainer
from optexport.converters.onnx.training_graph import build

LR, DECAY = 1e-6, 0.01
LAYERS = 300
TARGETS = {"mlp": 1.0, "cnn": 1.5, "transformer": 1.2}


class Block(nn.Module):
    """A pre-norm encoder layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, w = x.shape
        heads = self.qkv(self.n1(x)).reshape(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        a = torch.softmax(q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5, -1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(b, n, w))
        return x + self.down(nn.functional.gelu(self.up(self.n2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.place = nn.Parameter(0.02 * torch.randn(32, 64))
        self.blocks = nn.Sequential(Block(64, 4), Block(64, 4))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.place)).mean(1))


def mlp() -> tuple[nn.Module, torch.Tensor]:
    layers = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return layers, torch.randn(64, 784)


def cnn() -> tuple[nn.Module, torch.Tensor]:
    layers = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip
    return layers, torch.randn(64, 1, 28, 28)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    return Transformer(), torch.randint(0, 100, (32, 32))


def deep() -> tuple[nn.Module, torch.Tensor]:
    """300 layers with weights: 100 times a linear one, a normalisation and a linear one."""
    layers: list[nn.Module] = []
    for _ in range(LAYERS // 3):
        layers += [nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64)]
    return nn.Sequential(*layers, nn.Linear(64, 10)), torch.randn(8, 64)


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def export(model: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (x,), dynamo=True, optimize=False, input_names=["x"], output_names=["y"], verbose=False
        )
    assert program is not None
    return program.model_proto


def torch_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, fused: bool) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=fused or None)
    loss = nn.CrossEntropyLoss()

    def step() -> float:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return float(value.item())

    return step


def contenders(name: str, threads: int) -> tuple[dict[str, Callable[[], float]], Trainer]:
    """name of a contender -> its step; they start from the same weights."""
    torch.manual_seed(0)
    model, x = MODELS[name]()
    model.train()
    y = torch.randint(0, 10, (len(x),))
    file = export(model, x)
    meant = {"batch_norm": "train"} if name == "cnn" else {}
    spec = ox.spec("adamw", lr=LR, weight_decay=DECAY)
    trainers = [
        Trainer(file, "softmax_cross_entropy", spec, threads=threads, in_place=p, **meant)
        for p in (True, False)
    ]
    copies = [MODELS[name]()[0] for _ in range(2)]
    for copy in copies:
        copy.load_state_dict(model.state_dict())
        copy.train()
    arrays = x.numpy(), y.numpy()
    return {
        "torch, fused AdamW": torch_step(copies[0], x, y, True),
        "torch, default AdamW": torch_step(copies[1], x, y, False),
        "optexport": lambda: trainers[0].step(*arrays),
        "optexport, copying": lambda: trainers[1].step(*arrays),
    }, trainers[0]


def measure(
    steps: Mapping[str, Callable[[], float]], rounds: int, pause: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every round, contenders taking turns."""
    losses = {name: step() for name, step in steps.items()}
    if max(losses.values()) - min(losses.values()) > 1e-4:
        raise SystemExit(f"the contenders do not compute the same loss: {losses}")
    for step in steps.values():
        for _ in range(4):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(pause)
            step()
            start = clock()
            step()
            times[name].append(clock() - start)
    return times


def building(threads: int) -> dict[str, Any]:
    """Seconds to build, and to load, the graph of a model with 300 layers that have weights."""
    model, x = deep()
    file = export(model, x)
    start = time.perf_counter()
    made = build(file, "softmax_cross_entropy", ox.spec("adamw", lr=LR))
    built = time.perf_counter()
    Trainer(file, "softmax_cross_entropy", ox.spec("adamw", lr=LR), threads=threads)
    loaded = time.perf_counter()
    return {
        "layers": LAYERS,
        "parameters": len(made.params),
        "nodes": len(made.model.graph.node),
        "build_seconds": built - start,
        "trainer_seconds": loaded - built,
    }


def run(rounds: int, threads: int, pause: float) -> list[dict[str, Any]]:
    rows = []
    for name in MODELS:
        steps, trainer = contenders(name, threads)
        clock = time.thread_time if threads == 1 else time.perf_counter
        times = measure(steps, rounds, pause, clock)
        base = times["torch, fused AdamW"]
        held = sum(a.nbytes for a in trainer.state().params.values())
        for contender, t in times.items():
            rows.append(
                {
                    "model": name,
                    "contender": contender,
                    "median_ms": statistics.median(t) * 1e3,
                    "min_ms": min(t) * 1e3,
                    "ratio": statistics.median(t) / statistics.median(base),
                    "ratio_of_minima": min(t) / min(base),
                    "target": TARGETS[name] if contender == "optexport" else None,
                    "state_over_parameters": trainer.state_bytes / held if contender == "optexport" else None,
                }
            )
        print(table(rows[-len(times) :]), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | contender | median ms | min ms | ÷ torch fused | of minima | target | state ÷ parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        target = f"{r['target']:.1f}" if r["target"] else ""
        held = f"{r['state_over_parameters']:.2f}" if r["state_over_parameters"] else ""
        lines.append(
            f"| {r['model']} | {r['contender']} | {r['median_ms']:.2f} | {r['min_ms']:.2f} | {r['ratio']:.2f} | "
            f"{r['ratio_of_minima']:.2f} | {target} | {held} |"
        )
    return "\n".join(lines)


def main() -> None:
    from update_step import hardware, versions

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds before each measured step")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    np.random.seed(0)
    before = os.getloadavg()
    rows = run(args.rounds, args.threads, args.pause)
    made = building(args.threads)
    print(made)
    record = {
        "hardware": hardware(args.threads),
        "versions": versions(),
        "rounds": args.rounds,
        "clock": "of the working thread" if args.threads == 1 else "of the wall",
        "load": {"before": before[0], "after": os.getloadavg()[0]},
        "rows": rows,
        "building": made,
    }
    stem = f"train_step-ort{record['versions']['onnxruntime']}-threads{args.threads}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    head = "\n".join(
        f"- {k}: {record[k]}" for k in ("hardware", "versions", "rounds", "clock", "load", "building")
    )
    (args.out / f"{stem}.md").write_text(f"# Training step\n\n{head}\n\n{table(rows)}\n", "utf-8")


if __name__ == "__main__":
    main()
