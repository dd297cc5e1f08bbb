"""How fast checkpoints convert and how much memory that takes, beside ``cp`` and PyTorch's own load and save.

    python benchmarks/convert.py [--sizes 0.1 1 4] [--rounds N] [--folder DIR] [--out benchmarks/results]

For each size in GB (10⁹ bytes) a file of ``torch.save`` is made: AdamW's state of a transformer whose
width grows with it (512, 1024, 2048), its parameters named. Then, medians over rounds in which all take
turns in this process:

    cp                 the system's copy of that file; it leaves the data to the system to write
    cp, on disk        the same, then fsync of the copy, as every conversion here does before its rename
    to bundle          ``optexport.convert.convert`` with sha256 of every tensor, fsync
    from bundle        back to a file of ``torch.save`` with crc32 of every tensor, fsync
    …, unflushed       the same two without fsync, as ``cp`` works: what a crash would lose is not on the disk
    sha256             of the same bytes, on every core at once: no bundle can be made in less
    to MXNet           ``.states`` for the optimizer that is emitted beside it (the verdict is exact)
    to DCP             a directory of torch.distributed.checkpoint
    torch              ``torch.load`` of the file and ``torch.save`` of what it gave, no fsync

GB/s is the size of the source file over the median; *cpu* is the processor time that it took, which
others on the machine do not change; files are in the system's cache when they are read.
Memory is that of a process of its own for each conversion: *needed* is the largest RssAnon (what the
process has written to memory, sampled every 2 ms), *resident* is VmHWM, which also counts the pages of
the mapped source that were in memory at once and of the interpreter's libraries. ``inspect --quick`` is
the command line's whole run. What came back from the bundle is compared with the source bit for bit.
Results go to ``<out>/convert.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

BASELINES = ("cp", "cp, on disk", "torch")
REACH = "≥ 0.7 of cp to and from the bundle, < 300 MB, faster than torch, inspect < 1 s"


def layers(elements: int, width: int) -> dict[str, tuple[int, ...]]:
    """Parameters of a transformer with about that many elements."""
    out: dict[str, tuple[int, ...]] = {}
    shapes = {
        "attention.qkv.weight": (3 * width, width),
        "attention.qkv.bias": (3 * width,),
        "attention.out.weight": (width, width),
        "attention.out.bias": (width,),
        "mlp.up.weight": (4 * width, width),
        "mlp.up.bias": (4 * width,),
        "mlp.down.weight": (width, 4 * width),
        "mlp.down.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    left, layer = elements, 0
    while left > 0:
        for name, shape in shapes.items():
            rows = min(shape[0], -(-left // (width if len(shape) > 1 else 1)))
            if rows > 0:
                out[f"layers.{layer}.{name}"] = (rows, *shape[1:])
                left -= rows * (shape[1] if len(shape) > 1 else 1)
        layer += 1
    return out


def make(path: str, gigabytes: float) -> None:
    """A file of ``torch.save`` with AdamW's state after 1,000 updates, random."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # Two float32 tensors a parameter; the parameters themselves are not in the file.
    shapes = layers(int(gigabytes * 1e9) // 8, 512 if gigabytes < 0.5 else 1024 if gigabytes < 2 else 2048)
    named = [(n, torch.nn.Parameter(torch.empty(s, device="meta"))) for n, s in shapes.items()]
    optimizer = torch.optim.AdamW(named, lr=3e-4, weight_decay=0.1)
    for _, p in named:
        optimizer.state[p] = {
            "step": torch.tensor(1000.0),
            "exp_avg": torch.empty(p.shape).normal_(0, 1e-3, generator=generator),
            "exp_avg_sq": torch.empty(p.shape).uniform_(0, 1e-5, generator=generator),
        }
    torch.save(optimizer.state_dict(), path)


def converted(source: str, target: str) -> None:
    """One conversion; the target's name tells which."""
    from optexport.convert import convert

    if target.endswith(".dcp"):
        convert(source, target, to_format="torch-dcp")
    elif target.endswith(".states"):
        convert(source, target, emit_optimizer=f"{Path(target).with_suffix('')}_optimizer.py")
    else:
        convert(source, target)


def unflushed(source: str, target: str) -> None:
    """`converted`, and the system writes when it likes."""
    from optexport.state.files import Sending

    with mock.patch("os.fsync"), mock.patch.object(Sending, "written"):
        converted(source, target)


def hashed(source: str) -> None:
    """Each core its part of the file."""
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        cores = os.cpu_count() or 1
        step = -(-len(mapped) // cores)

        def part(i: int) -> str:
            total = hashlib.sha256()
            for at in range(i * step, min((i + 1) * step, len(mapped)), 1 << 20):
                total.update(mapped[at : min(at + (1 << 20), (i + 1) * step)])
            return total.hexdigest()

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(part, range(cores)))


def through_torch(source: str, target: str) -> None:
    import torch

    torch.save(torch.load(source, weights_only=True), target)


def copied(source: str, target: str, *, on_disk: bool) -> None:
    subprocess.run(["cp", source, target], check=True)
    if on_disk:
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def removed(path: str) -> None:
    for name in (path, f"{Path(path).with_suffix('')}_optimizer.py"):
        if os.path.isdir(name):
            shutil.rmtree(name)
        elif os.path.exists(name):
            os.remove(name)


def memory(source: str, target: str) -> dict[str, float]:
    """Megabytes that one conversion takes, in a process of its own."""
    command = [sys.executable, __file__, "--one", source, target]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    removed(target)
    return dict(json.loads(text))


def one(source: str, target: str) -> None:
    """What `memory` runs: convert, and print the peaks."""
    peak, done = [0.0], threading.Event()

    def status(field: str) -> float:
        return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3  # type: ignore[index]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], status("RssAnon"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    converted(source, target)
    done.set()
    thread.join()
    print(json.dumps({"needed_MB": max(peak[0], status("RssAnon")), "resident_MB": status("VmHWM")}))


def inspected(path: str) -> float:
    """Seconds of the command line's quick look."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "optexport", "inspect", path, "--quick", "--json"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def compared(a: str, b: str) -> int:
    """Tensors of ``a``, each of which ``b`` has bit for bit."""
    from optexport.state.store import read_native
    from optexport.state.stream import byte_blocks

    left, right = read_native(a).slots, read_native(b).slots
    count = 0
    if list(left) != list(right):
        raise SystemExit(f"{b}: other parameters than {a}")
    for name, slots in left.items():
        for slot, array in slots.items():
            pairs = zip(byte_blocks(array), byte_blocks(right[name][slot]), strict=True)
            if any(x != y for x, y in pairs):
                raise SystemExit(f"{b}: {name}, {slot}: other bytes than {a}")
            count += 1
    return count


def measure(folder: Path, gigabytes: float, rounds: int) -> dict[str, Any]:
    def at(name: str) -> str:
        return str(folder / name)

    source = at("source.pt")
    subprocess.run([sys.executable, __file__, "--make", source, str(gigabytes)], check=True)
    size = os.path.getsize(source)
    converted(source, at("kept.safetensors"))
    memories = {
        "to bundle": memory(source, at("new.safetensors")),
        "from bundle": memory(at("kept.safetensors"), at("new.pt")),
        "to MXNet": memory(source, at("new.states")),
        "to DCP": memory(source, at("new.dcp")),
    }
    jobs: Mapping[str, tuple[Callable[[str], None], str]] = {
        "cp": (lambda t: copied(source, t, on_disk=False), "copy.pt"),
        "cp, on disk": (lambda t: copied(source, t, on_disk=True), "copy.pt"),
        "to bundle": (lambda t: converted(source, t), "new.safetensors"),
        "from bundle": (lambda t: converted(at("kept.safetensors"), t), "new.pt"),
        "to bundle, unflushed": (lambda t: unflushed(source, t), "new.safetensors"),
        "from bundle, unflushed": (lambda t: unflushed(at("kept.safetensors"), t), "new.pt"),
        "sha256": (lambda t: hashed(source), "none"),
        "to MXNet": (lambda t: converted(source, t), "new.states"),
        "to DCP": (lambda t: converted(source, t), "new.dcp"),
        "torch": (lambda t: through_torch(source, t), "torch.pt"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, (job, target) in jobs.items():
            start, used = time.perf_counter(), sum(os.times()[:4])
            job(at(target))
            if turn:  # the first is not measured
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(sum(os.times()[:4]) - used)
            if turn == 0 and name == "from bundle":
                print(f"{gigabytes:g} GB: {compared(source, at(target))} tensors came back equal", flush=True)
            removed(at(target))
            os.sync()  # nobody writes what another left
    quick = statistics.median(inspected(source) for _ in range(5))
    removed(at("kept.safetensors"))
    removed(source)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [
        {
            "what": name,
            "median_s": median,
            "min_s": min(seconds[name]),
            "cpu_s": statistics.median(cpu[name]),
            "GB_per_s": size / 1e9 / median,
            **{f"speed / {b}": medians[b] / median for b in BASELINES},
            **memories.get(name, {}),
        }
        for name, median in medians.items()
    ]
    return {"gigabytes": gigabytes, "bytes": size, "inspect_quick_s": quick, "rows": rows}


def hardware(folder: Path) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        model = next(
            line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Model name")
        )
    except (OSError, subprocess.CalledProcessError, StopIteration):
        pass
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True).stdout
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "filesystem": kind.strip(),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    import numpy
    import torch

    return {"python": platform.python_version(), "numpy": numpy.__version__, "torch": torch.__version__}


def table(result: Mapping[str, Any]) -> str:
    lines = [
        f"## {result['gigabytes']:g} GB\n",
        "| what | median s | min s | cpu s | GB/s | ÷ cp | ÷ cp on disk | ÷ torch | needed MB | resident MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        ratios = [f"{r[f'speed / {b}']:.2f}" for b in BASELINES]
        held = [f"{r[k]:.0f}" if k in r else "" for k in ("needed_MB", "resident_MB")]
        times = [f"{r[k]:.2f}" for k in ("median_s", "min_s", "cpu_s", "GB_per_s")]
        cells = [r["what"], *times, *ratios, *held]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(f"\n`inspect --quick`: {result['inspect_quick_s']:.2f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 1.0, 4.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files are made (beside this one by default)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make[0], float(args.make[1]))
        return
    if args.one:
        one(*args.one)
        return
    folder = (args.folder or Path(__file__).parent) / f"convert-{os.getpid()}"
    folder.mkdir(parents=True)
    load = os.getloadavg()[0]
    try:
        results = []
        for size in args.sizes:
            results.append(measure(folder, size, args.rounds))
            print(table(results[-1]), flush=True)
        made = {"hardware": hardware(folder), "versions": versions(), "rounds": args.rounds}
    finally:
        shutil.rmtree(folder)
    made["load"] = [load, os.getloadavg()[1]]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "convert.json").write_text(json.dumps({**made, "sizes": results}, indent=1) + "\n", "utf-8")
    head = (
        f"# Conversion of PyTorch checkpoints\n\n{made['hardware']} {made['versions']}, medians of {args.rounds} rounds\n\n"
        f"Load of the machine: {made['load'][0]:.1f} before, {made['load'][1]:.1f} at the end (alone, this benchmark "
        f"makes about 1)\n\nTo reach: {REACH}\n\n"
    )
    (args.out / "convert.md").write_text(head + "\n\n".join(map(table, results)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
