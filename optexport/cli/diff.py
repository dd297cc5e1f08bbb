"""``optexport diff``: two states, slot by slot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

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
@click.option("--series", is_flag=True, help="A and B are two runs: folders or patterns of checkpoints.")
@click.option(
    "--plot", metavar="FILE", help="With --series: the differences over the steps (.png, .svg, .pdf)."
)
@json_option
def command(
    a: str,
    b: str,
    rtol: float,
    model: str | None,
    names: str | None,
    optimizer: tuple[str, ...],
    series: bool,
    plot: str | None,
    as_json: bool,
) -> None:
    """Compare A and B, of any formats. Exit code 1 where they differ by more than --rtol.

    With --series A and B are two runs, and the checkpoints of the same step are compared: when they parted, and in
    which tensors.
    """
    opened = partial(_open, model=model, names=names, optimizer=optimizer)
    if series:
        _series(a, b, rtol, opened, plot, as_json)
        return
    if plot is not None:
        raise click.UsageError("--plot: needs --series, two runs of several checkpoints")
    from ..state.diff import diff

    result = diff(opened(a), opened(b))
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


def _series(
    a: str,
    b: str,
    rtol: float,
    opened: Callable[[str], Any],
    plot: str | None,
    as_json: bool,
) -> None:
    from ..plot import check_plot, drift_plot
    from ..state.drift import drift, find_series

    if plot is not None:
        check_plot(plot)
    found = drift(find_series(a), find_series(b), opened, rtol)
    if plot is not None:
        drift_plot(plot, found)
    if as_json:
        print_json({"equal": found.parted is None, "rtol": rtol, "plot": plot, **vars(found)})
    else:
        rows = [
            [
                t.param,
                t.slot,
                "–" if t.parted is None else f"{t.parted}",
                _number(t.relative[-1]),
                _number(t.largest),
            ]
            for t in sorted(
                found.tensors, key=lambda t: (t.parted is None, t.parted or 0, -(t.largest or 0.0))
            )
        ]
        table(["parameter", "slot", "parted at step", "at the last", "largest"], rows, right=(2, 3, 4))
        for line in (*found.sentences, *(f"{p}: its step is not in the other run" for p in found.unmatched)):
            console().print(plain(line))
        said = f"{len(found.steps)} checkpoints, steps {found.steps[0]} to {found.steps[-1]}: "
        if found.parted is None:
            said += f"never parted, at rtol {rtol:g}"
        else:
            since = f", the same until {found.last_equal}" if found.last_equal is not None else ""
            said += f"parted at step {found.parted}{since}, at rtol {rtol:g}"
        console().print(plain(said, "green" if found.parted is None else "red"))
        if plot is not None:
            console().print(plain(f"wrote {plot}"))
    sys.exit(0 if found.parted is None else 1)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _open(path: str, model: str | None, names: str | None, optimizer: tuple[str, ...]):  # type: ignore[no-untyped-def]
    from ..state.formats import BUNDLE, find_format
    from ..state.store import detect, load

    fmt = detect(path)
    if fmt == BUNDLE:
        return load(path)
    named = [o for o in optimizer if o.lower().startswith(f"{find_format(fmt).framework}:")]
    return load(path, model=model, names=names, optimizer=named[0] if named else None)
