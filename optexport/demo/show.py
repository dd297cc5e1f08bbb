"""What a person sees of the demonstration: each stage as it completes, under the command that does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cli.output import console, hyperparameters, table, verdict_text
from ..state.inspect import Inspection
from ..translation import Explanation
from . import make_data
from .run import (
    BACK,
    BUNDLE,
    CONTINUED,
    GRAPH,
    LOSS,
    MODULE,
    STATES,
    WEIGHTS,
    Back,
    Continued,
    Result,
    ToMXNet,
)

__all__ = ["show"]

_CHECKPOINT = make_data.CHECKPOINT
_SLOTS = ("exp_avg", "exp_avg_sq")


def show(stage: str, found: Any) -> None:
    """Print one stage."""
    _STAGES[stage](found)


def _head(number: int, title: str) -> None:
    console().print(f"\n[bold]{number}  {title}[/bold]")


def _command(arguments: str) -> None:
    _line(f"$ optexport {arguments}", "dim")


def _line(text: Any, style: str = "") -> None:
    """Indented, and so where it wraps."""
    from rich.padding import Padding

    out = console()
    if out.soft_wrap:
        out.print("  ", text, sep="", style=style or None, markup=False)
    else:
        out.print(Padding(text, (0, 0, 0, 2), style=style, expand=False), markup=False)


def _inspect(found: Inspection) -> None:
    console().print(
        f"A PyTorch run on handwritten digits stopped after {found.step} updates of AdamW. Here it goes on "
        "without PyTorch, beside a record of what PyTorch did when it was not stopped."
    )
    _head(1, "What the checkpoint holds")
    _command(f"inspect {_CHECKPOINT}")
    _line(f"{found.optimizer}, step {found.step}")
    for group in found.groups:
        _line(f"{', '.join(group['params'])}:")
        _line(f"  {hyperparameters(group['hyperparameters'])}")
    held: dict[str, dict[str, Any]] = {}
    for t in (*found.weights, *found.tensors):
        held.setdefault(t.param, {})[t.slot or ""] = t
    rows = [
        [name, "×".join(map(str, have["value"].shape)), *[f"{have[s].norm:.4g}" for s in ("value", *_SLOTS)]]
        for name, have in held.items()
    ]
    table(["", "shape", "‖param‖", "‖exp_avg‖", "‖exp_avg_sq‖"], rows, right=(2, 3, 4))


def _explain(found: Sequence[Explanation]) -> None:
    _head(2, "Which optimizers are the same rule")
    for e in found:
        _command(f"explain {e.source} {e.target}")
        _line(verdict_text(e.verdict))
        for dropped in e.dropped:
            _line(f"  drops {dropped}")


def _convert(found: Result) -> None:
    assert found.converted is not None
    _head(3, "The state as a bundle; the model with loss, gradient and update as one ONNX graph")
    _command(f"convert {_CHECKPOINT} {BUNDLE}")
    _line(
        _verdict_and(
            found.converted.verdict, f"{found.converted.tensors} tensors, {found.converted.bytes} bytes"
        )
    )
    _command(f"training-graph {make_data.FORWARD} --loss {LOSS} --state {BUNDLE} -o {GRAPH}")
    _line(f"{found.nodes} nodes of plain operators")


def _continue(found: Continued) -> None:
    good = found.runs[0]
    updates = ", ".join(map(str, make_data.RECORDED_AT))
    _head(4, f"{make_data.CONTINUED} more updates on {found.runtime}, by nothing else")
    rows = []
    for n in make_data.RECORDED_AT:
        ours, theirs = good.losses[n - 1], found.recorded_losses[n - 1]
        rows.append(
            [str(make_data.SAVED_AT + n), f"{theirs:.8f}", f"{ours:.8f}", _number(abs(ours - theirs))]
        )
    table(["update", "loss, PyTorch", "loss, here", "difference"], rows, right=(0, 1, 2, 3))
    _line(f"largest relative difference from PyTorch after {updates} updates:")
    keys = ("param", *_SLOTS)
    rows = [[name, *[_number(errors[k]) for k in keys]] for name, errors in good.errors.items()]
    table(["", *keys], rows, right=(1, 2, 3))
    _line(f"float32 rounding explains up to {_number(found.tolerance)}; two common shortcuts beside it:")
    rows = [[r.name, _number(r.worst("param")), _number(r.loss), f"{r.mean_loss:.6f}"] for r in found.runs]
    rows.append(["PyTorch, not stopped", "", "", f"{found.recorded_mean_loss:.6f}"])
    table(["", "param", "loss", "mean loss"], rows, right=(1, 2, 3))


def _back(found: Back) -> None:
    _head(5, f"Update {found.step} as a checkpoint for PyTorch")
    _command(f"convert {CONTINUED} {BACK} --to torch-combined")
    _line(_verdict_and(found.converted.verdict, f"for {found.converted.optimizer}, with the weights"))


def _mxnet(found: ToMXNet) -> None:
    _head(6, "The same for MXNet")
    _command(f"convert {CONTINUED} {STATES} --optimizer mxnet:adam")
    _line(_verdict_and(found.verdict, found.refusal))
    _command(f"convert {CONTINUED} {STATES} --emit-optimizer {MODULE}")
    name = found.emitted.optimizer
    _line(_verdict_and(found.emitted.verdict, f"for {name}, an MXNet optimizer with this rule"))
    _command(f"convert {CONTINUED} {WEIGHTS}")
    _line(_verdict_and(found.weights.verdict, "the weights"))


def _verdict_and(verdict: str, text: str) -> Any:
    from rich.text import Text

    return Text.assemble((verdict, "red") if verdict == "refused" else verdict_text(verdict), f"  {text}")


def _verdict(result: Result) -> None:
    from rich.text import Text

    console().print("\n[bold]Result[/bold]")
    rows = []
    for c in result.checks:
        mark = Text("yes", "green") if c["passed"] else Text("NO", "bold red")
        limit = f"{c['relation']} {_number(c['limit'])}".removeprefix("= ")
        rows.append([c["what"], _number(c["value"]), limit, mark])
    table(["what", "found", "expected", "ok"], rows, right=(1, 2))
    word = "[bold green]PASS[/bold green]" if result.passed else "[bold red]FAIL[/bold red]"
    kept = f"; the files are in {result.folder}" if result.folder else ""
    console().print(f"{word}  in {result.seconds:.1f} s{kept}")
    if result.plot:
        console().print(f"the loss curves over each other: {result.plot}", markup=False)
    elif result.no_plot:
        console().print(f"no picture of the loss curves: {result.no_plot}", markup=False)


def _number(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)


_STAGES: dict[str, Any] = {
    "inspect": _inspect,
    "explain": _explain,
    "convert": _convert,
    "continue": _continue,
    "back": _back,
    "mxnet": _mxnet,
    "verdict": _verdict,
}
