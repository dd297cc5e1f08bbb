"""``optexport identify``: which rule an optimizer is, told by its updates alone."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from .output import console, hyperparameters, json_option, plain, print_json

__all__ = ["command"]


@click.command("identify")
@click.argument("optimizer", metavar="MODULE:CLASS|GRAPH.onnx")
@click.option("--args", "arguments", metavar="JSON", help="Arguments of the class, as in '{\"lr\": 0.01}'.")
@click.option("--seconds", default=8.0, show_default=True, help="After which no new supposition is tried.")
@click.option("--no-hints", is_flag=True, help="Do not try first what the optimizer's name suggests.")
@json_option
def command(optimizer: str, arguments: str | None, seconds: float, no_hints: bool, as_json: bool) -> int:
    """Which rule of the catalogue an optimizer is: a class, a function that makes one, or an ONNX graph.

    OPTIMIZER is imported and run: give one that you trust. It is a class of torch.optim, keras.optimizers or
    mxnet.optimizer (or your own of those kinds), an Optax function or transformation, or a graph with the
    inputs NAME and NAME.grad (or NAME_grad, grad_NAME) and the output NAME.new (or NAME_new, NAME_out). In a
    training graph the gradient is a value inside.

    Exit code 1 where it is no rule of the catalogue, or cannot be examined."""
    from ..identify import identify

    found = identify(optimizer, _arguments(arguments), hints=not no_hints, seconds=seconds)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        _print(found)
    return 0 if found.matches else 1


def _arguments(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        given = json.loads(text)
    except ValueError as e:
        raise click.UsageError(
            f'--args: expected a JSON object, as in {{"lr": 0.01}}, found {text!r} ({e})'
        ) from None
    if not isinstance(given, dict):
        raise click.UsageError(f'--args: expected a JSON object, as in {{"lr": 0.01}}, found {text!r}')
    return given


def _print(found: Any) -> None:
    from ..rules import families

    out = console()
    out.print(plain(found.rule or f"none of the catalogue; nearest is {found.nearest}", "bold"))
    for name, choice in found.options.items():
        option = families()[found.family].options[name]
        if choice != option.default and choice not in ("none", False):
            out.print(f"  {name}: {option.sentence(choice)}", markup=False)
    out.print(f"  hyperparameters: {hyperparameters(found.hyperparameters)}", markup=False)
    out.print(f"  updates counted from: {found.counts_from + 1}", markup=False)
    if found.differs is not None:
        d = found.differs
        out.print(f"  differs: {d['change']}", markup=False)
        for pair in d["equations"]:
            out.print(f"    {pair['rule'] or '-'}   found: {pair['found'] or '-'}", markup=False)
        out.print(
            f"  from step {d['step']} on, first in {d['slot']}: relative error {d['error']:.3g}, bound {d['bound']:.3g}",
            markup=False,
        )
    for other in found.alternatives:
        out.print(f"  the same as: {other}", markup=False)
    for note in found.notes:
        out.print(f"  note: {note}", markup=False)
