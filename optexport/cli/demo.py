"""``optexport demo``: the main job end to end on data that ships."""

from __future__ import annotations

import sys

import click

from .output import json_option, print_json

__all__ = ["command"]


@click.command("demo")
@click.option("--keep", metavar="FOLDER", help="Keep the files that the demo writes in this folder.")
@click.option(
    "--plot",
    metavar="FILE",
    default="optexport-demo.png",
    show_default=True,
    help="Picture of the loss curves.",
)
@json_option
def command(keep: str | None, plot: str, as_json: bool) -> None:
    """A PyTorch run on handwritten digits, half finished, goes on in ONNX Runtime, back in PyTorch and in MXNet."""
    from ..demo.run import work
    from ..demo.show import show

    result = work(keep, None if as_json else show, plot=plot)
    if as_json:
        print_json(result)
    sys.exit(0 if result.passed else 1)
