"""How commands print: tables for people, JSON for programs, progress on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

__all__ = [
    "hyperparameters",
    "json_option",
    "key_values",
    "plain",
    "print_json",
    "progress",
    "table",
    "verdict_text",
]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")

# Colour by verdict; the word itself always stands beside it.
_STYLES = {"exact": "green", "conditional": "cyan", "bounded": "yellow", "lossy": "red", "none": "dim"}


def print_json(value: Any) -> None:
    """Standard JSON: no NaN or Infinity tokens."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def verdict_text(verdict: str) -> Any:
    """A verdict in its colour."""
    from rich.text import Text

    return Text(verdict, style=_STYLES.get(verdict, ""))


def plain(text: str, style: str = "") -> Any:
    """Text as it stands: brackets are no markup, and a file's names cannot steer the terminal."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "?" for c in text), style=style)


def console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    title: str | None = None,
    right: Sequence[int] = (),
    whole: Sequence[int] = (),
) -> None:
    """Print a table; ``right`` lists columns of numbers, ``whole`` those whose text is never folded."""
    from rich import box
    from rich.table import Table

    t = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, c in enumerate(columns):
        justify: Any = "right" if i in right else "left"
        t.add_column(c, justify=justify, overflow="fold", no_wrap=i in whole)
    for row in rows:
        t.add_row(*[cell if hasattr(cell, "style") else plain(str(cell)) for cell in row])
    console().print(t)


@contextmanager
def progress(label: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes on stderr, for people at a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n: bar.advance(task, n)


def key_values(items: Sequence[str]) -> dict[str, Any]:
    """``k=v`` arguments as Python values: JSON where it is JSON, else text.

    Raises:
        click.UsageError: an item without ``=``.
    """
    out = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--hyper {item!r}: expected NAME=VALUE, as in --hyper lr=0.01")
        try:
            value = json.loads(text)
        except ValueError:
            value = {"True": True, "False": False, "None": None}.get(text, text)
            if isinstance(value, str):
                try:
                    value = float(value)
                except ValueError:
                    if value.startswith("(") and value.endswith(")"):
                        value = _items(item, value[1:-1])
        out[key] = tuple(value) if isinstance(value, list) else value
    return out


def _items(item: str, text: str) -> list[Any]:
    try:
        return list(json.loads(f"[{text.rstrip(' ,')}]"))
    except ValueError:
        raise click.UsageError(
            f"--hyper {item!r}: expected numbers between the parentheses, as in (0.9, 0.99)"
        ) from None


def hyperparameters(values: Mapping[str, Any]) -> str:
    """One line of ``name value`` pairs."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
