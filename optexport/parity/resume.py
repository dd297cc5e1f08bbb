"""A checkpoint and its port, run onwards side by side, each in its own framework."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..dialects import converter, find, frameworks, home
from ..errors import CheckpointError, NamingError, OptexportError, VerdictError
from ..state import TrainingState, load, save
from ..state.diff import diff
from ..state.formats import BUNDLE, find_format
from ..state.store import detect
from ..translation import Report, translate
from .bounds import rounding_bound
from .compare import referee, relative_error
from .gradients import recorded
from .problems import problem
from .runs import Arrays
from .table import rows_of

__all__ = ["ParamDrift", "ResumeError", "Resumed", "Side", "resume_check"]

# Read by the framework itself without running what the file says. (MXNet unpickles: it is given the state in a
# file that is written here.)
_LOADED = {"torch", "optax", "keras"}


class ResumeError(OptexportError):
    """A framework that does not go on from a file."""

    exit_code = 1


@dataclass(frozen=True)
class Side:
    """One of the two runs. ran: by what, in words. in_framework: whether its own framework ran it.
    error: farthest from its own rule as the float64 referee runs it, relative; error_bound: what rounding
    explains of that."""

    path: str
    format: str
    optimizer: str
    step: int
    ran: str
    in_framework: bool
    error: float = 0.0
    error_bound: float = 0.0


@dataclass(frozen=True)
class ParamDrift:
    """divergence: max|a − b| / max|a| after each update; bounds: what rounding and the verdict explain."""

    param: str
    divergence: tuple[float, ...]
    bounds: tuple[float, ...]

    @property
    def first(self) -> int | None:
        pairs = zip(self.divergence, self.bounds, strict=True)
        return next((t for t, (d, b) in enumerate(pairs, 1) if d > b), None)


@dataclass(frozen=True)
class Resumed:
    """What `resume_check` found; fields as in the command's JSON. differences: of the two files' rules and
    hyperparameters, one sentence each."""

    within: bool
    verdict: str
    conditions: tuple[str, ...]
    bound: float | None
    divergence: float
    first: dict[str, Any] | None
    steps: int
    dtype: str
    gradients: str
    a: Side
    b: Side
    params: tuple[ParamDrift, ...]
    differences: tuple[str, ...]
    warnings: tuple[str, ...]


def resume_check(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    gradients: str | os.PathLike[str] | None = None,
    steps: int = 20,
    seed: int = 0,
    model: str | os.PathLike[str] | None = None,
    names: str | Sequence[str] | None = None,
    optimizers: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
) -> Resumed:
    """Run a checkpoint and its port onwards on the same gradients and compare them.

    gradients: a file as `gradients.recorded` reads; made with ``seed`` where None. model: a weights file, where
    the checkpoints hold none; values are made where there is none either. names: parameters in the optimizer's
    order. optimizers: ``framework:name`` for files that do not say. arguments: of these optimizers.

    The bound of a parameter is what rounding explains on both sides (`rounding_bound`), and the verdict's bound
    times the way that the parameter has travelled. Files are not unpickled.

    Raises:
        CheckpointError, NamingError: a file cannot be read, or the two hold other parameters.
        ResumeError: a framework refuses to go on from its file.
    """
    paths = os.fspath(a), os.fspath(b)
    states = [_open(p, model, names, optimizers, arguments) for p in paths]
    if set(states[0].names) != set(states[1].names):
        missing = sorted(set(states[0].names) ^ set(states[1].names))
        raise NamingError(
            f"{paths[1]}: expected the parameters of {paths[0]}, found others, {missing[0]!r} first; bring the port "
            "back by its map, or give both names (--names, --model)"
        )
    params, told = _values(states, seed)
    dtype = "float64" if all(v.dtype == np.float64 for v in params.values()) else "float32"
    grads, said = _gradients(gradients, params, steps, seed, dtype)
    params = {n: np.asarray(v, dtype) for n, v in params.items()}
    differences = tuple(diff(*states).sentences)
    report = _verdict(states[0], states[1], differences)
    sides, runs, exact, rounding = [], [], [], []
    for path, state in zip(paths, states, strict=True):
        fmt = detect(path)
        wide = [{n: np.asarray(v, np.float64) for n, v in s.items()} for s in _referee(state, params, grads)]
        ran, own, got = _run(path, fmt, state, params, grads, dtype)
        bounds = {n: _rounding(state, n, len(grads), dtype) for n in params}
        error, limit = _farthest(got, wide, bounds)
        sides.append(Side(path, fmt, state.dialect, state.clock, ran, own, error, limit))
        runs.append(got)
        exact.append(wide)
        rounding.append(bounds)
    drifts = _drifts(runs, exact[0], rounding, params, report, _scalars(*states))
    out = [(d.first, d) for d in drifts if d.first is not None]
    first = min(out, key=lambda f: f[0]) if out else None
    accepted = report.verdict in ("exact", "conditional", "bounded")
    return Resumed(
        within=first is None and accepted,
        verdict=report.verdict,
        conditions=report.conditions,
        bound=report.bound,
        divergence=max((max(d.divergence) for d in drifts), default=0.0),
        first=None if first is None else {
            "update": first[0], "param": first[1].param, "divergence": first[1].divergence[first[0] - 1],
            "bound": first[1].bounds[first[0] - 1],
        },
        steps=len(grads),
        dtype=dtype,
        gradients=said,
        a=sides[0],
        b=sides[1],
        params=tuple(drifts),
        differences=differences,
        warnings=tuple(dict.fromkeys([*told, *(w for s in states for w in s.warnings), *_unrun(sides)])),
    )  # fmt: skip


def _open(path: str, model: Any, names: Any, optimizers: Sequence[str], arguments: Any) -> TrainingState:
    fmt = detect(path)
    if fmt == BUNDLE:
        return load(path, model=model if model is not None else None)
    framework = find_format(fmt).framework
    own = [o for o in optimizers if home(o.partition(":")[0].lower()) == home(framework)]
    state = load(
        path,
        model=model,
        names=names,
        optimizer=own[0] if own else None,
        arguments=arguments if own else None,
    )
    return state.without_masters()


def _values(states: Sequence[TrainingState], seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Where both runs start: the values in A, else in B, else made ones."""
    told: list[str] = []
    rng, out = np.random.default_rng(seed), {}
    for name in states[0].steps:
        held = [np.asarray(s.params[name]) for s in states if name in s.params]
        if len(held) == 2 and not np.array_equal(held[0], held[1]):
            told.append(f"parameter {name!r}: the files hold other values; both runs start from A's")
        shape = next((sh for s in states if (sh := s.shape(name)) is not None), None)
        if held:
            out[name] = held[0].astype(np.float32) if held[0].dtype.itemsize < 4 else held[0]
        elif shape is None:
            raise CheckpointError(f"parameter {name!r}: nothing tells its shape; pass the weights (--model)")
        else:
            out[name] = rng.standard_normal(shape).astype(np.float32)
            told.append(
                "the files hold no weights: both runs start from made ones (pass --model for the run's own)"
            )
    return out, list(dict.fromkeys(told))


def _gradients(
    file: Any, params: Mapping[str, np.ndarray], steps: int, seed: int, dtype: str
) -> tuple[list[dict[str, np.ndarray]], str]:
    if file is None:
        made = problem(dtype, steps, seed, shapes={n: v.shape for n, v in params.items()})
        return made.grads, f"made, seed {seed}"
    given = recorded(file, dtype, steps)
    for name, value in params.items():
        found = np.shape(given.grads[0].get(name, ()))
        if name not in given.grads[0] or found != value.shape:
            what = f"of shape {list(found)}" if name in given.grads[0] else "none"
            raise CheckpointError(
                f"{os.fspath(file)}: expected gradients of {name!r}, {list(value.shape)} a step, found {what}"
            )
    return [{n: g[n] for n in params} for g in given.grads], os.fspath(file)


def _referee(
    state: TrainingState, params: Arrays, grads: Sequence[Arrays]
) -> Iterator[Mapping[str, np.ndarray]]:
    wide = replace(
        state,
        params={n: np.asarray(v, np.float64) for n, v in params.items()},
        slots={
            n: {s: np.asarray(v) for s, v in replace(state, params=params).full_slots(n).items()}
            for n in params
        },
        dtype="float64",
    )
    for after in referee(state.spec, params, grads, [None] * len(grads), wide):  # type: ignore[list-item]
        yield after.params


def _run(
    path: str, fmt: str, state: TrainingState, params: Arrays, grads: Sequence[Arrays], dtype: str
) -> tuple[str, bool, list[dict[str, np.ndarray]]]:
    """What ran it, whether that is its own framework, and parameters after each update."""
    framework = "" if fmt == BUNDLE else home(find_format(fmt).framework)
    run = _runner(framework or "onnx")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of frameworks, about a class that is registered again and the like
        try:
            if run is None:
                return (
                    "the referee, its framework is not installed",
                    False,
                    _by_referee(state, params, grads, dtype),
                )
            native = getattr(run, "native_resume", None)
            rates = _rates(state, len(grads))
            if native is None or not framework or ":" not in state.dialect or rates == []:
                what = "the update graph of its rule on onnxruntime" if framework in ("", "onnx") else (
                    f"the optimizer that optexport writes for {framework}"
                )  # fmt: skip
                return what, True, _emitted(run, state, params, grads, dtype)
            # (A dot in a name is a level of the file's tree to Optax, whose parameters here are flat.)
            loaded = fmt in _LOADED and not (fmt == "optax" and any("." in n for n in params))
            order = {n: params[n] for n in (state.steps if loaded else state.ordered_names)}
            what, file = f"{state.dialect}, the file loaded by the framework itself", path
            called = {n: n if loaded else n.replace(".", "_") for n in order}
            if not loaded:
                if len(set(called.values())) < len(called):
                    called = {n: f"parameter_{i}" for i, n in enumerate(order)}
                file = os.path.join(folder, "state" + find_format(framework).suffixes[0].rstrip("/"))
                save(replace(state, params=order).renamed(called), file, format=framework)
                what = f"{state.dialect}, from a file of the same state"
            given = [{called[n]: g[n] for n in order} for g in grads]
            start = {called[n]: v for n, v in order.items()}
            snapshots = native(file, state.dialect, _arguments(state), start, given, rates, dtype)
            return what, True, [{n: after[called[n]] for n in order} for after, _ in snapshots]
        except OptexportError:
            raise
        except Exception as e:
            said = " ".join(str(e).split())[:300]
            raise ResumeError(
                f"{path}: {framework or 'onnxruntime'} does not go on from it: {type(e).__name__}: {said}"
            ) from e


def _rates(state: TrainingState, steps: int) -> list[float] | None:
    """What a training loop sets the learning rate to before each update: no optimizer's own file has its schedule.

    None where it stays; empty where groups part or another hyperparameter moves, which no loop here sets.
    """
    if not any(g.schedules for g in state.spec.groups):
        return None
    if any(set(g.schedules) != {"lr"} for g in state.spec.groups):
        return []
    groups = [(g, max((state.steps[n] for n in state.names if state.spec.group(n) is g), default=0))
              for g in state.spec.groups]  # fmt: skip
    rates = [[g.values(step=done + t)["lr"] for t in range(steps)] for g, done in groups]
    return rates[0] if all(r == rates[0] for r in rates) else []


def _arguments(state: TrainingState) -> dict[str, Any]:
    """Of the class, as far as its file does not hold them (PyTorch's and MXNet's hold all)."""
    entry, given = find(state.dialect), state.spec.groups[0].arguments or {}
    if entry.framework in ("torch", "mxnet"):
        return {}
    return {k: v for k, v in given.items() if k in entry.arguments and v != entry.arguments[k]}


def _runner(framework: str) -> Any:
    if framework not in frameworks():
        return None
    try:
        return converter(framework, "run")
    except ImportError:
        return None


def _emitted(
    run: Any, state: TrainingState, params: Arrays, grads: Sequence[Arrays], dtype: str
) -> list[dict[str, np.ndarray]]:
    slots = {n: dict(replace(state, params=params).full_slots(n)) for n in params}
    return [
        dict(after) for after, _ in run.snapshots(state.spec, params, grads, None, dtype, slots, state.steps)
    ]


def _by_referee(
    state: TrainingState, params: Arrays, grads: Sequence[Arrays], dtype: str
) -> list[dict[str, np.ndarray]]:
    return [{n: np.asarray(v, dtype) for n, v in after.items()} for after in _referee(state, params, grads)]


def _unrun(sides: Sequence[Side]) -> list[str]:
    said = "this side shows what its rule computes, not what the framework does"
    return [f"{s.path}: {s.ran}: {said}" for s in sides if not s.in_framework]


def _verdict(a: TrainingState, b: TrainingState, differences: Sequence[str]) -> Report:
    """How exact A's optimizer is as B's. differences: as `diff` tells them."""
    if not differences or (a.dialect and a.dialect == b.dialect):
        return Report("exact")
    if not b.dialect:
        rules = all(a.spec.group(n).rule.program == b.spec.group(n).rule.program for n in a.names)
        return (
            Report("exact") if rules else Report("none", conditions=("B's optimizer computes another rule",))
        )
    try:
        return translate(a, b.dialect, allow="lossy")[1]
    except VerdictError as e:
        return Report("none", conditions=(str(e),))


def _scalars(a: TrainingState, b: TrainingState) -> float:
    """How much larger an update may be where one side keeps hyperparameters in float32 and the other does not:
    β rounds by 2⁻²⁵ or less, and 1 − β with it."""
    worst = 0.0
    for name in a.names:
        left, right = a.spec.group(name), b.spec.group(name)
        if left.rule.options.get("scalars") == right.rule.options.get("scalars"):
            continue
        for value in left.values(step=a.steps[name]).values():
            gap = abs(float(np.float32(value)) - value)
            away = min(x for x in (abs(value), abs(1 - value), 1.0) if x > 0)
            worst = max(worst, gap / away)
    return worst


def _rounding(state: TrainingState, name: str, steps: int, dtype: str) -> list[float]:
    group = state.spec.group(name)
    rows = [r for r in rows_of(group.native or "") if r.spec().groups[-1].rule.options == group.rule.options]
    times = max((r.amplification for r in rows), default=1.0)
    floor = max((r.floor_in(dtype) for r in rows), default=0.0)
    return [floor + rounding_bound(group.rule.program, t, dtype, times) for t in range(1, steps + 1)]


def _farthest(
    got: Sequence[Arrays], want: Sequence[Arrays], bounds: Mapping[str, Sequence[float]]
) -> tuple[float, float]:
    """The error nearest to its bound, and that bound."""
    found = [
        (relative_error(g[n], w[n]), bounds[n][t])
        for t, (g, w) in enumerate(zip(got, want, strict=True))
        for n in w
    ]
    return max(found, key=lambda f: f[0] / f[1], default=(0.0, 0.0))


def _drifts(
    runs: Sequence[Sequence[Arrays]],
    exact: Sequence[Arrays],
    rounding: Sequence[Mapping[str, Sequence[float]]],
    params: Arrays,
    report: Report,
    scalars: float,
) -> list[ParamDrift]:
    out = []
    for name, first in params.items():
        travelled, before, errors, bounds = 0.0, np.asarray(first, np.float64), [], []
        for t, (one, two) in enumerate(zip(*runs, strict=True)):
            now = exact[t][name]
            scale = float(np.abs(now).max(initial=0.0))
            travelled += float(np.abs(now - before).max(initial=0.0)) / scale if scale else 0.0
            before = now
            errors.append(relative_error(two[name], one[name]))
            both = rounding[0][name][t] + rounding[1][name][t]
            bounds.append(both + ((report.bound or 0.0) + scalars) * travelled)
        out.append(ParamDrift(name, tuple(errors), tuple(bounds)))
    return out
