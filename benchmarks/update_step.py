"""How long one optimizer update takes: emitted ONNX graphs against PyTorch's and MXNet's own.

    python benchmarks/update_step.py [--rounds N] [--threads N] [--out benchmarks/results]

Two cases, float32, AdamW and SGD with momentum:

    one     one tensor of 16,777,216 elements
    many    160 tensors of 13,019,904 elements: a transformer of 13 layers and width 256

Everything runs in this process on the same number of threads, in interleaved rounds; medians are
compared. Before each measured step there is a pause, so that no other library's spinning threads are
on the cores, and one step that is not measured, so that the contender's own threads are awake.
Gradients are where each contender wants them before the clock starts. MXNet takes part where it is
installed. Results go to ``<out>/update_step-ort<version>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], object]
Shapes = Mapping[str, tuple[int, ...]]

LR, MOMENTUM, DECAY = 1e-3, 0.9, 1e-2
CASES: Mapping[str, Shapes] = {
    "one": {"w": (4096, 4096)},
    "many": {
        "embed": (10240, 256),
        "position": (512, 256),
        "norm.weight": (256,),
        "norm.bias": (256,),
        **{
            f"layer{i}.{name}": shape
            for i in range(13)
            for name, shape in {
                "qkv.weight": (256, 768),
                "qkv.bias": (768,),
                "out.weight": (256, 256),
                "out.bias": (256,),
                "up.weight": (256, 1024),
                "up.bias": (1024,),
                "down.weight": (1024, 256),
                "down.bias": (256,),
                "norm1.weight": (256,),
                "norm1.bias": (256,),
                "norm2.weight": (256,),
                "norm2.bias": (256,),
            }.items()
        },
    },
}
RULES: Mapping[str, Mapping[str, Any]] = {
    "adamw": {"lr": LR, "weight_decay": DECAY},
    "momentum": {"lr": LR, "momentum": MOMENTUM},
}
BASELINES = ("torch default", "mxnet")


def arrays(shapes: Shapes, scale: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {n: (rng.standard_normal(s, np.float32) * np.float32(scale)) for n, s in shapes.items()}


def torch_step(rule: str, shapes: Shapes, threads: int, **how: Any) -> Step:
    import torch

    torch.set_num_threads(threads)
    params = []
    for w, g in zip(arrays(shapes, 0.1).values(), arrays(shapes, 0.01).values(), strict=True):
        p = torch.nn.Parameter(torch.from_numpy(w))
        p.grad = torch.from_numpy(g)
        params.append(p)
    if rule == "adamw":
        return torch.optim.AdamW(params, lr=LR, weight_decay=DECAY, **how).step
    return torch.optim.SGD(params, lr=LR, momentum=MOMENTUM, **how).step


def mxnet_step(rule: str, shapes: Shapes, threads: int) -> Step:
    """MXNet's native operators, one call a tensor."""
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    w, g, m, v = ([mx.nd.array(x) for x in arrays(shapes, s).values()] for s in (0.1, 0.01, 0, 0))
    one = mx.nd.array([1.0])

    def step() -> None:
        for i in range(len(w)):
            if rule == "adamw":
                mx.nd.contrib.adamw_update(w[i], g[i], m[i], v[i], one, lr=LR, eta=1.0, wd=DECAY, out=w[i])
            else:
                mx.nd.sgd_mom_update(w[i], g[i], m[i], lr=LR, momentum=MOMENTUM, out=w[i])
        mx.nd.waitall()

    return step


def mxnet_multi_step(rule: str, shapes: Shapes, threads: int) -> Step:
    """MXNet's native operators that take many tensors, 40 a call."""
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    w, g, m, v = ([mx.nd.array(x) for x in arrays(shapes, s).values()] for s in (0.1, 0.01, 0, 0))
    one = mx.nd.array([1.0])
    chunks = [slice(i, i + 40) for i in range(0, len(w), 40)]

    def step() -> None:
        for c in chunks:
            n = len(w[c])
            if rule == "adamw":
                mx.nd.contrib.multi_adamw_update(
                    w[c], g[c], m[c], v[c], one, [LR] * n, [DECAY] * n, [1.0] * n, out=w[c], size=n
                )
            else:
                flat = [x for row in zip(w[c], g[c], m[c], strict=True) for x in row]
                mx.nd.multi_sgd_mom_update(
                    *flat, out=w[c], num_weights=n, lrs=[LR] * n, wds=[0.0] * n, momentum=MOMENTUM
                )
        mx.nd.waitall()

    return step


def onnx_step(rule: str, shapes: Shapes, threads: int, layout: str) -> Step:
    import optexport as ox
    from optexport.converters.onnx.run import UpdateSession

    model = ox.emit(ox.spec(rule, **RULES[rule]), "onnx", params=shapes, layout=layout)
    session = UpdateSession(model, threads=threads)
    session.load(arrays(shapes, 0.1))
    for name, gradient in arrays(shapes, 0.01).items():
        session.grads[name][...] = gradient
    session.step(lr=LR)
    step: Step = session.step
    return step


def contenders(threads: int) -> dict[str, Callable[[str, Shapes], Step]]:
    found: dict[str, Callable[[str, Shapes], Step]] = {
        "torch default": lambda r, s: torch_step(r, s, threads),
        "torch foreach=True": lambda r, s: torch_step(r, s, threads, foreach=True),
        "torch fused=True": lambda r, s: torch_step(r, s, threads, fused=True),
        "onnx, parameters": lambda r, s: onnx_step(r, s, threads, "parameters"),
        "onnx, flat": lambda r, s: onnx_step(r, s, threads, "flat"),
    }
    try:
        from optexport.converters.mxnet._import import import_mxnet

        import_mxnet()
    except Exception:  # not installed here: the comparison goes without
        return found
    found["mxnet"] = lambda r, s: mxnet_step(r, s, threads)
    found["mxnet multi"] = lambda r, s: mxnet_multi_step(r, s, threads)
    return found


def measure(steps: Mapping[str, Step], rounds: int, pause: float) -> dict[str, list[float]]:
    """Seconds of every round, contenders taking turns."""
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(pause)
            step()
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def emission(tensors: int) -> dict[str, float]:
    """Seconds to emit and to load the AdamW graph of that many parameters, matrices and vectors."""
    import optexport as ox
    from optexport.converters.onnx.run import UpdateSession

    shapes = {f"p{i}": (256, 257 + i % 3) if i % 2 else (256,) for i in range(tensors)}
    out: dict[str, float] = {}
    for layout in ("parameters", "flat"):
        start = time.perf_counter()
        model = ox.emit(ox.spec("adamw", **RULES["adamw"]), "onnx", params=shapes, layout=layout)
        emitted = time.perf_counter()
        UpdateSession(model)
        loaded = time.perf_counter()
        out |= {f"{layout}: emit": emitted - start, f"{layout}: load": loaded - emitted}
    return out


def hardware(threads: int) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        model = next(
            line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Model name")
        )
    except (OSError, subprocess.CalledProcessError, StopIteration):
        pass
    return {"cpu": model, "cores": os.cpu_count(), "threads": threads}


def versions() -> dict[str, str]:
    import onnxruntime
    import torch

    found = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "numpy": np.__version__}
    try:
        import mxnet

        found["mxnet"] = mxnet.__version__
    except (ImportError, AttributeError):
        pass
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| case | rule | contender | median ms | min ms | ÷ torch default | ÷ MXNet |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ratios = [f"{r[b]:.2f}" if r.get(b) else "" for b in BASELINES]
        lines.append(
            f"| {r['case']} | {r['rule']} | {r['contender']} | {r['median_ms']:.2f} | {r['min_ms']:.2f} | "
            + " | ".join(ratios)
            + " |"
        )
    return "\n".join(lines)


def run(rounds: int, threads: int, pause: float) -> list[dict[str, Any]]:
    rows = []
    for case, shapes in CASES.items():
        for rule in RULES:
            steps = {name: make(rule, shapes) for name, make in contenders(threads).items()}
            times = measure(steps, rounds, pause)
            medians = {name: statistics.median(t) for name, t in times.items()}
            for name, t in times.items():
                row: dict[str, Any] = {
                    "case": case,
                    "rule": rule,
                    "contender": name,
                    "median_ms": medians[name] * 1e3,
                    "min_ms": min(t) * 1e3,
                }
                for b in BASELINES:
                    if b in medians:
                        row[b] = medians[name] / medians[b]
                rows.append(row)
            print(table(rows[-len(times) :]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds before each measured step")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    rows = run(args.rounds, args.threads, args.pause)
    start = emission(1000)
    for name, seconds in start.items():
        print(f"1,000 parameters, {name}: {seconds:.2f} s")
    made = {"hardware": hardware(args.threads), "versions": versions(), "rounds": args.rounds}
    stem = args.out / f"update_step-ort{made['versions']['onnxruntime']}"
    args.out.mkdir(parents=True, exist_ok=True)
    stem.with_name(stem.name + ".json").write_text(
        json.dumps({**made, "rows": rows, "emission_seconds": start}, indent=1) + "\n", "utf-8"
    )
    head = f"# Update step\n\n{made['hardware']} {made['versions']}, medians of {args.rounds} interleaved rounds\n\n"
    tail = "\n\nGraph of 1,000 parameters, AdamW: " + ", ".join(f"{k} {v:.2f} s" for k, v in start.items())
    stem.with_name(stem.name + ".md").write_text(head + table(rows) + tail + "\n", "utf-8")


if __name__ == "__main__":
    main()
