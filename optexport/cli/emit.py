"""``optexport emit``: a rule as something that runs."""

from __future__ import annotations

import os
from typing import Any

import click

from .output import json_option, key_values, print_json

__all__ = ["command"]


@click.command("emit")
@click.argument("target")
@click.option("--rule", required=True, metavar="R", help="A rule of the catalogue, or FRAMEWORK:NAME.")
@click.option("--hyper", multiple=True, metavar="K=V", help="A hyperparameter or option, as in lr=0.01.")
@click.option("--param", multiple=True, metavar="NAME:SHAPE", help="A parameter, as in fc.weight:16x8.")
@click.option("--model", metavar="FILE", help="A weights file: its parameters, with names and shapes.")
@click.option(
    "--runtime", multiple=True, metavar="NAME", help="Hyperparameters that stay inputs (ONNX). [default: lr]"
)
@click.option("--dtype", default=None, metavar="DTYPE", help="Of the parameters (ONNX). [default: float32]")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to write it.")
@json_option
def command(
    target: str,
    rule: str,
    hyper: tuple[str, ...],
    param: tuple[str, ...],
    model: str | None,
    runtime: tuple[str, ...],
    dtype: str | None,
    output: str,
    as_json: bool,
) -> None:
    """Write a rule for TARGET: onnx (an update graph), mxnet, torch, optax or keras (a readable module)."""
    from ..emitters import emit
    from ..specs import native, spec

    arguments = key_values(hyper)
    made = native(rule, **arguments) if ":" in rule else spec(rule, **arguments)
    options: dict[str, Any] = {}
    if dtype is not None:
        options["dtype"] = dtype
    if runtime:
        options["runtime"] = runtime
    size = write_emitted(emit(made, target, _params(param, model), **options), output)
    if as_json:
        print_json({"file": output, "bytes": size, "target": target, "digest": made.groups[-1].rule.digest})
    else:
        click.echo(f"wrote {output}: {rule} for {target}, {size} bytes")


def write_emitted(made: Any, path: str) -> int:
    """Write source text or an ONNX model, whole or not at all; the number of bytes."""
    from ..state.files import whole_or_nothing

    data = made.encode() if isinstance(made, str) else made.SerializeToString(deterministic=True)
    with whole_or_nothing(os.fspath(path)) as f:
        f.write(data)
    return len(data)


def _params(param: tuple[str, ...], model: str | None) -> dict[str, tuple[int, ...]] | None:
    if model is not None:
        from ..state.names import parameters
        from ..state.store import read_model

        return dict(parameters(read_model(model)))
    out = {}
    for item in param:
        name, colon, shape = item.rpartition(":")
        try:
            out[name] = tuple(int(n) for n in shape.split("x")) if shape else ()
        except ValueError:
            colon = ""
        if not colon or not name:
            raise click.UsageError(f"--param {item!r}: expected NAME:SHAPE, as in fc.weight:16x8")
    return out or None
