"""``optexport inspect``: what is in a file."""

from __future__ import annotations

import click

from .output import console, hyperparameters, json_option, plain, print_json, table

__all__ = ["command"]


@click.command("inspect")
@click.argument("path")
@click.option("--from", "fmt", metavar="FMT", help="The format, where it is not to be detected.")
@click.option("--model", metavar="FILE", help="A weights file that gives parameters their names.")
@click.option("--names", metavar="FILE", help="Parameter names in the optimizer's order.")
@click.option("--optimizer", metavar="FW:NAME", help="The optimizer, where the file does not say.")
@click.option("--quick", is_flag=True, help="Leave out hashes and norms, which read every byte.")
@json_option
def command(
    path: str,
    fmt: str | None,
    model: str | None,
    names: str | None,
    optimizer: str | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Groups, slots, steps, sizes, norms, NaN and Inf counts and dead slots of PATH."""
    from ..state.inspect import inspect

    found = inspect(path, format=fmt, model=model, names=names, optimizer=optimizer, quick=quick)
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(plain(found.optimizer or "unknown optimizer", "bold"), f" {found.format}, step {found.step}")
    for i, g in enumerate(found.groups):
        out.print(
            plain(
                f"  group {i}: {g['rule'] or 'unknown rule'}, {len(g['params'])} parameters; "
                f"{hyperparameters(g['hyperparameters'])}"
            )
        )
    rows = [
        [t.param, t.slot or "no state", t.role or "", "" if t.shape is None else "×".join(map(str, t.shape)) or "scalar",
         t.dtype or "", t.bytes,
         "" if t.norm is None else f"{t.norm:.6g}", "" if t.nan is None else t.nan, "" if t.inf is None else t.inf]
        for t in (*found.tensors, *found.weights)
    ]  # fmt: skip
    table(
        ["parameter", "slot", "role", "shape", "dtype", "bytes", "norm", "NaN", "Inf"],
        rows,
        right=(5, 6, 7, 8),
    )
    for w in found.warnings:
        out.print(plain("warning", "yellow"), plain(w))
