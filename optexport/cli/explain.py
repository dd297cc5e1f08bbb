"""``optexport explain``: the maths, and how two optimizers differ."""

from __future__ import annotations

from typing import Any

import click

from .output import console, hyperparameters, json_option, key_values, print_json, verdict_text

__all__ = ["command"]


@click.command("explain")
@click.argument("optimizer")
@click.argument("other", required=False)
@click.option("--hyper", multiple=True, metavar="K=V", help="An argument of OPTIMIZER, as in momentum=0.9.")
@json_option
def command(optimizer: str, other: str | None, hyper: tuple[str, ...], as_json: bool) -> None:
    """The maths of OPTIMIZER (a rule, or FRAMEWORK:NAME); with OTHER, the differences and the verdict.

    Exit code 1 where no translation exists."""
    from ..errors import VerdictError
    from ..translation import explain

    arguments = key_values(hyper)
    if other is None:
        record = describe(optimizer, arguments)
        print_json(record) if as_json else _print_one(record)
        return
    result = explain(optimizer, other, arguments)
    if as_json:
        print_json(result)
    else:
        _print_two(result)
    if result.verdict == "none":
        reason = "; ".join((*result.notes, *result.conditions))
        raise VerdictError(f"{result.source} to {result.target}: verdict none: {reason}")


def _print_two(result: Any) -> None:
    out = console()
    out.print(verdict_text(result.verdict), f"from {result.source} to {result.target}")
    for label, lines in (
        ("condition", result.conditions),
        ("an update changes by up to", (result.bound,) if result.bound else ()),
        ("drops", result.dropped),
        ("map", result.notes),
        ("differs in", result.differences),
    ):
        for line in lines:
            out.print(f"  {label}: {line}", markup=False)


def describe(optimizer: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A rule or native optimizer as a record."""
    from ..dialects import find
    from ..ir import equations, reach
    from ..rules import families, name_of
    from ..specs import native, spec

    group = (native(optimizer, **arguments) if ":" in optimizer else spec(optimizer, **arguments)).groups[-1]
    fam = families()[group.rule.family]
    return {
        "rule": name_of(group.rule, group.hyperparameters),
        "family": fam.name,
        "optimizer": group.native or None,
        "equations": equations(group.rule.program),
        "options": dict(group.rule.options),
        "choices": {o: fam.options[o].sentence(v) for o, v in group.rule.options.items()},
        "hyperparameters": dict(group.hyperparameters),
        "slots": {s.name: s.doc for s in group.rule.slots},
        "reach": reach(group.rule.program).value,
        "digest": group.rule.digest,
        "source": group.rule.source,
        "note": find(group.native).note if group.native else "",
    }


def _print_one(record: dict[str, Any]) -> None:
    out = console()
    out.print(
        f"[bold]{record['optimizer'] or record['rule']}[/bold]  family {record['family']}, {record['reach']}"
    )
    for line in record["equations"]:
        out.print(f"    {line}", markup=False)
    for name, choice in record["choices"].items():
        out.print(f"  {name}: {choice}", markup=False)
    out.print(f"  hyperparameters: {hyperparameters(record['hyperparameters'])}", markup=False)
    for slot, doc in record["slots"].items():
        out.print(f"  slot {slot}: {doc}", markup=False)
    if record["note"]:
        out.print(f"  note: {record['note']}", markup=False)
    out.print(f"  source: {record['source']}", markup=False)
    out.print(f"  digest: {record['digest']}", markup=False)
