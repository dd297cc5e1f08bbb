"""The native optimizers of the parity table as objects of their frameworks, for what takes anybody's optimizer."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from optexport.dialects import find
from optexport.parity.record import Row
from optexport.parity.table import table

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
