"""Source text: numbers, calls, docstrings, modules, and running them."""

from __future__ import annotations

import hashlib
import json
import linecache
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping
from types import ModuleType

from ..ir import equations
from ..rules import Rule, families

__all__ = ["WIDTH", "call", "docstring", "entries", "execute", "module", "number"]

WIDTH = 100  # of emitted lines


def number(value: float) -> str:
    """A float as Python source that gives the same float back (``math`` imported)."""
    if math.isnan(value):
        return "math.nan"
    if math.isinf(value):
        return "math.inf" if value > 0 else "-math.inf"
    return repr(float(value))


def call(start: str, items: list[str], end: str) -> list[str]:
    """``start`` + items + ``end`` on one line, or one item a line where that is too long."""
    line = start + ", ".join(items) + end
    if len(line) <= WIDTH or not items:
        return [line]
    indent = " " * (len(start) - len(start.lstrip()))
    return [start, *(f"{indent}    {item}," for item in items), indent + end]


def entries(values: Mapping[str, object]) -> list[str]:
    """Entries of a dictionary display: floats by `number`, anything else as JSON has it."""
    texts = {
        k: number(v) if isinstance(v, float) else "None" if v is None else json.dumps(v)
        for k, v in values.items()
    }
    return [f"{json.dumps(k)}: {text}" for k, text in texts.items()]


def docstring(title: str, rules: Mapping[str, Rule], *paragraphs: str) -> str:
    """A module's docstring: the equations and the digest of each rule, then ``paragraphs``."""
    lines = [title, ""]
    for name, rule in rules.items():
        if len(rules) > 1:
            lines += [f"{name}:", ""]
        choices = families()[rule.family].options if rule.family in families() else {}
        meaning = [
            f"{o} = {str(v).lower()}: {choices[o].choices.get(v, getattr(choices[o], 'doc', ''))}"
            for o, v in rule.options.items()
            # What is added to a rule is told where it is there.
            if o in choices and (choices[o].default is None or v != choices[o].default)
        ]
        for line in (*equations(rule.program), "", *meaning, f"rule digest {rule.digest}"):
            lines += textwrap.wrap(line, WIDTH, initial_indent="    ", subsequent_indent=" " * 8) or [""]
        lines.append("")
    for paragraph in paragraphs:
        lines += [paragraph.strip("\n"), ""]
    text = "\n".join(lines).rstrip().replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{text}\n"""\n'


def module(doc: str, parts: Iterable[str], framework: str) -> str:
    """A module: docstring, the imports that its text needs, definitions two blank lines apart.

    framework: the framework's import statement.
    """
    body = "\n\n".join(parts)
    third = sorted(
        [framework, *(["import numpy as np"] if "np." in body else [])], key=lambda line: line.split()[1]
    )
    standard = ["import math", ""] if "math." in body else []
    return "\n".join((doc, *standard, *third, "", "")) + "\n" + body


def execute(text: str) -> ModuleType:
    """An emitted module, imported from its text; the same text gives the same module.

    It is registered in ``sys.modules``, so that its classes can be pickled. It runs as code: only
    for text that this process emitted.
    """
    name = "optexport_emitted_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    if name not in sys.modules:
        made = ModuleType(name)
        sys.modules[name] = made
        try:
            exec(compile(text, f"<{name}>", "exec"), made.__dict__)
            # So that a traceback shows the line.
            linecache.cache[f"<{name}>"] = (len(text), None, text.splitlines(keepends=True), f"<{name}>")
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
