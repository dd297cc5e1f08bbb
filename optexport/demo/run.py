"""The demonstration: a half-finished PyTorch run goes on in ONNX Runtime, and from there back to
PyTorch and on to MXNet.

Every number it prints is measured here, against the recorded continuation of the same run in
PyTorch (`make_data` made both). It needs onnxruntime and no training framework.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..convert import Conversion, convert
from ..dialects import converter
from ..errors import OptexportError, VerdictError
from ..parity.bounds import LAMBDA, rounding_bound, unit_roundoff
from ..parity.compare import relative_error
from ..plot import loss_plot
from ..state import TrainingState, load
from ..state.diff import diff
from ..state.inspect import Inspection, inspect
from ..state.store import read_model, read_native
from ..translation import Explanation, explain
from . import make_data
from .session import losses_of, runtime_version

__all__ = [
    "CHECKPOINT",
    "FORWARD",
    "Back",
    "Check",
    "Continued",
    "Result",
    "Run",
    "ToMXNet",
    "tolerance",
    "work",
]

CHECKPOINT = Path(__file__).with_name(make_data.CHECKPOINT)
FORWARD = Path(__file__).with_name(make_data.FORWARD)
CONTINUATION = Path(__file__).with_name(make_data.CONTINUATION)

# Names of what the demonstration writes.
BUNDLE, GRAPH = "run.safetensors", "run.onnx"
CONTINUED, BACK = "continued.safetensors", "continued.pt"
WEIGHTS, STATES, MODULE = "continued.params", "continued.states", "continued_adamw.py"

LOSS = "softmax_cross_entropy"
# How much of a small relative disturbance of the state is left, at most, after the 50 updates. The
# tests measure it in float64: at most 1.5.
AMPLIFICATION = 2.0
# Roundings in a row on the longest way from an image to a gradient: sums over 64 pixels, 32 hidden
# units and 10 classes forwards, over 10 classes and 64 images backwards, and some 20 operations
# between them (biases, tanh and its slope, softmax).
OPERATIONS = 64 + 32 + 10 + 10 + 64 + 20
# A wrong port must miss the tolerance by this factor, else the comparison could not tell it.
CONTRAST = 100.0

Batches = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Check:
    """One row of the verdict. relation: how ``value`` must stand to ``limit``: ``≤``, ``≥`` or ``=``."""

    what: str
    value: float | str
    relation: str
    limit: float | str

    @property
    def passed(self) -> bool:
        if self.relation == "=":
            return self.value == self.limit
        value, limit = float(self.value), float(self.limit)
        return value <= limit if self.relation == "≤" else value >= limit


@dataclass
class Run:
    """A continuation beside the recorded one: the largest relative errors over it.

    losses: before each update. loss: their error. mean_loss: their mean. step: what the optimizer counts
    in the end. errors: parameter -> ``param`` or slot -> error.
    """

    name: str
    losses: list[float]
    loss: float
    mean_loss: float
    step: int
    errors: dict[str, dict[str, float]]

    def worst(self, *keys: str) -> float:
        return max(e for held in self.errors.values() for key, e in held.items() if key in keys)


@dataclass
class Continued:
    """Runs in ONNX Runtime; the first from the converted state, the others ported wrongly.

    by_itself: losses of the graph's file, run without this library, that are the first run's bit for bit.
    """

    runtime: str
    tolerance: float
    recorded_losses: list[float]
    recorded_mean_loss: float
    runs: list[Run]
    by_itself: int


@dataclass
class Back:
    """The end of the run as a PyTorch checkpoint. same: tensors equal bit for bit, read back."""

    converted: Conversion
    same: int
    tensors: int
    step: int | None


@dataclass
class ToMXNet:
    """refusal: what a conversion to ``mxnet:adam`` answers. same: tensors equal bit for bit, read back."""

    refusal: str
    verdict: str
    emitted: Conversion
    weights: Conversion
    same: int
    tensors: int
    steps: list[int]


@dataclass
class Result:
    """What ``optexport demo --json`` prints.

    plot: the picture of the loss curves. no_plot: why there is none.
    """

    passed: bool = False
    seconds: float = 0.0
    checks: list[dict[str, Any]] = field(default_factory=list)
    inspected: Inspection | None = None
    explained: list[Explanation] = field(default_factory=list)
    converted: Conversion | None = None
    nodes: int = 0
    continued: Continued | None = None
    back: Back | None = None
    mxnet: ToMXNet | None = None
    folder: str | None = None
    plot: str | None = None
    no_plot: str | None = None


Show = Callable[[str, Any], None]


def tolerance(state: TrainingState, updates: int) -> float:
    """Largest relative difference from PyTorch that float32 rounding explains after ``updates``.

    Rounding errors are independent, so bounds of chains add in squares (see ``parity.bounds``): the
    update's own operations, and those that lead to its gradient, which ONNX Runtime and PyTorch
    sum in different orders. Each error then lives on in the run: `AMPLIFICATION`.
    """
    update = max(rounding_bound(g.rule.program, updates, np.float32) for g in state.spec.groups)
    gradient = LAMBDA * np.sqrt(OPERATIONS * updates) * unit_roundoff(np.float32)
    return AMPLIFICATION * float(np.hypot(update, gradient))


def work(
    keep: str | None = None,
    show: Show | None = None,
    checkpoint: str | os.PathLike[str] = CHECKPOINT,
    *,
    plot: str | None = None,
) -> Result:
    """Run the demonstration.

    keep: a folder for the files it writes; a temporary one when None.
    show: called with each stage's name and what it found, as it completes.
    checkpoint: the half-finished run.
    plot: a file for the picture of the loss curves; none when None.

    Raises:
        OptexportError: onnxruntime is not installed.
    """
    start = time.perf_counter()
    runtime = runtime_version()
    show = show or (lambda stage, found: None)
    result = Result(folder=keep)
    with tempfile.TemporaryDirectory(prefix="optexport-demo-", ignore_cleanup_errors=True) as temporary:
        folder = Path(keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for ships, name in ((checkpoint, CHECKPOINT.name), (FORWARD, FORWARD.name)):
            shutil.copyfile(ships, folder / name)
        checks = _stages(folder, runtime, result, show)
    if plot is not None and result.continued is not None:
        _plot(plot, result)
    result.checks = [{**vars(c), "passed": c.passed} for c in checks]
    result.passed = all(c.passed for c in checks)
    result.seconds = round(time.perf_counter() - start, 3)
    show("verdict", result)
    return result


def _stages(folder: Path, runtime: str, result: Result, show: Show) -> list[Check]:
    source = folder / CHECKPOINT.name
    result.inspected = inspect(str(source))
    show("inspect", result.inspected)

    arguments = result.inspected.groups[0]["arguments"]
    for other in ("onnxruntime:AdamWOptimizer", "mxnet:adam"):
        result.explained.append(explain(result.inspected.optimizer or "torch:AdamW", other, arguments))
    show("explain", result.explained)

    result.converted = convert(str(source), str(folder / BUNDLE))
    state = load(folder / BUNDLE)
    moved = diff(load(source), state).slots
    result.nodes = _write_graph(state, folder)
    show("convert", result)

    result.continued, end = _continue(state, folder, f"onnxruntime {runtime}")
    show("continue", result.continued)
    result.back = _back(folder, end)
    show("back", result.back)
    result.mxnet = _to_mxnet(folder, end)
    show("mxnet", result.mxnet)

    same = f"{sum(s.bitwise for s in moved)} of {len(moved)}"
    return [
        Check("bundle: tensors same bit for bit", same, "=", f"{len(moved)} of {len(moved)}"),
        *_continuation_checks(result.continued),
        *_target_checks(result.back, result.mxnet),
    ]


def _write_graph(state: TrainingState, folder: Path) -> int:
    """Forward, loss, gradient and update in one graph; how many nodes that is."""
    graphs = converter("onnx", "training_graph")
    built = graphs.build(folder / FORWARD.name, LOSS, state.spec, steps=dict(state.steps))
    graphs.write(built.model, folder / GRAPH)
    return len(built.model.graph.node)


def _continue(state: TrainingState, folder: Path, runtime: str) -> tuple[Continued, TrainingState]:
    """Fifty updates from the converted state, which ends as the second, and from what two usual
    shortcuts make of it."""
    with np.load(CONTINUATION) as file:
        recorded = {name: file[name] for name in file.files}
    batches = [_batch(recorded["images"][rows], recorded["labels"][rows]) for rows in recorded["batches"]]
    zero = dict.fromkeys(state.steps, 0)
    starts = {
        "converted": state,
        "optimizer restarted from zero": replace(state, slots={}, steps=zero),
        "moments copied, step from 0": replace(state, steps=zero),
    }
    trainers = {
        name: converter("onnx", "runtime").Trainer(
            folder / FORWARD.name, LOSS, state=at, threads=1, flush_denormals=False
        )
        for name, at in starts.items()
    }
    runs = [_run(name, trainer, batches, recorded) for name, trainer in trainers.items()]
    trainers["converted"].save(folder / CONTINUED)

    held = {name: np.asarray(value) for name, value in state.params.items()}
    for name in state.names:
        held |= {f"{name}.{slot}": a for slot, a in state.full_slots(name).items()}
    held["step"] = np.array(state.clock, np.int64)
    alone = losses_of(folder / GRAPH, held, batches, state.spec.lrs[0])
    found = Continued(
        runtime,
        tolerance(state, len(batches)),
        [float(x) for x in recorded["loss"]],
        float(recorded["loss"].mean()),
        runs,
        sum(a == b for a, b in zip(alone, runs[0].losses, strict=True)),
    )
    return found, trainers["converted"].state()


def _batch(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"pixels": images.astype(np.float32) / np.float32(16), "label": labels.astype(np.int64)}


def _run(name: str, trainer: Any, batches: Batches, recorded: Mapping[str, np.ndarray]) -> Run:
    """Train on the recorded batches, and compare with what PyTorch did on them."""
    losses: list[float] = []
    errors: dict[str, dict[str, float]] = {}
    at = {int(n): i for i, n in enumerate(recorded["recorded_at"])}
    for done, batch in enumerate(batches, 1):
        losses.append(trainer.step(**batch))
        if done not in at:
            continue
        now = trainer.state()
        for param in now.names:
            held = errors.setdefault(param, {})
            for key, array in {"param": now.params[param], **now.slots[param]}.items():
                error = relative_error(array, recorded[f"{key}/{param}"][at[done]])
                held[key] = max(held.get(key, 0.0), error)
    gap = relative_error(losses, recorded["loss"])
    return Run(name, losses, gap, float(np.mean(losses)), trainer.step_count, errors)


def _back(folder: Path, end: TrainingState) -> Back:
    """The end of the run as a checkpoint that PyTorch goes on from, weights and all."""
    done = convert(str(folder / CONTINUED), str(folder / BACK), to_format="torch-combined")
    read = load(folder / BACK)
    pairs = [(read.params[n], end.params[n]) for n in end.names]
    pairs += [(read.slots[n][s], a) for n in end.names for s, a in end.full_slots(n).items()]
    steps = set(read.steps.values())
    return Back(
        done, sum(_same(a, b) for a, b in pairs), len(pairs), steps.pop() if len(steps) == 1 else None
    )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _to_mxnet(folder: Path, end: TrainingState) -> ToMXNet:
    """The same for MXNet: refused as its own Adam, exact with an optimizer that is the rule."""
    source = str(folder / CONTINUED)
    refusal, verdict = "", "accepted"
    try:
        convert(source, str(folder / STATES), optimizers=("mxnet:adam",))
    except VerdictError as e:
        refusal, verdict = str(e), "refused"
    emitted = convert(source, str(folder / STATES), emit_optimizer=str(folder / MODULE))
    weights = convert(source, str(folder / WEIGHTS))
    native, values = read_native(str(folder / STATES)), read_model(str(folder / WEIGHTS)).tensors
    pairs = [(values[n], end.params[n]) for n in end.names]
    for name in end.names:
        # The emitted optimizer keeps a parameter's slots as a tuple, in the rule's order.
        pairs += [(native.slots[name][f"[{i}]"], a) for i, a in enumerate(end.full_slots(name).values())]
    steps = sorted({int(native.steps[name] or 0) for name in end.names})
    return ToMXNet(refusal, verdict, emitted, weights, sum(_same(a, b) for a, b in pairs), len(pairs), steps)


def _plot(path: str, result: Result) -> None:
    """The curves over each other; where there can be no picture, why. The numbers stand without it."""
    found = result.continued
    assert found is not None
    curves = {
        "PyTorch, not stopped": found.recorded_losses,
        found.runtime: found.runs[0].losses,
        f"{found.runtime}, {found.runs[1].name}": found.runs[1].losses,
    }
    try:
        loss_plot(path, curves, first_step=make_data.SAVED_AT + 1, title="A PyTorch run, continued")
    except OptexportError as e:
        result.no_plot = str(e)
    else:
        result.plot = path


def _continuation_checks(found: Continued) -> list[Check]:
    good, *wrong = found.runs
    limit, every = found.tolerance, len(good.losses)
    return [
        Check("ONNX Runtime: losses", good.loss, "≤", limit),
        Check("ONNX Runtime: parameters", good.worst("param"), "≤", limit),
        Check("ONNX Runtime: exp_avg", good.worst("exp_avg"), "≤", limit),
        Check("ONNX Runtime: exp_avg_sq", good.worst("exp_avg_sq"), "≤", limit),
        Check("ONNX Runtime: step", str(good.step), "=", _END),
        Check(
            "the graph by itself: losses same bit for bit",
            f"{found.by_itself} of {every}",
            "=",
            f"{every} of {every}",
        ),
        *[Check(f"told apart: {run.name}", run.worst("param"), "≥", CONTRAST * limit) for run in wrong],
    ]


def _target_checks(back: Back, mxnet: ToMXNet) -> list[Check]:
    def same(what: str, found: Back | ToMXNet) -> Check:
        every = f"{found.tensors} of {found.tensors}"
        return Check(f"{what}: tensors same bit for bit", f"{found.same} of {found.tensors}", "=", every)

    return [
        same("PyTorch", back),
        Check("PyTorch: step", str(back.step), "=", _END),
        Check("MXNet: as mxnet:adam", mxnet.verdict, "=", "refused"),
        same("MXNet", mxnet),
        Check("MXNet: step", ", ".join(map(str, mxnet.steps)), "=", _END),
    ]


_END = str(make_data.SAVED_AT + make_data.CONTINUED)
