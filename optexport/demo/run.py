"""The demonstration: a half-finished PyTorch run goes on in ONNX Runtime and, as a file, to MXNet.

Every number it prints is measured here, against the recorded continuation of the same run in
PyTorch (`make_data` made both). It needs onnxruntime and no training framework.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..convert import Conversion, convert
from ..errors import VerdictError
from ..parity.bounds import LAMBDA, rounding_bound, unit_roundoff
from ..parity.compare import relative_error
from ..state import TrainingState, load
from ..state.diff import diff
from ..state.inspect import Inspection, inspect
from ..state.store import read_native
from ..translation import Explanation, explain
from . import make_data
from .network import OPERATIONS, loss_and_gradients
from .session import GraphSession, runtime_version

__all__ = ["CHECKPOINT", "Check", "Continued", "Result", "Run", "ToMXNet", "tolerance", "work"]

CHECKPOINT = Path(__file__).with_name(make_data.CHECKPOINT)
CONTINUATION = Path(__file__).with_name(make_data.CONTINUATION)

# Names of what the demonstration writes.
BUNDLE, GRAPH = "run.safetensors", "run.onnx"
STATES, MODULE = "run.states", "run_adamw.py"

# How much of a small relative disturbance of the state is left, at most, after the 50 updates. The
# tests measure it in float64: at most 1.5.
AMPLIFICATION = 2.0
# A wrong port must miss the tolerance by this factor, else the comparison could not tell it.
CONTRAST = 100.0

Slots = Mapping[str, Mapping[str, np.ndarray]]


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

    loss: of the losses. mean_loss: their own mean. step: what the optimizer counts in the end.
    errors: parameter -> ``param`` or slot -> error.
    """

    name: str
    loss: float
    mean_loss: float
    step: int
    errors: dict[str, dict[str, float]]

    def worst(self, *keys: str) -> float:
        return max(e for held in self.errors.values() for key, e in held.items() if key in keys)


@dataclass
class Continued:
    """Runs in ONNX Runtime; the first from the converted state, the others ported wrongly."""

    runtime: str
    tolerance: float
    recorded_mean_loss: float
    runs: list[Run]


@dataclass
class ToMXNet:
    """refusal: what a conversion to ``mxnet:adam`` answers. same: slots equal bit for bit, read back."""

    refusal: str
    verdict: str
    emitted: Conversion
    same: int
    slots: int
    steps: list[int]


@dataclass
class Result:
    """What ``optexport demo --json`` prints."""

    passed: bool = False
    seconds: float = 0.0
    checks: list[dict[str, Any]] = field(default_factory=list)
    inspected: Inspection | None = None
    explained: list[Explanation] = field(default_factory=list)
    converted: Conversion | None = None
    continued: Continued | None = None
    mxnet: ToMXNet | None = None
    folder: str | None = None


Show = Callable[[str, Any], None]


def tolerance(state: TrainingState, updates: int) -> float:
    """Largest relative difference from PyTorch that float32 rounding explains after ``updates``.

    Rounding errors are independent, so bounds of chains add in squares (see ``parity.bounds``): the
    update's own operations, and those that lead to its gradient, which NumPy and PyTorch sum in
    different orders. Each error then lives on in the run: `AMPLIFICATION`.
    """
    update = max(rounding_bound(g.rule.program, updates, np.float32) for g in state.spec.groups)
    gradient = LAMBDA * np.sqrt(OPERATIONS * updates) * unit_roundoff(np.float32)
    return AMPLIFICATION * float(np.hypot(update, gradient))


def work(
    keep: str | None = None, show: Show | None = None, checkpoint: str | os.PathLike[str] = CHECKPOINT
) -> Result:
    """Run the demonstration.

    keep: a folder for the files it writes; a temporary one when None.
    show: called with each stage's name and what it found, as it completes.
    checkpoint: the half-finished run.

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
        source = folder / CHECKPOINT.name
        shutil.copyfile(checkpoint, source)
        checks = _stages(source, folder, runtime, result, show)
    result.checks = [{**vars(c), "passed": c.passed} for c in checks]
    result.passed = all(c.passed for c in checks)
    result.seconds = round(time.perf_counter() - start, 3)
    show("verdict", result)
    return result


def _stages(source: Path, folder: Path, runtime: str, result: Result, show: Show) -> list[Check]:
    result.inspected = inspect(str(source))
    show("inspect", result.inspected)

    arguments = result.inspected.groups[0]["arguments"]
    for other in ("onnxruntime:AdamWOptimizer", "mxnet:adam"):
        result.explained.append(explain(result.inspected.optimizer or "torch:AdamW", other, arguments))
    show("explain", result.explained)

    result.converted = convert(str(source), str(folder / BUNDLE), emit_optimizer=str(folder / GRAPH))
    show("convert", result.converted)
    state = load(folder / BUNDLE)
    moved = diff(load(source), state).slots

    result.continued = _continue(state, folder / GRAPH, f"onnxruntime {runtime}")
    show("continue", result.continued)

    result.mxnet = _to_mxnet(source, folder, state)
    show("mxnet", result.mxnet)

    same = f"{sum(s.bitwise for s in moved)} of {len(moved)}"
    return [
        Check("bundle: tensors same bit for bit", same, "=", f"{len(moved)} of {len(moved)}"),
        *_continuation_checks(result.continued),
        *_mxnet_checks(result.mxnet),
    ]


def _continue(state: TrainingState, graph: Path, runtime: str) -> Continued:
    """Fifty updates from the converted state, and from what two usual shortcuts make of it."""
    with np.load(CONTINUATION) as file:
        recorded = {name: file[name] for name in file.files}
    slots = {name: state.full_slots(name) for name in state.names}
    step = max(state.steps.values())
    starts: list[tuple[str, Slots | None, int]] = [
        ("converted", slots, step),
        ("optimizer restarted from zero", None, 0),
        ("moments copied, step from 0", slots, 0),
    ]
    runs = []
    for name, moments, count in starts:
        running = GraphSession(graph, state.params, moments, count)
        runs.append(_run(name, running, state.spec.lrs[0], recorded))
    limit = tolerance(state, len(recorded["batches"]))
    return Continued(runtime, limit, float(recorded["loss"].mean()), runs)


def _run(name: str, running: GraphSession, lr: float, recorded: Mapping[str, np.ndarray]) -> Run:
    """Train on the recorded batches, gradients by NumPy, updates by the graph."""
    losses: list[float] = []
    errors: dict[str, dict[str, float]] = {}
    at = {int(n): i for i, n in enumerate(recorded["recorded_at"])}
    for done, rows in enumerate(recorded["batches"], 1):
        images, labels = recorded["images"][rows], recorded["labels"][rows]
        loss, gradients = loss_and_gradients(running.params, images, labels)
        losses.append(loss)
        running.step(gradients, lr=lr)
        if done not in at:
            continue
        for param, value in running.params.items():
            held = errors.setdefault(param, {})
            for key, array in {"param": value, **running.slots[param]}.items():
                error = relative_error(array, recorded[f"{key}/{param}"][at[done]])
                held[key] = max(held.get(key, 0.0), error)
    gap = relative_error(losses, recorded["loss"])
    return Run(name, gap, float(np.mean(losses)), running.step_count, errors)


def _to_mxnet(source: Path, folder: Path, state: TrainingState) -> ToMXNet:
    """The same state for MXNet: refused as its own Adam, exact with an optimizer that is the rule."""
    refusal, verdict = "", "accepted"
    try:
        convert(str(source), str(folder / STATES), optimizers=("mxnet:adam",))
    except VerdictError as e:
        refusal, verdict = str(e), "refused"
    emitted = convert(str(source), str(folder / STATES), emit_optimizer=str(folder / MODULE))
    native = read_native(str(folder / STATES))
    same = total = 0
    for name in state.names:
        # The emitted optimizer keeps a parameter's slots as a tuple, in the rule's order.
        for i, want in enumerate(state.full_slots(name).values()):
            got = native.slots[name][f"[{i}]"]
            total += 1
            same += got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()
    steps = sorted({int(native.steps[name] or 0) for name in state.names})
    return ToMXNet(refusal, verdict, emitted, same, total, steps)


def _continuation_checks(found: Continued) -> list[Check]:
    good, *wrong = found.runs
    limit = found.tolerance
    return [
        Check("ONNX Runtime: losses", good.loss, "≤", limit),
        Check("ONNX Runtime: parameters", good.worst("param"), "≤", limit),
        Check("ONNX Runtime: exp_avg", good.worst("exp_avg"), "≤", limit),
        Check("ONNX Runtime: exp_avg_sq", good.worst("exp_avg_sq"), "≤", limit),
        Check("ONNX Runtime: step", str(good.step), "=", str(make_data.SAVED_AT + make_data.CONTINUED)),
        *[Check(f"told apart: {run.name}", run.worst("param"), "≥", CONTRAST * limit) for run in wrong],
    ]


def _mxnet_checks(found: ToMXNet) -> list[Check]:
    same, every = f"{found.same} of {found.slots}", f"{found.slots} of {found.slots}"
    return [
        Check("MXNet: as mxnet:adam", found.verdict, "=", "refused"),
        Check("MXNet: slots same bit for bit", same, "=", every),
        Check("MXNet: step", ", ".join(map(str, found.steps)), "=", str(make_data.SAVED_AT)),
    ]
