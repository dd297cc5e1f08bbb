"""``optexport demo``: the main job end to end on data that ships."""

from __future__ import annotations

import sys

import click

from .output import json_option, print_json

__all__ = ["command"]


@click.command("demo")
@click.option("--keep", metavar="FOLDER", help="Keep the files that the demo writes in this folder.")
@json_option
def command(keep: str | None, as_json: bool) -> None:
    """A PyTorch run on handwritten digits, half finished, goes on in ONNX Runtime and MXNet files."""
    from ..demo.run import work
    from ..demo.show import show

    result = work(keep, None if as_json else show)
    if as_json:
        print_json(result)
    sys.exit(0 if result.passed else 1)
