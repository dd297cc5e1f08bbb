"""Every native optimizer of the parity table is recognised, at the arguments of its row."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest

import optexport as ox
from optexport.dialects import find
from optexport.identify import Identity, identify
from optexport.parity import problem, referee, relative_error
from optexport.parity.record import Row
from optexport.parity.table import table
from optexport.rules import families
from optexport.specs import Group, Spec

# Modules in which a framework's optimizers are found by their names.
MODULES = {
    "torch": ("torch.optim",),
    "keras": ("keras.optimizers",),
    "optax": ("optax", "optax.contrib"),
    "mxnet": ("mxnet.optimizer",),
}


def rows() -> list[Row]:
    """Those of the four frameworks that are installed here; operators and chains are no classes."""
    return [
        r
        for r in table()
        if r.optimizer.partition(":")[0] in MODULES
        and "param_idx2name" not in r.arguments  # names that the probe's parameters do not have
        and not r.optimizer.endswith(("_update", ":chain"))
        and importlib.util.find_spec(r.optimizer.partition(":")[0]) is not None
    ]


def made(row: Row) -> tuple[Any, dict[str, Any]]:
    """The class or function of a row, and its arguments; an instance where those are no arguments."""
    entry = find(row.optimizer)
    run = importlib.import_module(f"optexport.converters.{entry.framework}.run")
    if entry.framework == "mxnet":
        instance = run._create(entry, row.arguments)
        given = {entry.aliases.get(k, k): v for k, v in row.arguments.items()}
        return (instance, {}) if {"lr_mult", "wd_mult"} & set(given) else (type(instance), given)
    modules = [importlib.import_module(m) for m in MODULES[entry.framework]]
    found = next(getattr(m, entry.name) for m in modules if hasattr(m, entry.name))
    return found, dict(row.arguments)


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


@pytest.mark.parametrize("row", rows(), ids=lambda r: r.id)
def test_native_is_recognised(row: Row) -> None:
    optimizer, arguments = made(row)
    if ox.native(row.optimizer, **row.arguments).groups[-1].rule.program.inputs("noise"):
        with pytest.raises(ox.errors.OptexportError, match="is not deterministic"):
            identify(optimizer, arguments)
        return
    found = identify(optimizer, arguments)
    assert found.matches, f"nearest {found.nearest}: {found.differs}"
    same_run(found, row, 1e-6 if found.dtype == "float64" else 2e-3)
