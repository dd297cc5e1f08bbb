"""``optexport training-graph``: a forward model as a graph that trains."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from .output import json_option, key_values, print_json

if TYPE_CHECKING:
    from ..specs import Spec

__all__ = ["command"]


@click.command("training-graph")
@click.argument("model")
@click.option(
    "--loss", required=True, metavar="L",
    help="softmax_cross_entropy, bce_with_logits, mse, l1, huber, kl_divergence; output: the model's own scalar.",
)  # fmt: skip
@click.option("--loss-option", multiple=True, metavar="K=V", help="As in label_smoothing=0.1.")
@click.option("--rule", metavar="R", help="A rule of the catalogue, or FRAMEWORK:NAME.")
@click.option("--hyper", multiple=True, metavar="K=V", help="A hyperparameter or option, as in lr=0.01.")
@click.option(
    "--state", metavar="FILE",
    help="Instead of --rule: a run (a bundle, a checkpoint), whose optimizer, groups and step counts the graph has.",
)  # fmt: skip
@click.option(
    "--output-name", metavar="NAME", help="The output that the loss is of, where there are several."
)
@click.option("--train", multiple=True, metavar="PATTERN", help="Tensors that train. [default: all]")
@click.option("--freeze", multiple=True, metavar="PATTERN", help="Tensors that do not.")
@click.option("--tied", multiple=True, metavar="PATTERN", help="Tensors that nodes share on purpose.")
@click.option(
    "--frozen-rows", multiple=True, metavar="TABLE=ROWS",
    help="Rows without gradient (padding_idx), as in emb.weight=0; emb.weight= for none.",
)  # fmt: skip
@click.option(
    "--batch-norm", type=click.Choice(["train", "inference"]), help="What batch normalisation does."
)
@click.option(
    "--dropout", type=click.FloatRange(0, 1, max_open=True), metavar="P", help="Overrules the model's."
)
@click.option(
    "--weights", metavar="FILE", help="A weights file of the model's own framework, to compare with."
)
@click.option(
    "--runtime", multiple=True, metavar="NAME", help="Hyperparameters that stay inputs. [default: lr]"
)
@click.option("--keep", multiple=True, metavar="NAME", help="Outputs of the model that the graph gives too.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to write it.")
@json_option
def command(
    model: str,
    loss: str,
    loss_option: tuple[str, ...],
    rule: str | None,
    hyper: tuple[str, ...],
    state: str | None,
    output_name: str | None,
    train: tuple[str, ...],
    freeze: tuple[str, ...],
    tied: tuple[str, ...],
    frozen_rows: tuple[str, ...],
    batch_norm: str | None,
    dropout: float | None,
    weights: str | None,
    runtime: tuple[str, ...],
    keep: tuple[str, ...],
    output: str,
    as_json: bool,
) -> None:
    """Write MODEL, an ONNX model, with its loss, gradient and update as one graph of plain operators."""
    from ..dialects import converter

    made, steps, optimizer = _optimizer(rule, hyper, state)
    graphs = converter("onnx", "training_graph")
    built = graphs.build(
        model,
        loss,
        made,
        loss_options=key_values(loss_option),
        output=output_name,
        meant=graphs.Meant(
            train=train or None, freeze=freeze, tied=tied, frozen_rows=_rows(frozen_rows),
            batch_norm=batch_norm, dropout=dropout, expected=_expected(weights),
        ),
        runtime=runtime or None,
        steps=steps,
        keep=keep,
    )  # fmt: skip
    size = graphs.write(built.model, output)
    record = {
        "file": output,
        "bytes": size,
        "loss": loss,
        "params": {n: list(a.shape) for n, a in built.params.items()},
        "inputs": [i.name for i in built.model.graph.input],
        "nodes": len(built.model.graph.node),
        "notes": built.notes,
    }
    if as_json:
        print_json(record)
        return
    click.echo(
        f"wrote {output}: {len(built.params)} parameters train by {optimizer}, {record['nodes']} nodes, {size} bytes"
    )
    for note in built.notes:
        click.echo(f"  note: {note}")


def _optimizer(
    rule: str | None, hyper: tuple[str, ...], state: str | None
) -> tuple[Spec, dict[str, int] | None, str]:
    """The spec, completed updates by parameter where a run says them, and what to call it."""
    from ..specs import native, spec

    if (rule is None) == (state is None):
        raise click.UsageError("give either --rule, an optimizer, or --state, a run that has one")
    if rule is not None:
        arguments = key_values(hyper)
        return native(rule, **arguments) if ":" in rule else spec(rule, **arguments), None, rule
    if hyper:
        raise click.UsageError("--hyper belongs to --rule; the hyperparameters of --state are the run's own")
    from ..state import load

    run = load(str(state))
    return run.spec, dict(run.steps), run.dialect or f"the optimizer of {state}"


def _rows(items: tuple[str, ...]) -> dict[str, list[int]]:
    out = {}
    for item in items:
        name, equals, rows = item.partition("=")
        try:
            out[name] = [int(r) for r in rows.split(",") if r]
        except ValueError:
            equals = ""
        if not equals or not name:
            raise click.UsageError(f"--frozen-rows {item!r}: expected TABLE=ROWS, as in emb.weight=0,3")
    return out


def _expected(weights: str | None) -> dict[str, Any] | None:
    if weights is None:
        return None
    from ..state.names import parameters
    from ..state.store import read_model

    return dict(parameters(read_model(os.fspath(weights))))
