"""``optexport inspect``: what is in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .output import console, hyperparameters, json_option, plain, print_json, table

if TYPE_CHECKING:
    from ..state.inspect import TensorInfo

__all__ = ["command"]


@click.command("inspect")
@click.argument("path")
@click.option("--from", "fmt", metavar="FMT", help="The format, where it is not to be detected.")
@click.option("--model", metavar="FILE", help="A weights file that gives parameters their names.")
@click.option("--names", metavar="FILE", help="Parameter names in the optimizer's order.")
@click.option("--optimizer", metavar="FW:NAME", help="The optimizer, where the file does not say.")
@click.option("--optimizer-key", metavar="KEY", help="Which optimizer, where the file holds several.")
@click.option("--quick", is_flag=True, help="Leave out hashes and norms, which read every byte.")
@json_option
def command(
    path: str,
    fmt: str | None,
    model: str | None,
    names: str | None,
    optimizer: str | None,
    optimizer_key: str | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Groups, slots, steps, sizes, norms, NaN and Inf counts and dead slots of PATH."""
    from ..state.inspect import inspect

    found = inspect(
        path,
        format=fmt,
        model=model,
        names=names,
        optimizer=optimizer,
        optimizer_key=optimizer_key,
        quick=quick,
    )
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(plain(found.optimizer or _unnamed(found.groups), "bold"), f" {found.format}, step {found.step}")
    for i, g in enumerate(found.groups):
        out.print(
            plain(
                f"  group {i}: {g['rule'] or 'unknown rule'}, {len(g['params'])} parameters; "
                f"{hyperparameters(g['hyperparameters'])}"
            )
        )
    rows = [
        [
            t.param,
            _slot(t),
            "" if t.shape is None else "×".join(map(str, t.shape)) or "scalar",
            t.dtype or "",
            "" if t.norm is None else f"{t.norm:.6g}",
            "" if t.nan is None else f"{t.nan}/{t.inf}",
        ]
        for t in (*found.tensors, *found.weights)
    ]
    table(["parameter", "slot", "shape", "dtype", "norm", "NaN/Inf"], rows, right=(4, 5))
    size = sum(t.bytes for t in (*found.tensors, *found.weights))
    out.print(plain(f"  {len(found.tensors)} state tensors, {len(found.weights)} weights, {size} bytes"))
    for w in found.warnings:
        out.print(plain("warning", "yellow"), plain(w))


def _slot(t: TensorInfo) -> str:
    """The framework's name, and the rule's where that is another."""
    if t.slot is None:
        return "no state"
    return t.slot if t.role in (None, t.slot) else f"{t.slot} ({t.role})"


def _unnamed(groups: Sequence[Mapping[str, Any]]) -> str:
    """What to call an optimizer that has no framework: a rule that the file carries, or one nobody knows."""
    return "a rule of its own" if groups and all(g["rule"] for g in groups) else "unknown optimizer"
