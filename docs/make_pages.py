"""Writes ``docs/optimizers/``: what each framework's optimizers compute, out of the rules and dialects.

    python docs/make_pages.py [FOLDER]

A test runs this and compares, so the pages say what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optexport.cli.rules import catalogue
from optexport.dialects import Native, converter, frameworks, natives
from optexport.ir import equations
from optexport.ir.printer import SYMBOLS
from optexport.rules import Rule, families
from optexport.rules.catalogue import PLAIN
from optexport.translation import explain

FOLDER = Path(__file__).parent / "optimizers"
TITLES = {
    "keras": "Keras 3.15",
    "mlx": "MLX 0.32",
    "mxnet": "MXNet 1.9.1",
    "onnx": "ONNX (ai.onnx.preview.training)",
    "onnxruntime": "ONNX Runtime training 1.19.2",
    "optax": "Optax 0.2.8",
    "paddle": "Paddle 3.3",
    "torch": "PyTorch 2.13",
}
GENERATED = "<!-- Written by docs/make_pages.py; change the rules and dialects, then run it again. -->"


def pages() -> dict[str, str]:
    """File name -> text."""
    out = {"README.md": index(), "translations.md": translations()}
    for framework, table in natives().items():
        out[f"{framework}.md"] = framework_page(framework, list(table.values()))
    return out


def index() -> str:
    lines = [
        GENERATED,
        "# What the optimizers of each framework compute",
        "",
        "Optimizers of one name differ between frameworks: in where ε stands, in what the weight decay",
        "multiplies, in what a buffer holds, in where counting starts. These pages state what each one",
        "computes, as it was checked step by step against the framework itself (`tests/parity`).",
        "",
        *(f"- [{TITLES.get(f, f)}]({f}.md)" for f in natives()),
        "- [From one optimizer to another](translations.md)",
        "",
        "## Rules and frameworks",
        "",
        "Each cell names the native optimizer that comes nearest, and the verdict on carrying the rule's state",
        "into it: *exact*; *conditional* on something that the conversion checks and says; *bounded*, with the",
        "bound worked out on the state at hand; *lossy*, for what is dropped.",
        "",
        *matrix(),
        "",
        "## Symbols",
        "",
        "w is the parameter, g its gradient, t the number of the update in progress (from 1), η the learning",
        "rate of this update. A prime marks a new value. ‖x‖, mean(x) and sum(x) are over one tensor,",
        "sum_−1 and mean_−1 along an axis, Σ_group over all parameters that the update moves. The others:",
        "",
        ", ".join(f"{s} `{n}`" for n, s in SYMBOLS.items() if n not in ("param", "grad", "lr") and s != n),
        "",
    ]
    return "\n".join(lines)


def matrix() -> Iterator[str]:
    rows = catalogue()
    columns = list(rows[0]["frameworks"])
    yield f"| rule | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for row in rows:
        cells = [
            f"{c['optimizer']} *{c['verdict']}*" if c["optimizer"] else "–"
            for c in row["frameworks"].values()
        ]
        yield f"| `{row['rule']}` | {' | '.join(cells)} |"


def framework_page(framework: str, table: list[Native]) -> str:
    folder = next(n for n in frameworks() if framework in _serves(n))
    dialect = converter(folder, "dialect")
    doc = (dialect.__doc__ or "").strip().replace("``", "`")
    lines = [GENERATED, f"# {TITLES.get(framework, framework)}", "", doc, ""]
    for entry in table:
        lines += [*optimizer(entry), ""]
    absent: Mapping[str, str] = getattr(dialect, "ABSENT", {})
    own = {n: why for n, why in absent.items() if n.partition(":")[0] == framework or ":" not in n}
    if own:
        lines += ["## Not offered", "", *(f"- `{n}`: {why}" for n, why in own.items()), ""]
    return "\n".join(lines)


def _serves(folder: str) -> set[str]:
    return {e.framework for e in converter(folder, "dialect").OPTIMIZERS}


def optimizer(entry: Native) -> Iterator[str]:
    """One native optimizer."""
    rules = variants(entry)
    plain, full = rules[0], max(rules, key=lambda r: len(r[1].program.used()))
    yield f"## {entry.qualified}"
    yield ""
    if entry.note:
        yield f"{entry.note[0].upper()}{entry.note[1:]}."
        yield ""
    for title, (arguments, rule) in (("At its defaults", plain), ("With everything in use", full)):
        if rule is plain[1] and title != "At its defaults":
            continue
        given = ", ".join(f"`{k}={v}`" for k, v in arguments.items())
        yield f"{title}{f' ({given})' if given else ''}:"
        yield ""
        yield from (f"    {line}" for line in equations(rule.program))
        yield ""
    yield "| argument | default | in the equations |"
    yield "|---|---|---|"
    meaning: dict[str, list[str]] = {}
    for hyper, link in entry.links.items():
        if hyper in families()[entry.family].hyperparameters:
            meaning.setdefault(link.path[0], []).append(SYMBOLS.get(hyper, hyper))
    for name, default in entry.arguments.items():
        yield f"| `{name}` | `{default}` | {', '.join(meaning.get(name, []))} |"
    yield ""
    slots = {s.name: s for _, r in rules for s in r.slots}
    if slots:
        yield "| state | in the equations | starts at | shape |"
        yield "|---|---|---|---|"
        for native, role in entry.slots:
            if role in slots:
                s = slots[role]
                yield f"| `{native}` | {SYMBOLS.get(role, role)}: {s.doc} | {start(s.init)} | {shape(s.shape)} |"
        yield ""
    yield from choices(entry.family, [r for _, r in rules])


def start(init: str) -> str:
    return {"zeros": "0", "param": "w"}.get(init, SYMBOLS.get(init, init))


def shape(kind: str) -> str:
    word, _, number = kind.partition(":")
    return {
        "param": "w's",
        "scalar": "one number",
        "without": f"w's, axis {number} of size 1",
        "only": f"w's, all axes but {number} of size 1",
        "history": f"{number} of w's",
    }[word]


def variants(entry: Native) -> list[tuple[dict[str, Any], Rule]]:
    """The different rules that an optimizer can be, its defaults first, with the arguments that choose them."""
    found: dict[Rule, dict[str, Any]] = {entry.rule(entry.complete({})): {}}
    fits = families()[entry.family].fits or ({},)
    for variant in entry.variants:
        changed = {k: v for k, v in variant.items() if v != entry.arguments.get(k)}
        for fit in fits:
            options = {**entry.rule_options({**entry.arguments, **variant}), **fit}
            found.setdefault(families()[entry.family].rule(**options), changed)
    return [(arguments, rule) for rule, arguments in found.items()]


def choices(family: str, rules: Iterable[Rule]) -> Iterator[str]:
    """What an optimizer can be, choice by choice, in words."""
    rules = list(rules)
    for name, option in families()[family].options.items():
        values = list(dict.fromkeys(r.options[name] for r in rules))
        # What every family may have, and this optimizer has not, goes without saying.
        if not option.choices or values in ([option.default], [PLAIN.get(name)]):
            continue
        words = [option.choices[v] for v in values]
        yield f"- {name}: {'; or '.join(words)}"


def translations() -> str:
    lines = [
        GENERATED,
        "# From one optimizer to another",
        "",
        "For every two native optimizers of one family at their defaults: the verdict on carrying state from the",
        "row to the column. `optexport explain A B` prints conditions, bounds and differences for any arguments.",
        "Optimizers of different families keep different state; no map joins them, and the verdict is *none*.",
    ]
    by_family: dict[str, list[Native]] = {}
    for table in natives().values():
        for entry in table.values():
            by_family.setdefault(entry.family, []).append(entry)
    for family in sorted(by_family):
        entries = by_family[family]
        lines += ["", f"## {family}", ""]
        if len(entries) == 1:
            lines.append(f"`{entries[0].qualified}` alone; it has no counterpart.")
            continue
        said: dict[str, str] = {}
        lines.append(f"| from, to | {' | '.join(f'`{e.qualified}`' for e in entries)} |")
        lines.append("|---" * (len(entries) + 1) + "|")
        for a in entries:
            cells = []
            for b in entries:
                if a is b:
                    cells.append("")
                    continue
                found = explain(a.qualified, b.qualified)
                why = (*found.conditions, *((found.bound,) if found.bound else ()), *found.dropped)
                why = why or (found.notes if found.verdict == "none" else ())
                text = "; ".join(why).replace(
                    f"{a.qualified} and {b.qualified} differ where no map exists: ", ""
                )
                mark = f" [{said.setdefault(text, str(len(said) + 1))}]" if text else ""
                cells.append(f"{found.verdict}{mark}")
            lines.append(f"| `{a.qualified}` | {' | '.join(cells)} |")
        lines += ["", *(f"{mark}. {text}" for text, mark in said.items())]
    return "\n".join((*lines, ""))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
