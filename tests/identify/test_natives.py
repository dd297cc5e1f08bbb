"""Every native optimizer of the parity table is recognised, at the arguments of its row."""

from __future__ import annotations

from typing import Any

import pytest

import optexport as ox
from optexport.identify import Identity, identify
from optexport.ir.analysis import Reach, reach
from optexport.parity import problem, referee, relative_error
from optexport.parity.record import Row
from optexport.parity.subjects import SubjectError
from optexport.rules import families
from optexport.specs import Group, Spec
from tests.natives import made, rows


def same_run(found: Identity, row: Row, tolerance: float) -> None:
    """The rule that was found computes what the row's does, in double."""
    shapes = row.shapes or {"w": (7, 5), "b": (5,)}
    p = problem("float64", 20, seed=3, shapes=shapes, drop=1.0)
    native = ox.native(row.optimizer, **row.arguments)
    rule = families()[found.family].rule(**found.options)
    values = {h.name: found.hyperparameters.get(h.name, h.default) for h in rule.hyperparameters}
    other = Spec((Group(rule, values, first_step=found.counts_from),))
    lr, own = native.groups[-1].hyperparameters["lr"], values["lr"]
    runs = (
        referee(native, p.params, p.grads, p.lrs(lr), noise=p.noise),
        referee(other, p.params, p.grads, p.lrs(own), noise=p.noise),
    )
    for update, (a, b) in enumerate(zip(*runs, strict=True), 1):
        for name in p.params:
            error = relative_error(b.params[name], a.params[name])
            assert error < tolerance, f"update {update}, {name}: {error}"


@pytest.mark.filterwarnings("ignore:Specifying a key")
@pytest.mark.parametrize("row", rows(), ids=lambda r: r.id)
def test_native_is_recognised(row: Row) -> None:
    recognised(row, seconds=120)  # as on the slowest machine; benchmarks/identify.py shows what it takes


def recognised(row: Row, **options: Any) -> None:
    optimizer, arguments = made(row)
    rule = ox.native(row.optimizer, **row.arguments).groups[-1].rule
    if rule.program.inputs("noise"):
        not_recognised(optimizer, arguments)
        return
    found = identify(optimizer, arguments, **options)
    assert found.matches, f"nearest {found.nearest}: {found.differs}"
    # Norms of float64 tensors that a framework takes in float32 leave that much open.
    reduced = reach(rule.program) is not Reach.ELEMENTWISE
    same_run(found, row, 2e-3 if found.dtype == "float32" else 1e-5 if reduced else 1e-6)


def not_recognised(optimizer: Any, arguments: dict[str, Any]) -> None:
    """Noise cannot be chosen from outside: it is said to be there, or the rule is not claimed."""
    try:
        assert not identify(optimizer, arguments, seconds=0.1).matches
    except SubjectError as e:
        assert "is not deterministic" in str(e)
