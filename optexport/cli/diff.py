"""``optexport diff``: two states, slot by slot."""

from __future__ import annotations

import sys

import click

from .output import console, json_option, plain, print_json, table

__all__ = ["command"]


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--rtol", default=0.0, show_default=True, help="Largest accepted max|a−b| / max|b| of a slot.")
@click.option("--model", metavar="FILE", help="A weights file that gives parameters their names.")
@click.option("--names", metavar="FILE", help="Parameter names in the optimizer's order.")
@click.option(
    "--optimizer", multiple=True, metavar="FW:NAME", help="The optimizer, where a file does not say."
)
@json_option
def command(
    a: str,
    b: str,
    rtol: float,
    model: str | None,
    names: str | None,
    optimizer: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare A and B, of any formats. Exit code 1 where they differ by more than --rtol."""
    from ..state.diff import diff

    result = diff(*(_open(p, model, names, optimizer) for p in (a, b)))
    equal = result.equal(rtol)
    if as_json:
        print_json({"equal": equal, "rtol": rtol, "differences": result.sentences, "slots": result.slots})
    else:
        rows = [
            [
                s.param,
                s.slot,
                "–" if s.relative is None else f"{s.relative:.3g}",
                "yes" if s.bitwise else "no",
                s.note,
            ]
            for s in result.slots
        ]
        table(["parameter", "slot", "relative", "same bytes", ""], rows, right=(2,))
        for line in result.sentences:
            console().print(plain(line))
        console().print("[green]equal[/green]" if equal else "[red]different[/red]", f"at rtol {rtol:g}")
    sys.exit(0 if equal else 1)


def _open(path: str, model: str | None, names: str | None, optimizer: tuple[str, ...]):  # type: ignore[no-untyped-def]
    from ..state.formats import BUNDLE, find_format
    from ..state.store import detect, load

    fmt = detect(path)
    if fmt == BUNDLE:
        return load(path)
    named = [o for o in optimizer if o.lower().startswith(f"{find_format(fmt).framework}:")]
    return load(path, model=model, names=names, optimizer=named[0] if named else None)
