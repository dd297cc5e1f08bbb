"""``optexport rules``: the catalogue."""

from __future__ import annotations

from typing import Any

import click

from .output import json_option, print_json, table, verdict_text

__all__ = ["command"]


def catalogue() -> list[dict[str, Any]]:
    """One record a rule; ``frameworks`` maps each framework to its nearest native optimizer and the
    verdict of carrying the rule's state to it, at the rule's defaults."""
    from ..dialects import natives
    from ..rules import CATALOGUE
    from ..translation import LEVELS, explain

    out = []
    for entry in CATALOGUE.values():
        rule = entry.rule()
        cells: dict[str, dict[str, Any]] = {}
        for framework, table_ in natives().items():
            best = {"optimizer": None, "verdict": "none"}
            for native in table_.values():
                if native.family != entry.family_name:
                    continue
                found = explain(entry.name, native.qualified)
                if LEVELS.index(found.verdict) < LEVELS.index(str(best["verdict"])):
                    best = {"optimizer": native.name, "verdict": found.verdict}
            cells[framework] = best
        hypers = {h.name: entry.defaults.get(h.name, h.default) for h in rule.hyperparameters}
        out.append(
            {
                "rule": entry.name,
                "family": entry.family_name,
                "slots": list(rule.slot_names),
                "hyperparameters": hypers,
                "options": dict(rule.options),
                "frameworks": cells,
                "digest": rule.digest,
            }
        )
    return out


@click.command("rules")
@json_option
def command(as_json: bool) -> None:
    """The catalogue: every rule, and the nearest native optimizer of each framework."""
    from rich.text import Text

    rows = catalogue()
    if as_json:
        print_json(rows)
        return
    frameworks = list(rows[0]["frameworks"])
    cells = []
    for row in rows:
        line: list[Any] = [row["rule"]]
        for f in frameworks:
            cell = row["frameworks"][f]
            known = cell["optimizer"] is not None
            line.append(
                Text.assemble(f"{cell['optimizer']}\n", verdict_text(cell["verdict"])) if known else Text("–")
            )
        cells.append(line)
    table(["rule", *frameworks], cells, whole=[0])
