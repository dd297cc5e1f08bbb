"""Running a suite: each case in its backend's process, each beside the float64 referee."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from ..errors import OptexportError
from ..specs import Spec
from .bounds import rounding_bound
from .cases import Case
from .compare import referee
from .environment import environment
from .gradients import Digits, extreme, recorded
from .measures import Measured, measure
from .problems import Problem
from .series import Fault, Series, expected
from .worker import frozen
from .workers import HELLO_TIMEOUT, Worker, WorkerError

__all__ = ["CaseResult", "Report", "WorkerResult", "bounds_of", "run_suite"]

# A worker that was lost is started again this often before its other cases are given up.
RESTARTS = 2


@dataclass(frozen=True)
class CaseResult:
    """status: within, outside (a bound was left), fault (the optimizer is wrong apart from its numbers),
    unavailable (the backend does not offer it), lost (its worker died, hung or printed rubbish), not-run.

    sentence: what is wrong, or why it is not there. losses: of the digits, else empty. given: digest of the
    parameters, gradients and rates that the run had."""

    case: Case
    status: str
    sentence: str = ""
    measured: Measured | None = None
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    given: str = ""
    series: Series = field(default_factory=dict, repr=False, compare=False)

    @property
    def failed(self) -> bool:
        return self.status in ("outside", "fault", "lost", "not-run")


@dataclass(frozen=True)
class WorkerResult:
    """status: ok, absent (no such framework there), died, hung, rubbish. required: the user asked for it."""

    backend: str
    python: str
    status: str
    sentence: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    required: bool = False

    @property
    def failed(self) -> bool:
        return self.status in ("died", "hung", "rubbish") or (self.required and self.status != "ok")


@dataclass(frozen=True)
class Report:
    """Results in the order of the cases. losses: of the referee on digits, by (row, steps)."""

    results: tuple[CaseResult, ...]
    workers: tuple[WorkerResult, ...]
    environment: Mapping[str, str]
    seconds: float
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether everything that ran is within its bounds, nothing was lost, and something ran."""
        ran = any(r.status == "within" for r in self.results)
        return ran and not any(r.failed for r in self.results) and not any(w.failed for w in self.workers)


def bounds_of(
    spec: Spec, names: Iterable[str], steps: int, dtype: str, amplification: float, floor: float
) -> dict[str, list[float]]:
    """What rounding explains after each update, by parameter. spec: settled."""
    out = {}
    for name in names:
        program = spec.group(name).rule.program
        out[name] = [floor + rounding_bound(program, t, dtype, amplification) for t in range(1, steps + 1)]
    return out


class _Referee:
    """Runs of the referee, the newest kept: cases that follow one another share theirs."""

    def __init__(self, gradients: str | None) -> None:
        self.gradients = gradients
        self._runs: OrderedDict[Any, tuple[Series, Spec]] = OrderedDict()
        self._problems: OrderedDict[Any, Problem] = OrderedDict()
        self._digits: Digits | None = None
        self._lock = Lock()

    @property
    def digits(self) -> Digits:
        self._digits = self._digits or Digits()
        return self._digits

    def problem(self, case: Case) -> Problem:
        key = (case.row.id, case.dtype, case.problem, case.steps)
        with self._lock:
            if key not in self._problems:
                self._problems[key] = self._made(case)
                while len(self._problems) > 64:
                    self._problems.popitem(last=False)
            return self._problems[key]

    def _made(self, case: Case) -> Problem:
        if case.problem == "extreme":
            return extreme(case.dtype, case.steps)
        if case.problem == "digits":
            return self.digits.problem(case.spec(), case.row.lr, case.dtype, case.steps)
        if case.problem == "recorded":
            if self.gradients is None:
                raise OptexportError("the problem 'recorded' needs a file of gradients; give --grads FILE")
            return recorded(self.gradients, case.dtype, case.steps)
        return replace(case.row, steps=case.steps).problem(case.dtype)

    def run(self, case: Case, lrs: Sequence[float] | None) -> tuple[Series, Spec]:
        """The referee's series under the names of the case's slots, and the settled spec."""
        native = case.spec().groups[-1].native if case.form == "native" else None
        key = (case.row.id, case.problem, case.steps, native, None if lrs is None else tuple(lrs))
        with self._lock:
            if key in self._runs:
                self._runs.move_to_end(key)
                return self._runs[key]
        problem, spec = self.problem(case), case.spec()
        start = case.row.start(spec, problem.params) if case.form == "native" else None
        drawn = problem.noise if spec.groups[-1].rule.program.inputs("noise") else None
        rates: Any = [None] * len(problem.grads) if lrs is None else lrs
        with np.errstate(all="ignore"):
            states = list(referee(spec, problem.params, problem.grads, rates, start, noise=drawn))
        made = expected(states, native), states[-1].spec
        with self._lock:
            self._runs[key] = made
            while len(self._runs) > 256:
                self._runs.popitem(last=False)
        return made


def run_suite(
    cases: Sequence[Case],
    *,
    pythons: Mapping[str, str] | None = None,
    required: Iterable[str] = (),
    gradients: str | None = None,
    timeout: float = 120.0,
    hello_timeout: float = HELLO_TIMEOUT,
    jobs: int = 2,
    twice: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    keep: bool = False,
    told: Callable[[CaseResult], None] = lambda _: None,
) -> Report:
    """Run every case in a process of its backend and compare it with the referee.

    pythons: framework -> interpreter, this one where not named. required: backends that must be there.
    gradients: file of the problem ``recorded``. timeout: seconds for one case; hello_timeout: until a
    worker has imported its framework. jobs: processes at a time.
    twice: run each case twice and compare bits. options: backend -> options of its ``snapshots``
    (``{"onnx": {"providers": [...]}}``). keep: the results hold the arrays, for a baseline.
    told: called with each result as it comes, from one thread at a time.

    Raises:
        OptexportError: a problem that cannot be made.
    """
    begun = time.monotonic()
    shared = _Referee(gradients)
    lock = Lock()
    done: dict[str, CaseResult] = {}

    def note(result: CaseResult) -> None:
        with lock:
            done[result.case.id] = result
            told(result)

    by_backend: dict[str, list[Case]] = {}
    for case in cases:
        by_backend.setdefault(case.backend, []).append(case)

    def serve(backend: str) -> WorkerResult:
        mine = by_backend[backend]
        python = (pythons or {}).get(backend)
        worker = partial(Worker, backend, python, hello_timeout)
        lane = _Lane(worker, shared, timeout, twice, dict((options or {}).get(backend, {})), keep)
        return lane.run(mine, note, backend in set(required) | set(pythons or {}))

    # The longest first, so that none is alone at the end.
    order = sorted(by_backend, key=lambda b: -len(by_backend[b]))
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        workers = list(pool.map(serve, order))
    losses = {
        f"{c.row.id}/{c.steps}": _losses(shared, c, shared.run(c, _lrs(shared.problem(c), c))[0])
        for c in _first_digits(cases, done)
    }
    return Report(
        tuple(done[c.id] for c in cases),
        tuple(sorted(workers, key=lambda w: w.backend)),
        environment(),
        time.monotonic() - begun,
        losses,
    )


def _first_digits(cases: Iterable[Case], done: Mapping[str, CaseResult]) -> list[Case]:
    seen: dict[str, Case] = {}
    for c in cases:
        if c.problem == "digits" and done[c.id].losses:
            seen.setdefault(f"{c.row.id}/{c.steps}", c)
    return list(seen.values())


def _lrs(problem: Problem, case: Case) -> list[float] | None:
    return None if case.row.lr is None else problem.lrs(case.row.lr)


def _losses(shared: _Referee, case: Case, series: Series) -> tuple[float, ...]:
    if case.problem != "digits" or ("weight", "param") not in series or ("bias", "param") not in series:
        return ()
    held = {n: series[n, "param"] for n in ("weight", "bias")}
    return tuple(shared.digits.loss({n: v[t] for n, v in held.items()}, t) for t in range(len(held["bias"])))


def _digest(arrays: Mapping[str, Any], lrs: Sequence[float] | None) -> str:
    made = hashlib.sha256(repr(lrs).encode())
    for name, value in sorted(arrays.items()):
        made.update(f"{name} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    return made.hexdigest()[:32]


@dataclass(frozen=True)
class _Lane:
    """The cases of one backend, one after another in its worker. worker: makes a new one."""

    worker: Callable[[], Worker]
    shared: _Referee
    timeout: float
    twice: bool
    options: dict[str, Any]
    keep: bool

    def run(self, cases: Sequence[Case], note: Callable[[CaseResult], None], required: bool) -> WorkerResult:
        left = list(cases)
        made = self.worker()
        ended = partial(WorkerResult, made.framework, made.python, required=required)
        last: WorkerError | None = None
        versions: Mapping[str, str] = {}
        for _ in range(RESTARTS + 1):
            with self.worker() as worker:
                try:
                    hello = worker.start()
                except WorkerError as e:
                    return self._gone(left, note, ended(e.kind, str(e)))
                versions = hello.get("environment", {})
                if "absent" in hello:
                    return self._gone(left, note, ended("absent", str(hello["absent"]), versions))
                last = self._serve(worker, left, note)
            if last is None:
                return ended("ok", "", versions)
        assert last is not None
        said = f"{last}; lost {RESTARTS + 1} times, the rest is given up"
        return self._gone(left, note, ended(last.kind, said, versions))

    def _serve(
        self, worker: Worker, left: list[Case], note: Callable[[CaseResult], None]
    ) -> WorkerError | None:
        """Until all are done, or the worker is lost; then its case is over too."""
        while left:
            case = left.pop(0)
            try:
                note(self._one(worker, case))
            except WorkerError as e:
                note(CaseResult(case, "lost", f"{e.kind}: {e}"))
                return e
            except OptexportError as e:
                note(CaseResult(case, "unavailable", str(e)))
        return None

    def _gone(
        self, left: Sequence[Case], note: Callable[[CaseResult], None], result: WorkerResult
    ) -> WorkerResult:
        status = "not-run" if result.failed else "unavailable"
        for case in left:
            note(CaseResult(case, status, result.sentence))
        return result

    def _one(self, worker: Worker, case: Case) -> CaseResult:
        problem = self.shared.problem(case)
        lrs = _lrs(problem, case)
        arrays: dict[str, Any] = {f"param:{n}": v for n, v in problem.params.items()}
        arrays |= {f"grad:{n}": np.stack([g[n] for g in problem.grads]) for n in problem.params}
        spec = case.spec()
        noisy = bool(spec.groups[-1].rule.program.inputs("noise"))
        if noisy:
            arrays |= {f"noise:{n}": np.stack([g[n] for g in problem.noise]) for n in problem.params}
        row = case.row
        message = {
            "id": case.id,
            "case": {
                "optimizer": row.optimizer,
                "arguments": frozen(row.arguments),
                "desc": row.desc,
                "done": row.done,
                "form": case.form,
            },
            "dtype": case.dtype,
            "params": list(problem.params),
            "steps": len(problem.grads),
            "lrs": lrs,
            "noise": noisy,
            "twice": self.twice,
            "options": self.options if case.form == "emitted" else {},
        }
        reply, held = worker.ask(message, arrays, self.timeout)
        if "unavailable" in reply:
            return CaseResult(case, "unavailable", str(reply["unavailable"]))
        got = {(str(k[0]), str(k[1])): held[str(i)] for i, k in enumerate(reply["keys"])}
        fault = Fault(**reply["fault"]) if "fault" in reply else None
        as_tensors = worker.hello.get("rates") == "tensors" and case.form == "emitted" and lrs is not None
        given = [float(np.dtype(case.dtype).type(x)) for x in lrs or ()] if as_tensors else lrs
        result = self._compared(case, got, fault, given, float(reply["seconds"]))
        return replace(result, given=_digest(arrays, lrs))

    def _compared(
        self, case: Case, got: Series, fault: Fault | None, lrs: Sequence[float] | None, seconds: float
    ) -> CaseResult:
        want, spec = self.shared.run(case, lrs)
        floor = case.row.floor_in(case.dtype) if case.form == "native" else 0.0
        names = {n for n, _ in want}
        bounds = bounds_of(spec, names, case.steps, case.dtype, case.row.amplification, floor)
        measured = measure(got, want, bounds, fault)
        status = "fault" if measured.fault else "within" if measured.within else "outside"
        losses = _losses(self.shared, case, got)
        kept = got if self.keep else {}
        return CaseResult(case, status, measured.sentence, measured, losses, seconds, series=kept)
