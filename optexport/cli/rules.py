"""``optexport rules``: the catalogue."""

from __future__ import annotations

from typing import Any

import click

from .output import console, json_option, print_json, table, verdict_text

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
    rows = catalogue()
    if as_json:
        print_json(rows)
        return
    frameworks = list(rows[0]["frameworks"])
    longest = max(len(str(c["optimizer"])) for r in rows for c in r["frameworks"].values())
    if console().width >= 20 + (max(longest, 11) + 2) * len(frameworks):
        _print_matrix(rows, frameworks)
    else:
        _print_lines(rows)


def _print_matrix(rows: list[dict[str, Any]], frameworks: list[str]) -> None:
    """Rule by framework."""
    from rich.text import Text

    cells = []
    for row in rows:
        line: list[Any] = [row["rule"]]
        for f in frameworks:
            cell = row["frameworks"][f]
            name, verdict = cell["optimizer"], verdict_text(cell["verdict"])
            line.append(Text("–") if name is None else Text.assemble(f"{name}\n", verdict))
        cells.append(line)
    table(["rule", *frameworks], cells, whole=[0])


def _print_lines(rows: list[dict[str, Any]]) -> None:
    """Where a matrix does not fit: a line a verdict."""
    from ..translation import LEVELS

    cells = []
    for row in rows:
        name = row["rule"]
        for level in LEVELS[:-1]:
            found = [f"{f}:{c['optimizer']}" for f, c in row["frameworks"].items() if c["verdict"] == level]
            if found:
                cells.append([name, verdict_text(level), "  ".join(found)])
                name = ""
        if name:
            cells.append([name, verdict_text("none"), "no framework has it; emit it"])
    table(["rule", "verdict", "native optimizers"], cells, whole=[0, 1])
