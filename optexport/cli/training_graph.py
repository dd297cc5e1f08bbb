"""``optexport training-graph``: a forward model as a graph that trains."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from .output import json_option, key_values, print_json

if TYPE_CHECKING:
    from ..specs import Spec

__all__ = ["command"]

FORMS = ("step", "training-info", "artifacts")


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
    "--form", type=click.Choice(FORMS), default=FORMS[0], show_default=True,
    help="step: the graph alone, state goes in and out. training-info: ONNX' own form, state inside. "
    "artifacts: a folder for onnxruntime.training.api 1.19.2, state inside.",
)  # fmt: skip
@click.option(
    "--allow", type=click.Choice(["bounded", "lossy"]), help="Consent to what --form artifacts changes."
)
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
    "--weights", metavar="FILE",
    help="A weights file of the model's own framework: to compare with, and the parameters of --state.",
)  # fmt: skip
@click.option(
    "--runtime", multiple=True, metavar="NAME", help="Hyperparameters that stay inputs. [default: lr]"
)
@click.option("--keep", multiple=True, metavar="NAME", help="Outputs of the model that the graph gives too.")
@click.option(
    "--compute", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32",
    help="What forward and backward compute in; parameters and slots stay float32.",
)  # fmt: skip
@click.option(
    "-o", "--output", required=True, metavar="FILE", help="Where to write it; a folder for artifacts."
)
@json_option
def command(
    model: str,
    loss: str,
    loss_option: tuple[str, ...],
    rule: str | None,
    hyper: tuple[str, ...],
    state: str | None,
    form: str,
    allow: str | None,
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
    compute: str,
    output: str,
    as_json: bool,
) -> None:
    """Write MODEL, an ONNX model, with its loss, gradient and update as one graph of plain operators."""
    spec, held, called = _optimizer(rule, hyper, state, weights)
    made = _Made(
        model, loss, spec, held, called, output,
        {
            "loss_options": key_values(loss_option), "output": output_name,
            "train": train or None, "freeze": freeze, "tied": tied, "frozen_rows": _rows(frozen_rows),
            "batch_norm": batch_norm, "dropout": dropout, "expected": _expected(weights),
        },
    )  # fmt: skip
    if compute != "float32" and form != "step":
        raise click.UsageError(
            "--compute: only the step graph (--form step) computes in half precision; leave it out"
        )
    if form == "artifacts":
        if runtime:
            raise click.UsageError("--runtime: artifacts take the learning rate alone; leave it out")
        record = made.artifacts(keep, allow)
    elif form == "training-info":
        record = made.training_info(runtime)
    else:
        record = made.step(runtime, keep, compute)
    said = record.pop("said")
    if as_json:
        print_json(record)
        return
    click.echo(said)
    for note in record["notes"]:
        click.echo(f"  note: {note}")


class _Made:
    """One request: writes one form, and says what was written."""

    def __init__(
        self, model: str, loss: str, spec: Spec, state: Any, called: str, target: str, options: dict[str, Any]
    ) -> None:
        self.model, self.loss, self.spec, self.state = model, loss, spec, state
        self.called, self.target, self.options = called, target, options

    def _record(
        self, size: int, params: dict[str, Any], made: Any, nodes: int, notes: list[str]
    ) -> dict[str, Any]:
        return {
            "file": self.target,
            "bytes": size,
            "loss": self.loss,
            "params": {n: list(a.shape) for n, a in params.items()},
            "inputs": [i.name for i in made],
            "nodes": nodes,
            "notes": notes,
            "said": f"wrote {self.target}: {len(params)} parameters train by {self.called}, {nodes} nodes, {size} bytes",
        }

    def step(self, runtime: tuple[str, ...], keep: tuple[str, ...], compute: str) -> dict[str, Any]:
        from ..dialects import converter

        graphs = converter("onnx", "training_graph")
        options = dict(self.options)
        first = {k: options.pop(k) for k in ("loss_options", "output")}
        steps = None if self.state is None else dict(self.state.steps)
        built = graphs.build(
            self.model, self.loss, self.spec, meant=graphs.Meant(**options), runtime=runtime or None,
            steps=steps, keep=keep, compute=compute, **first,
        )  # fmt: skip
        size = graphs.write(built.model, self.target)
        graph = built.model.graph
        return self._record(size, built.params, graph.input, len(graph.node), built.notes)

    def training_info(self, runtime: tuple[str, ...]) -> dict[str, Any]:
        from ..dialects import converter
        from ..training import training_info

        spec = self.spec if self.state is None else None
        made = training_info(
            self.model, self.loss, spec, state=self.state, runtime=runtime or None, **self.options
        )
        size = converter("onnx", "training_graph").write(made, self.target)
        params = _read_back(self.target)
        algorithm = made.training_info[0].algorithm
        inputs = [*made.graph.input, *algorithm.input]
        return self._record(size, params, inputs, len(made.graph.node) + len(algorithm.node), [])

    def artifacts(self, keep: tuple[str, ...], allow: str | None) -> dict[str, Any]:
        import onnx

        from ..training import training_artifacts

        paths, report = training_artifacts(
            self.model, self.loss, self.spec if self.state is None else self.state, self.target,
            keep=keep, allow=allow, **self.options,
        )  # fmt: skip
        graph = onnx.load(paths[0], load_external_data=False).graph
        size = sum(os.path.getsize(p) for p in paths)
        notes = [
            *report.conditions,
            "the training API starts with learning rate 0.001; call Optimizer.set_learning_rate first",
        ]
        return {
            **self._record(size, _read_back(paths[-1]), graph.input, len(graph.node), notes),
            "files": paths,
            "verdict": str(report.verdict),
        }


def _read_back(path: str) -> dict[str, Any]:
    """Parameters that train, as the written file has them."""
    from ..state.store import read_native

    native = read_native(path)
    return {p: native.weights[p] for g in native.groups for p in g.params}


def _optimizer(
    rule: str | None, hyper: tuple[str, ...], state: str | None, weights: str | None
) -> tuple[Spec, Any, str]:
    """The spec, the run where there is one, and what to call the optimizer."""
    from ..specs import native, spec

    if (rule is None) == (state is None):
        raise click.UsageError("give either --rule, an optimizer, or --state, a run that has one")
    if rule is not None:
        arguments = key_values(hyper)
        return native(rule, **arguments) if ":" in rule else spec(rule, **arguments), None, rule
    if hyper:
        raise click.UsageError("--hyper belongs to --rule; the hyperparameters of --state are the run's own")
    from ..state import load

    run = load(str(state), model=weights)
    return run.spec, run, run.dialect or f"the optimizer of {state}"


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
