"""The command line: one file a command, each imported when it is run."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from .. import __version__

__all__ = ["main"]

# Command -> one line of help. Kept here so that `optexport --help` imports nothing else.
COMMANDS = {
    "rules": "The catalogue: rule × framework, with a verdict in each cell.",
    "explain": "The maths of a rule or native optimizer; of two, the differences and the verdict.",
    "inspect": "What is in a file: groups, slots, steps, norms, and what looks wrong.",
    "convert": "Carry optimizer state from one format or optimizer to another.",
    "diff": "Two states, slot by slot, across formats.",
    "resume-check": "A checkpoint and its port, both run onwards: the divergence against the verdict's bound.",
    "emit": "Write a rule as an ONNX update graph, an MXNet or a PyTorch optimizer.",
    "training-graph": "A forward ONNX model with loss, gradient and update as one graph that trains.",
    "parity": "Every rule on every backend beside the referee; the difference; a gate for pipelines.",
    "identify": "Which rule an optimizer is: a class, a function or an ONNX graph, told by its updates.",
    "demo": "A real half-finished run, continued elsewhere and checked, end to end.",
}


class _Commands(click.Group):
    """Finds a command's module by its name, only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module("optexport.cli." + name.replace("-", "_")).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Move optimizers, and half-finished training runs, between frameworks.

    Every command takes --json. Exit code 0: success; 1: a check failed or a verdict needs consent;
    2: bad usage or unreadable input.
    """


def main(argv: list[str] | None = None) -> Any:
    """Run the command line and exit. Errors are one line a cause on stderr."""
    from ..errors import OptexportError

    if not (sys.argv[1:] if argv is None else argv):
        argv = ["--help"]
    try:
        code = cli.main(args=argv, prog_name="optexport", standalone_mode=False)
    except OptexportError as e:
        _fail(e.causes, e.exit_code)
    except click.UsageError as e:
        where = e.ctx.command_path if e.ctx else "optexport"
        _fail((f"{where}: {e.format_message()} (see {where} --help)",), 2)
    except click.ClickException as e:
        _fail((e.format_message(),), 2)
    except click.exceptions.Abort:
        _fail(("interrupted; nothing was written",), 130)
    except OSError as e:
        _fail((f"{e.filename or 'optexport'}: {e.strerror or e}",), 2)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(causes: tuple[str, ...], code: int) -> None:
    for cause in causes:
        # One line, and nothing that a file's names could make a terminal do.
        click.echo(
            "optexport: " + "".join(c if c.isprintable() else "?" for c in " ".join(str(cause).split())),
            err=True,
        )
    sys.exit(code)
