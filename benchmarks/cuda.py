"""Training graphs on a GPU: where every node runs, whether the numbers are the CPU's, and how long it takes.

    python benchmarks/cuda.py [--provider CUDAExecutionProvider] [--models mlp,cnn,transformer] [--rounds N]
                              [--elements N] [--out benchmarks/results]

placement   every node of the model's training step (AdamW) and the provider that ran it; nodes on another
            provider, shape arithmetic aside, are listed by operator
parity      losses and parameters of 10 steps against the CPU provider's, TF32 switched off in both
step        ``Trainer.step`` against PyTorch eager with its default AdamW and with the fused one: the same batch
            from NumPy, the loss read back, on the same device; medians of interleaved rounds
update      AdamW on one tensor alone: bytes that an update must move (parameter, gradient and two moments
            read, three written) in a second, and the same as a part of what a copy on this device reaches

TF32 is switched off for the process (``NVIDIA_TF32_OVERRIDE=0``), for ONNX Runtime has it on by default and
PyTorch off. The whole script runs on any provider: with ``--provider CPUExecutionProvider`` it tests itself.
Results go to ``<out>/cuda-<device>-ort<version>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from models import MODELS, Model
from update_step import hardware

LR, DECAY, STEPS = 1e-3, 1e-2, 10
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Step = Callable[[], object]


def device(provider: str) -> str:
    """PyTorch's name of the device that a provider runs on."""
    return "cuda" if provider == CUDA else "cpu"


def chain(provider: str) -> list[str]:
    """The provider and, behind it, the CPU for what it has no kernel for."""
    return [provider] if provider == CPU else [provider, CPU]


def started(model: Model) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Values that a run starts from, and its batch."""
    import torch

    torch.manual_seed(0)
    return model.values(model.module()), model.batch(np.random.default_rng(0), model.size)


def trainer(model: Model, values: Mapping[str, np.ndarray], provider: str) -> Any:
    import optexport as ox

    return ox.Trainer(
        model.graph(values, model.size), "softmax_cross_entropy", ox.spec("adamw", lr=LR, weight_decay=DECAY),
        providers=chain(provider), **model.options,
    )  # fmt: skip


def placement(model: Model, provider: str) -> dict[str, Any]:
    """How many nodes ran where, and those that strayed by operator."""
    import optexport as ox
    from optexport.converters.onnx.placement import placed, strays
    from optexport.converters.onnx.training.barrier import with_barrier
    from optexport.converters.onnx.training.forward import Meant
    from optexport.converters.onnx.training_info import started as first

    values, (x, label) = started(model)
    spec = ox.spec("adamw", lr=LR, weight_decay=DECAY)
    built, held = first(
        model.graph(values, model.size), "softmax_cross_entropy", spec, None, meant=Meant(**model.options),
        blocks=provider == CPU,
    )  # fmt: skip
    feeds = {**held.tensors(built.model), "x": x, "label": label}
    # The trainer's graph: with the barrier that its updates in place wait for.
    nodes = placed(with_barrier(built.model), feeds, chain(provider))
    return {
        "nodes": len(nodes),
        "providers": dict(Counter(n.provider for n in nodes)),
        "shape arithmetic elsewhere": sum(n.provider != provider and n.is_shape_arithmetic for n in nodes),
        "copies": sum(n.is_copy for n in nodes),
        "strays": dict(Counter(n.op for n in strays(nodes, provider))),
    }


def parity(model: Model, provider: str) -> dict[str, float]:
    """Largest distances from the CPU provider's run: of losses, and of parameters by the largest entry."""
    values, batch = started(model)
    runs = [trainer(model, values, p) for p in (CPU, provider)]
    losses = [[r.step(*batch) for _ in range(STEPS)] for r in runs]
    want, got = (r.state().params for r in runs)
    scale = {n: max(float(np.max(np.abs(a))), 1e-6) for n, a in want.items()}
    return {
        "steps": STEPS,
        "loss": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        "parameters": max(float(np.max(np.abs(got[n] - a))) / scale[n] for n, a in want.items()),
    }


def torch_step(model: Model, where: str, **how: Any) -> Step:
    """One eager step with the batch from NumPy and the loss read back."""
    import torch

    torch.manual_seed(0)
    net = model.module().to(where).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=DECAY, **how)
    x, label = model.batch(np.random.default_rng(0), model.size)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        y = net(torch.from_numpy(x).to(where))
        loss = torch.nn.functional.cross_entropy(y, torch.from_numpy(label).to(where))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def step_times(model: Model, provider: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of each contender."""
    values, batch = started(model)
    run = trainer(model, values, provider)
    where = device(provider)
    return medians(
        {
            "optexport": lambda: run.step(*batch),
            "torch AdamW": torch_step(model, where),
            "torch AdamW fused": torch_step(model, where, fused=True),
        },
        rounds,
    )


def medians(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Contenders take turns; the first ten turns are not measured."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 10):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if i >= 10:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def update(provider: str, elements: int, rounds: int) -> dict[str, float]:
    """AdamW alone, and a copy, on one tensor of so many float32."""
    import torch

    import optexport as ox
    from optexport.converters.onnx.run import UpdateSession

    where, shape = device(provider), (elements // 1024, 1024)
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(shape, np.float32) for _ in range(2))
    graph = ox.emit(
        ox.spec("adamw", lr=LR, weight_decay=DECAY), "onnx", params={"w": shape}, blocks=provider == CPU
    )
    session = UpdateSession(graph, providers=chain(provider))
    session.load({"w": w})
    session.step({"w": g}, lr=LR)  # the gradient stays on the device
    p = torch.nn.Parameter(torch.from_numpy(w).to(where))
    p.grad = torch.from_numpy(g).to(where)
    fused = torch.optim.AdamW([p], lr=LR, weight_decay=DECAY, fused=True)
    source = torch.from_numpy(w).to(where)
    target = torch.empty_like(source)

    def waited(run: Step) -> Step:
        def step() -> None:
            run()
            if where == "cuda":
                torch.cuda.synchronize()

        return step

    found = medians(
        {
            "optexport": session.step,
            "torch fused": waited(fused.step),
            "copy": waited(lambda: target.copy_(source)),
        },
        rounds,
    )
    moved = {"optexport": 7, "torch fused": 7, "copy": 2}
    speed = {f"{n} GB/s": moved[n] * 4 * w.size / ms / 1e6 for n, ms in found.items()}
    part = {f"{n} ÷ copy": speed[f"{n} GB/s"] / speed["copy GB/s"] for n in ("optexport", "torch fused")}
    return {"elements": float(w.size), **{f"{n} ms": ms for n, ms in found.items()}, **speed, **part}


def versions() -> dict[str, str]:
    import onnx
    import onnxruntime
    import torch

    return {m.__name__: m.__version__ for m in (onnxruntime, onnx, torch, np)}


def named_hardware(provider: str) -> dict[str, Any]:
    held = hardware(os.cpu_count() or 1)
    if provider == CUDA:
        import torch

        held |= {"gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}
    return held


def told(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    lines = [
        f"# Training graphs on {result['provider']}",
        "",
        f"{result['hardware']} {result['versions']}",
        "",
    ]
    lines += [
        "| model | nodes | elsewhere, shape arithmetic | strays | copies | loss off by | parameters off by |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, r in result["models"].items():
        p, q = r["placement"], r["parity"]
        strays = ", ".join(f"{op} {n}" for op, n in p["strays"].items()) or "none"
        lines.append(
            f"| {name} | {p['nodes']} | {p['shape arithmetic elsewhere']} | {strays} | {p['copies']} | {q['loss']:.1e} | "
            f"{q['parameters']:.1e} |"
        )
    contenders = next(iter(result["models"].values()))["step_ms"]
    lines += ["", "Step, median ms (÷ torch fused)", "", "| model | " + " | ".join(contenders) + " |"]
    lines += ["|---" * (len(contenders) + 1) + "|"]
    for name, r in result["models"].items():
        base = r["step_ms"]["torch AdamW fused"]
        lines.append(
            f"| {name} | " + " | ".join(f"{v:.2f} ({v / base:.2f})" for v in r["step_ms"].values()) + " |"
        )
    lines += ["", "Update: " + ", ".join(f"{k} {v:.4g}" for k, v in result["update"].items())]
    return "\n".join(lines) + "\n"


def run(provider: str, names: Sequence[str], rounds: int, elements: int) -> dict[str, Any]:
    models = {
        name: {
            "placement": placement(MODELS[name], provider),
            "parity": parity(MODELS[name], provider),
            "step_ms": step_times(MODELS[name], provider, rounds),
        }
        for name in names
    }
    return {
        "provider": provider,
        "hardware": named_hardware(provider),
        "versions": versions(),
        "rounds": rounds,
        "models": models,
        "update": update(provider, elements, rounds),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", default=CUDA)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--elements", type=int, default=1 << 26)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args(argv)
    import onnxruntime

    if args.provider not in onnxruntime.get_available_providers():
        print(
            f"{args.provider} is not in this onnxruntime {onnxruntime.__version__}, which has "
            f"{', '.join(onnxruntime.get_available_providers())}; install onnxruntime-gpu on a machine with a GPU",
            file=sys.stderr,
        )
        return 2
    if args.provider == CUDA:
        # ONNX Runtime finds CUDA's libraries where PyTorch has them.
        import torch  # noqa: F401

        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
    result = run(args.provider, args.models.split(","), args.rounds, args.elements)
    gpu = result["hardware"].get("gpu", device(args.provider))
    stem = f"cuda-{re.sub(r'[^A-Za-z0-9]+', '-', gpu).strip('-')}-ort{result['versions']['onnxruntime']}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (args.out / f"{stem}.md").write_text(told(result), "utf-8")
    print(told(result))
    return 1 if any(m["placement"]["strays"] for m in result["models"].values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
