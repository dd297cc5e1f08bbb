"""What a suite runs: rows × forms × backends × dtypes × problems."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..dialects import frameworks
from ..specs import Spec
from .record import BOTH, Row
from .table import rows_of, table

__all__ = ["PROBLEMS", "Case", "backends", "default_cases", "emitters", "plan", "rows_for"]

PROBLEMS = ("standard", "extreme", "digits", "recorded")

# The default suite's rules on the problems that ask more, none of which adds L2 decay to the gradient: where the two
# nearly cancel, no bound holds that does not know how nearly.
_ON_EXTREME = ("torch:SGD", "torch:Adam", "torch:AdamW", "torch:Adagrad", "torch:RMSprop", "torch:Adadelta")
_ON_DIGITS = ("torch:SGD", "torch:AdamW", "optax:rmsprop", "mxnet:adam", "keras:Adam", "optax:adamw")


@dataclass(frozen=True)
class Case:
    """One row in one backend. form: native (the framework's own optimizer) or emitted (the row's rule as
    optexport writes it for the backend). problem: one of `PROBLEMS`."""

    row: Row
    backend: str
    form: str
    dtype: str
    problem: str = "standard"
    steps: int = 30

    @cached_property
    def id(self) -> str:
        return f"{self.row.id}/{self.backend}/{self.form}/{self.dtype}/{self.problem}/{self.steps}"

    def spec(self) -> Spec:
        return self.row.spec()


def emitters() -> list[str]:
    """Frameworks that optexport emits for."""
    return [n for n, package in sorted(frameworks().items()) if importlib.util.find_spec(f"{package}.emit")]


def backends() -> list[str]:
    """Frameworks that can run something."""
    return [n for n, package in sorted(frameworks().items()) if importlib.util.find_spec(f"{package}.run")]


def rows_for(rule: str, arguments: dict[str, Any] | None = None) -> list[Row]:
    """The rows of a rule of the catalogue or of ``framework:optimizer``.

    arguments: one row with these instead of the table's.

    Raises:
        UnknownNameError, HyperparameterError: there is none, or an argument is wrong.
    """
    found = rows_of(rule)
    if found and not arguments:
        return found
    dtypes = tuple(d for d in BOTH if all(d in r.dtypes for r in found))
    made = Row(rule, dict(arguments or {}), "given" if arguments else "defaults", dtypes)
    made.spec()  # raises what is wrong with it
    return [_conditioned(made)]


def _conditioned(row: Row) -> Row:
    """With the condition number of its rule, which the table knows."""
    rule = row.spec().groups[-1].rule
    known = [r for r in table() if r.amplification > 1 and r.spec().groups[-1].rule == rule]
    same = [r for r in known if r.optimizer == row.optimizer] or known
    return replace(row, amplification=max((r.amplification for r in same), default=1.0))


def plan(
    rows: Iterable[Row],
    *,
    backends: Sequence[str] | None = None,
    forms: Sequence[str] = ("native", "emitted"),
    dtypes: Sequence[str] = BOTH,
    problems: Sequence[str] = ("standard",),
    steps: int | None = None,
) -> list[Case]:
    """Every case of these rows. A native optimizer runs in the dtypes that its framework can; a rule of the catalogue
    is no framework's own, and is emitted alone.

    backends: those that have emitters, where None.
    """
    out = []
    for row in rows:
        own = row.framework
        taken = [*([own] if own else []), *emitters()] if backends is None else backends
        for problem in problems:
            for dtype in dtypes:
                if "native" in forms and own and own in taken and dtype in row.dtypes:
                    out.append(Case(row, own, "native", dtype, problem, steps or row.steps))
                if "emitted" in forms:
                    out += [
                        Case(row, b, "emitted", dtype, problem, steps or row.steps)
                        for b in emitters()
                        if b in taken
                    ]
    return _unique(out)


def _unique(cases: Iterable[Case]) -> list[Case]:
    return list({c.id: c for c in cases}.values())


def default_cases(
    backends: Sequence[str] | None = None, dtypes: Sequence[str] = BOTH, steps: int | None = None
) -> list[Case]:
    """The default suite: every native optimizer once, every rule of theirs emitted for every backend once, and
    some on extreme scales and on digits."""
    first: dict[str, Row] = {}
    for row in table():
        first.setdefault(row.optimizer, row)
    rules: dict[Any, Row] = {}
    for row in first.values():
        rules.setdefault(row.spec().groups[-1].rule, row)
    out = plan(first.values(), backends=backends, forms=("native",), dtypes=dtypes, steps=steps)
    out += plan(rules.values(), backends=backends, forms=("emitted",), dtypes=("float32",), steps=steps)
    for problem, names in (("extreme", _ON_EXTREME), ("digits", _ON_DIGITS)):
        rows = [first[n] for n in names if n in first]
        out += plan(rows, backends=backends, dtypes=("float32",), problems=(problem,), steps=steps)
    return _unique(out)
