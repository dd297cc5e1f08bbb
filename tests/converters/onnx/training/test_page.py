"""What docs/training-graphs.md says about options, losses and operators is so."""

from __future__ import annotations

import re
from pathlib import Path

import click
import onnx
import pytest

from optexport.cli.training_graph import command
from optexport.converters.onnx.training.backward import rules
from optexport.converters.onnx.training.losses import LOSSES

PAGE = Path(__file__).parents[4] / "docs" / "training-graphs.md"

if not PAGE.exists():
    pytest.skip("needs the checkout's docs folder", allow_module_level=True)


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table after the heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n{heading}\n")[1]
    table = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def test_every_operator_of_the_table_has_a_rule() -> None:
    listed = [name for _, names in rows("## Gradients") for name in re.findall(r"\b[A-Z]\w+\b", names)]
    assert len(listed) > 80 and len(listed) == len(set(listed))
    assert [n for n in listed if not onnx.defs.has(n)] == []
    assert [n for n in listed if n not in rules()] == []


def test_losses_and_their_options_are_all_there() -> None:
    said: dict[str, set[str]] = {}
    for names, _, options in rows("## Losses"):
        for name in re.findall(r"`(\w+)`", names):
            said[name] = set(re.findall(r"`(\w+)`", options))
    assert said.pop("output") == set()
    assert said == {name: set(loss.options) for name, loss in LOSSES.items()}


def test_every_option_of_the_page_is_the_commands() -> None:
    known = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) <= known


def test_the_rule_of_the_page_is_the_one_in_use() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = re.search(r"```python\n(@gradient.*?)```", page, re.DOTALL)
    source = Path(rules()["Tanh"].__code__.co_filename).read_text(encoding="utf-8")
    assert shown is not None and shown[1] in source
