"""``optexport convert``: the main job."""

from __future__ import annotations

import contextlib
import re

import click

from .output import console, json_option, key_values, plain, print_json, progress, verdict_text

__all__ = ["command"]


@click.command("convert")
@click.argument("source")
@click.argument("target")
@click.option(
    "--from", "from_format", metavar="FMT", help="Format of SOURCE, where it is not to be detected."
)
@click.option(
    "--to",
    "to_format",
    metavar="FMT",
    help="Format of TARGET, where its name does not tell: torch, mxnet, bundle, …",
)
@click.option(
    "--optimizer", multiple=True, metavar="FW:NAME",
    help="The target's optimizer; and the source's, where its file does not say.",
)  # fmt: skip
@click.option("--optimizer-key", metavar="KEY", help="Which optimizer of SOURCE, where it holds several.")
@click.option("--names", metavar="FILE", help="Parameter names in the order the optimizer was given them.")
@click.option(
    "--model", metavar="FILE", help="A weights file: names (by shape) and values of the parameters."
)
@click.option(
    "--map",
    "map_file",
    metavar="FILE",
    help="Names and layouts of the target model: a map (docs/names-and-layouts.md).",
)
@click.option("--reverse-map", is_flag=True, help="The map is of the way back.")
@click.option(
    "--target-model",
    metavar="FILE",
    help="The target's weights: what the state must fit; finds the map where none is given.",
)
@click.option(
    "--layout",
    metavar="NAME",
    help="What the axes of both models follow, where values do not tell: torch-to-keras, …",
)
@click.option("--write-map", metavar="FILE", help="Write the map that was found, to be checked.")
@click.option(
    "--partial", is_flag=True, help="Consent to parameters that start fresh and state that is left out."
)
@click.option(
    "--hyper", multiple=True, metavar="K=V", help="The source's arguments, where its file holds none."
)
@click.option(
    "--step", type=click.IntRange(min=0), metavar="N", help="Completed updates, where the file does not say."
)
@click.option(
    "--lr", type=float, metavar="X", help="Learning rate of the next step, where it is not the file's."
)
@click.option(
    "--allow", type=click.Choice(["bounded", "lossy"]), help="Consent to a verdict that is not exact."
)
@click.option(
    "--emit-optimizer", metavar="FILE", help="Write an optimizer that computes the source's rule exactly."
)
@click.option(
    "--shard-size",
    metavar="SIZE",
    help="Cut a bundle that has more bytes into shards of at most so many: 5GB, 500MB, a number.",
)
@json_option
def command(
    source: str,
    target: str,
    from_format: str | None,
    to_format: str | None,
    optimizer: tuple[str, ...],
    optimizer_key: str | None,
    names: str | None,
    model: str | None,
    map_file: str | None,
    reverse_map: bool,
    target_model: str | None,
    layout: str | None,
    write_map: str | None,
    partial: bool,
    hyper: tuple[str, ...],
    step: int | None,
    lr: float | None,
    allow: str | None,
    emit_optimizer: str | None,
    shard_size: str | None,
    as_json: bool,
) -> None:
    """Carry optimizer state from SOURCE to TARGET, and say how exact that is."""
    from ..convert import convert

    with contextlib.ExitStack() as stack:
        result = convert(
            source,
            target,
            from_format=from_format,
            to_format=to_format,
            optimizers=optimizer,
            optimizer_key=optimizer_key,
            model=model,
            names=names,
            arguments=key_values(hyper) or None,
            step=step,
            lr=lr,
            allow=allow,
            emit_optimizer=emit_optimizer,
            map_file=map_file,
            reverse_map=reverse_map,
            target_model=target_model,
            layout=layout,
            write_map_file=write_map,
            partial=partial,
            shard_size=None if shard_size is None else _bytes(shard_size),
            on_size=lambda n: stack.enter_context(progress("writing", n, as_json)),
        )
    if as_json:
        print_json(result)
        return
    out = console()
    out.print(verdict_text(result.verdict), plain(f"{result.source} → {result.target} ({result.optimizer})"))
    out.print(f"  {result.tensors} tensors, {result.bytes} bytes, {result.seconds:.2f} s", markup=False)
    if result.bound is not None:
        out.print(
            f"  bound: an update changes by up to {result.bound:.3g} ({result.bound_text})", markup=False
        )
    for label, lines in (
        ("condition", result.conditions),
        ("dropped", result.dropped),
        ("fresh", result.fresh),
        ("frozen", result.frozen),
        ("map", result.notes),
        ("note", result.warnings),
    ):
        for line in lines:
            out.print(plain(f"  {label}: {line}"))
    for path in result.written[1:]:
        out.print(plain(f"  also wrote {path}"))


def _bytes(text: str) -> int:
    """A number of bytes, with KB, MB, GB or TB of 1000 each behind it."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    size = 0 if found is None else int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))
    if size <= 0:
        raise click.BadParameter(
            f"expected a size as in 5GB, 500MB or 1000000, found {text!r}", param_hint="--shard-size"
        )
    return size
