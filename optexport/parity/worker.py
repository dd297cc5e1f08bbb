"""Runs optimizers for a suite, in the interpreter that starts it: ``python -m optexport.parity.worker FRAMEWORK``.

Messages come on standard input and go to standard output (`frames`). What a framework prints goes to
standard error, so that it cannot stand between two frames.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from .. import __version__
from ..dialects import converter
from ..errors import OptexportError, RuleError, UnknownNameError
from .environment import environment
from .frames import ClosedError, read_frame, write_frame
from .record import Row
from .runs import Snapshot
from .series import collect, parted, raised

__all__ = ["PROTOCOL", "main", "thawed"]

PROTOCOL = 1


def main() -> None:
    """Serve until the pipe ends."""
    out = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    framework = sys.argv[1]
    hello: dict[str, Any] = {"protocol": PROTOCOL, "optexport": __version__}
    run: ModuleType | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = converter(framework, "run")
        # Rates are given to the referee as the backend holds them.
        hello["rates"] = "tensors" if getattr(run, "RATES_ARE_TENSORS", False) else "numbers"
    except ImportError as e:
        hello["absent"] = f"{framework} cannot be imported here: {e}"
    except OptexportError as e:
        hello["absent"] = str(e)
    try:
        write_frame(out, hello | {"environment": environment()})
        while run is not None:
            message, arrays = read_frame(0)
            write_frame(out, *answer(run, message, arrays))
    except ClosedError:
        return


def answer(
    run: ModuleType, message: Mapping[str, Any], arrays: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one case gives: its series, and a fault where there is one; or why it is not offered."""
    begun = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            series, fault = collect(_snapshots(run, message, arrays))
            if message.get("twice") and fault is None:
                again, _ = collect(_snapshots(run, message, arrays))
                fault = parted(series, again)
        except (RuleError, UnknownNameError) as e:
            return {"unavailable": str(e)}, {}
        except Exception as e:
            series, fault = {}, raised(e, 1)
    reply: dict[str, Any] = {"keys": [list(k) for k in series], "seconds": time.perf_counter() - begun}
    if fault:
        reply["fault"] = vars(fault)
    return reply, {str(i): _carried(v) for i, v in enumerate(series.values())}


def _carried(value: np.ndarray) -> np.ndarray:
    """bfloat16 has no type in a frame; float32 holds its numbers."""
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value


def _snapshots(run: ModuleType, message: Mapping[str, Any], arrays: Mapping[str, Any]) -> Iterator[Snapshot]:
    case, dtype = message["case"], message["dtype"]
    names, steps = message["params"], message["steps"]
    params = {n: arrays[f"param:{n}"] for n in names}
    grads = [{n: arrays[f"grad:{n}"][t] for n in names} for t in range(steps)]
    given: dict[str, Any] = dict(message.get("options", {}))
    native = case["form"] == "native"
    # (A backend that takes none refuses the rule when it emits it, and says why.)
    takes = inspect.signature(run.native_snapshots if native else run.snapshots).parameters
    if message.get("noise") and "noise" in takes:
        given["noise"] = [{n: arrays[f"noise:{n}"][t] for n in names} for t in range(steps)]
    row = Row(case["optimizer"], thawed(case["arguments"]), case["desc"], done=case["done"])
    lrs = message["lrs"]
    if native:
        given |= {"done": row.done} if row.done else {}
        return _checked(
            run.native_snapshots(row.optimizer, row.arguments, params, grads, lrs, dtype=dtype, **given)
        )
    return _checked(run.snapshots(row.spec(), params, grads, lrs, dtype=dtype, **given))


def _checked(snapshots: Iterator[Snapshot]) -> Iterator[Snapshot]:
    """Begun: what a backend does not offer is raised here, before a run's own exceptions are caught."""
    first = next(snapshots)

    def rest() -> Iterator[Snapshot]:
        yield first
        yield from snapshots

    return rest()


def frozen(value: Any) -> Any:
    """Arguments as JSON that tells a tuple from a list."""
    if isinstance(value, tuple):
        return {"tuple": [frozen(v) for v in value]}
    if isinstance(value, list):
        return [frozen(v) for v in value]
    if isinstance(value, Mapping):
        return {"mapping": {str(k): frozen(v) for k, v in value.items()}}
    if isinstance(value, np.generic):
        return value.item()
    return value


def thawed(value: Any) -> Any:
    """What `frozen` made JSON of."""
    if isinstance(value, list):
        return [thawed(v) for v in value]
    if isinstance(value, Mapping):
        if "tuple" in value:
            return tuple(thawed(v) for v in value["tuple"])
        return {k: thawed(v) for k, v in value["mapping"].items()}
    return value


if __name__ == "__main__":
    main()
