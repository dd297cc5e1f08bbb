"""``optexport resume-check``: a checkpoint and its port, both run onwards."""

from __future__ import annotations

import sys

import click

from .output import console, json_option, key_values, plain, print_json, table, verdict_text

__all__ = ["command"]


@click.command("resume-check")
@click.argument("a")
@click.argument("b")
@click.option(
    "--grads", metavar="FILE", help="Recorded gradients: NAME -> array, the step first (.npz, .safetensors)."
)
@click.option(
    "--steps", default=20, show_default=True, type=click.IntRange(min=1), help="Updates to go on for."
)
@click.option("--seed", default=0, show_default=True, help="Of gradients and weights that are made.")
@click.option("--model", metavar="FILE", help="The weights, where the checkpoints hold none.")
@click.option("--names", metavar="FILE", help="Parameter names in the optimizer's order.")
@click.option(
    "--optimizer", multiple=True, metavar="FW:NAME", help="The optimizer, where a file does not say."
)
@click.option(
    "--hyper", multiple=True, metavar="K=V", help="Arguments of --optimizer that its file does not hold."
)
@json_option
def command(
    a: str,
    b: str,
    grads: str | None,
    steps: int,
    seed: int,
    model: str | None,
    names: str | None,
    optimizer: tuple[str, ...],
    hyper: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run checkpoint A and its port B onwards, each in its own framework, on the same gradients.

    Exit code 1 where they part by more than rounding and the verdict explain, or nothing bounds the verdict.
    """
    from ..parity.resume import resume_check

    found = resume_check(
        a,
        b,
        gradients=grads,
        steps=steps,
        seed=seed,
        model=model,
        names=names,
        optimizers=optimizer,
        arguments=key_values(hyper) or None,
    )
    if as_json:
        print_json(found)
    else:
        show = console()
        for side, mark in ((found.a, "A"), (found.b, "B")):
            show.print(plain(f"{mark}  {side.path}: step {side.step}, {side.ran}"))
        show.print(
            plain("verdict "), verdict_text(found.verdict), plain("".join(f"; {c}" for c in found.conditions))
        )
        rows = [
            [p.param, f"{p.divergence[0]:.3g}", f"{max(p.divergence):.3g}", f"{p.bounds[-1]:.3g}",
             "–" if p.first is None else f"update {p.first}"]
            for p in found.params
        ]  # fmt: skip
        table(
            ["parameter", "after 1 update", "largest", "bound at the end", "first out"], rows, right=(1, 2, 3)
        )
        for line in (*found.differences, *(f"note: {w}" for w in found.warnings)):
            show.print(plain(line))
        word = "[green]within the bound[/green]" if found.within else "[red]not within a bound[/red]"
        text = f"after {found.steps} updates in {found.dtype}, gradients {found.gradients}"
        show.print(plain(f"{text}: divergence {found.divergence:.3g},"), word)
    sys.exit(0 if found.within else 1)
