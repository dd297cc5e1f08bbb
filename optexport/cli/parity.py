"""``optexport parity``: does every backend compute what the rule says, and still what it did."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from .output import console, json_option, key_values, plain, print_json, table

if TYPE_CHECKING:
    from ..parity.baseline import Comparison
    from ..parity.cases import Case
    from ..parity.suite import CaseResult, Report

__all__ = ["command"]


@click.command("parity")
@click.option(
    "--rule", "rules", multiple=True, metavar="R", help="A rule, or FRAMEWORK:NAME. [default: the suite]"
)
@click.option("--hyper", multiple=True, metavar="K=V", help="An argument of --rule, as in lr=0.01.")
@click.option(
    "--backend", "backends", multiple=True, metavar="B", help="A framework to run in. [default: all here]"
)
@click.option(
    "--form", "forms", multiple=True, type=click.Choice(["native", "emitted"]), help="[default: both]"
)
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(["float32", "float64"]), help="[default: both]"
)
@click.option(
    "--problem",
    "problems",
    multiple=True,
    type=click.Choice(["standard", "extreme", "digits", "recorded"]),
    help="Gradients to run on. [default: standard; of the suite all but recorded]",
)
@click.option(
    "--grads", metavar="FILE", help="Recorded gradients (.npz, .safetensors): NAME -> (steps, *shape)."
)
@click.option("--steps", type=click.IntRange(1), help="Updates. [default: 30, or a row's own]")
@click.option(
    "--all", "everything", is_flag=True, help="Every row of the parity table; takes several minutes."
)
@click.option(
    "--python", "pythons", multiple=True, metavar="FW=PATH", help="The interpreter that has a framework."
)
@click.option(
    "--provider", "providers", multiple=True, metavar="NAME", help="Execution provider of ONNX Runtime."
)
@click.option("--twice", is_flag=True, help="Run everything twice and compare bits.")
@click.option("--timeout", default=120.0, show_default=True, metavar="S", help="Seconds for one case.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1), help="Backends at a time.")
@click.option("--save", metavar="FILE", help="Keep the numbers, for --baseline.")
@click.option(
    "--baseline", metavar="FILE", help="Compare with numbers that were kept; exit code 1 where they changed."
)
@click.option(
    "--ulps",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Accepted change, units in the last place.",
)
@click.option("--html", "html_file", metavar="FILE", help="Write a page with plots.")
@click.option("--junit", "junit_file", metavar="FILE", help="Write JUnit XML.")
@json_option
def command(
    rules: tuple[str, ...],
    hyper: tuple[str, ...],
    backends: tuple[str, ...],
    forms: tuple[str, ...],
    dtypes: tuple[str, ...],
    problems: tuple[str, ...],
    grads: str | None,
    steps: int | None,
    everything: bool,
    pythons: tuple[str, ...],
    providers: tuple[str, ...],
    twice: bool,
    timeout: float,
    jobs: int,
    save: str | None,
    baseline: str | None,
    ulps: int,
    html_file: str | None,
    junit_file: str | None,
    as_json: bool,
) -> None:
    """Run rules and native optimizers on every framework here, each beside the float64 referee.

    Exit code 0: all within what rounding explains, and no change against --baseline; 1: not; 2: bad usage.
    """
    from ..parity.baseline import compare_baseline, save_baseline
    from ..parity.suite import run_suite

    interpreters = _interpreters(pythons)
    if grads is not None and not problems:
        problems = ("recorded",)
    _check(rules, hyper, backends, problems, grads, everything, (save, html_file, junit_file))
    if baseline is not None:
        from ..parity.baseline import check_baseline

        check_baseline(baseline)
    cases = _cases(rules, hyper, backends, forms, dtypes, problems, steps, everything)
    keep = save is not None or baseline is not None
    options = {"onnx": {"providers": list(providers)}} if providers else {}
    with _bar(len(cases), as_json) as told:
        report = run_suite(
            cases,
            pythons=interpreters,
            required=backends,
            gradients=grads,
            timeout=timeout,
            jobs=jobs,
            twice=twice,
            options=options,
            keep=keep,
            told=told,
        )
    comparison = None if baseline is None else compare_baseline(report, baseline, ulps)
    if save is not None:
        save_baseline(report, save)
    _write(report, comparison, html_file, junit_file)
    if as_json:
        from ..parity.report.form import as_json as form

        print_json(form(report) | ({"baseline": comparison.as_json()} if comparison else {}))
    else:
        _print(report, comparison)
    sys.exit(0 if report.passed and not (comparison and comparison.regressions) else 1)


def _interpreters(given: Sequence[str]) -> dict[str, str]:
    from ..parity.cases import backends as known

    out = {}
    for item in given:
        framework, equals, path = item.partition("=")
        if not equals or not path or framework not in known():
            raise click.UsageError(
                f"--python {item!r}: expected FRAMEWORK=INTERPRETER, a framework among {', '.join(known())}"
            )
        found = shutil.which(os.path.expanduser(path))
        if found is None:
            raise click.UsageError(f"--python {item!r}: expected a program to start, found none at {path}")
        out[framework] = found
    return out


def _check(
    rules: Sequence[str],
    hyper: Sequence[str],
    backends: Sequence[str],
    problems: Sequence[str],
    grads: str | None,
    everything: bool,
    outputs: Sequence[str | None],
) -> None:
    from ..parity.cases import backends as known
    from ..parity.gradients import recorded

    for name in backends:
        if name not in known():
            raise click.UsageError(f"--backend {name!r}: expected one of {', '.join(known())}")
    if hyper and len(rules) != 1:
        raise click.UsageError(f"--hyper: expected one --rule that it belongs to, found {len(rules)}")
    if everything and rules:
        raise click.UsageError("--all: expected no --rule beside it")
    if "recorded" in problems:
        if grads is None:
            raise click.UsageError("--problem recorded: expected --grads FILE beside it, found none")
        recorded(grads)  # raises what is wrong with it
    elif grads is not None:
        raise click.UsageError("--grads: expected --problem recorded, found other problems alone")
    for path in outputs:
        if path is not None and not os.path.isdir(os.path.dirname(path) or "."):
            raise click.UsageError(
                f"{path}: expected a folder to write to, found none at {os.path.dirname(path)}"
            )


def _cases(
    rules: Sequence[str],
    hyper: Sequence[str],
    backends: Sequence[str],
    forms: Sequence[str],
    dtypes: Sequence[str],
    problems: Sequence[str],
    steps: int | None,
    everything: bool,
) -> list[Case]:
    from ..parity.cases import default_cases, plan, rows_for
    from ..parity.record import BOTH
    from ..parity.table import table as rows

    wanted = list(backends) or None
    if not rules and not everything and not problems:
        cases = [c for c in default_cases(wanted, dtypes or BOTH, steps) if not forms or c.form in forms]
    else:
        named = [row for r in rules for row in rows_for(r, key_values(hyper))] if rules else list(rows())
        cases = plan(
            named,
            backends=wanted,
            forms=forms or ("native", "emitted"),
            dtypes=dtypes or BOTH,
            problems=problems or ("standard",),
            steps=steps,
        )
    if not cases:
        raise click.UsageError("nothing to run: no rule, backend, form and dtype of these go together")
    return cases


def _bar(total: int, as_json: bool) -> Any:
    """A context that gives the function to call with each result."""
    from contextlib import contextmanager

    from ..progress import counted

    @contextmanager
    def shown() -> Any:
        with counted("parity", total, quiet=as_json) as advance:

            def told(result: CaseResult) -> None:
                advance(f"{result.case.backend} {result.case.row.optimizer}")

            given: Callable[[CaseResult], None] = told
            yield given

    return shown()


def _write(
    report: Report, comparison: Comparison | None, html_file: str | None, junit_file: str | None
) -> None:
    from ..state.files import whole_or_nothing

    if html_file is not None:
        from ..parity.report.html import html

        with whole_or_nothing(html_file) as f:
            f.write(html(report, comparison))
    if junit_file is not None:
        from ..parity.report.junit import junit

        with whole_or_nothing(junit_file) as f:
            f.write(junit(report, comparison))


def _print(report: Report, comparison: Comparison | None) -> None:
    out = console()
    for problem in dict.fromkeys(r.case.problem for r in report.results):
        _matrix(problem, [r for r in report.results if r.case.problem == problem])
    out.print(
        plain("Largest error of each cell as a share of what rounding explains; n/a: not offered here.")
    )
    for worker in report.workers:
        if worker.status != "ok":
            out.print(plain(f"{worker.backend}: {worker.status}: {worker.sentence}"))
    absent = {w.sentence for w in report.workers}
    reasons = {r.sentence for r in report.results if r.status == "unavailable"} - absent
    for reason in sorted(reasons)[:10]:
        out.print(plain(f"n/a: {reason}", "dim"))
    failed = [r for r in report.results if r.failed]
    for result in failed[:40]:
        out.print(plain(f"{result.case.id}: {result.sentence}", "red"))
    if len(failed) > 40:
        out.print(plain(f"and {len(failed) - 40} more; --json, --html and --junit have all of them"))
    sentences = comparison.sentences() if comparison else []
    if len(sentences) > 60:
        sentences = [*sentences[:60], f"and {len(sentences) - 60} more; --json has all of them"]
    for said in sentences:
        out.print(plain(said, "red" if said.startswith("regression") else ""))
    counts: dict[str, int] = {}
    for r in report.results:
        counts[r.status] = counts.get(r.status, 0) + 1
    said = ", ".join(f"{n} {k}" for k, n in counts.items())
    word = (
        "[green]passed[/green]"
        if report.passed and not (comparison and comparison.regressions)
        else "[red]failed[/red]"
    )
    out.print(word, plain(f"{said}, {report.seconds:.0f} s"))


def _matrix(problem: str, results: Sequence[CaseResult]) -> None:
    columns = sorted({_column(r) for r in results}, key=lambda c: (c != "native", c))
    rows: dict[str, dict[str, list[CaseResult]]] = {}
    for r in results:
        cells = rows.setdefault(f"{r.case.row.optimizer} {r.case.row.desc}", {})
        cells.setdefault(_column(r), []).append(r)
    table(
        ["optimizer", *columns],
        [[name, *(_cell(cells.get(c, [])) for c in columns)] for name, cells in rows.items()],
        title=f"problem {problem}",
        right=tuple(range(1, len(columns) + 1)),
    )


def _column(result: CaseResult) -> str:
    return "native" if result.case.form == "native" else result.case.backend


def _cell(results: Sequence[CaseResult]) -> Any:
    """The worst of a row's runs in one column."""
    there = [r for r in results if r.status != "unavailable"]
    if not there:
        return plain("n/a" if results else "", "dim")
    bad = [r for r in there if r.status not in ("within", "outside")]
    if bad:
        return plain(
            bad[0].measured.fault.kind if bad[0].measured and bad[0].measured.fault else bad[0].status, "red"
        )
    ratio = max(r.measured.ratio for r in there if r.measured)
    return plain(f"{100 * ratio:.0f} %" if ratio < 1e6 else "far", "green" if ratio <= 1 else "red")
