"""Rules as Python source: what the emitters of Python frameworks share.

A framework supplies one table (`Operators`) from the IR's operators to its own; this file turns a
rule's program into two readable functions with it:

    def init_adamw(param, hyper): ...                          the slots before the first update
    def update_adamw(param, grad, step, hyper, slots): ...     the new parameter and the new slots

Scalars are Python floats, tensors are the framework's. Arithmetic keeps the order that the rule
has; every pair of parentheses that matters in floating point is there.
"""

from __future__ import annotations

import builtins
import hashlib
import itertools
import json
import keyword
import linecache
import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from .errors import HyperparameterError, RuleError, UnknownNameError
from .ir import FLOAT32, Node, Program, equations
from .ir.analysis import scalars
from .ir.program import Input
from .rules import Rule, families
from .rules.catalogue import CATALOGUE
from .specs import Group, Spec

__all__ = [
    "Functions",
    "Operators",
    "call",
    "class_name",
    "default_group",
    "docstring",
    "entries",
    "execute",
    "first_step",
    "functions",
    "module",
    "number",
    "rule_name",
    "rule_named",
    "rules_of",
]

WIDTH = 100  # of emitted lines
_OPERAND = 52  # an operand longer than this gets a name of its own

# What Python writes the same way for scalars and for tensors: template and how tightly it binds.
_PYTHON: Mapping[str, tuple[str, int]] = {
    "add": ("{0} + {1}", 4),
    "sub": ("{0} - {1}", 4),
    "mul": ("{0} * {1}", 5),
    "div": ("{0} / {1}", 5),
    "neg": ("-{0}", 6),
    "pow": ("{0}**{1}", 8),
    "eq": ("{0} == {1}", 3),
    "lt": ("{0} < {1}", 3),
    "le": ("{0} <= {1}", 3),
}
_ATOM = 9
_SCALAR: Mapping[str, str] = {
    "sqrt": "math.sqrt({0})",
    "exp": "math.exp({0})",
    "log": "math.log({0})",
    "abs": "abs({0})",
    "sign": "ieee(np.sign, {0})",
    "min": "min({0}, {1})",
    "max": "max({0}, {1})",
}
# Scalar operators for which Python raises, or drops a NaN, where IEEE arithmetic does not.
_IEEE: Mapping[str, str] = {
    "div": "ieee(np.divide, {0}, {1})",
    "pow": "ieee(pow, {0}, {1})",
    "sqrt": "ieee(np.sqrt, {0})",
    "exp": "ieee(np.exp, {0})",
    "log": "ieee(np.log, {0})",
    "min": "ieee(np.minimum, {0}, {1})",
    "max": "ieee(np.maximum, {0}, {1})",
}
_EXACT = frozenset({"neg", "abs", "sign", "min", "max", "where"})  # need no rounding of their own

_HELPERS: Mapping[str, str] = {
    "f32": '''\
def f32(x):
    """``x`` rounded to float32, as a Python float: what a float32 kernel receives."""
    with np.errstate(over="ignore"):
        return float(np.float32(x))
''',
    "ieee": '''\
def ieee(function, *operands):
    """A NumPy function of scalars: infinity and NaN where Python would raise."""
    with np.errstate(all="ignore"):
        return float(function(*map(np.float64, operands)))
''',
}


@dataclass(frozen=True)
class Operators:
    """How one framework writes what Python's own operators do not say.

    functions: operator -> template of a call on tensors, ``{0}`` … being the operands. ``sum``,
        ``mean`` and ``norm`` must give a Python float.
    scalar_bound: ``min`` and ``max`` of a tensor ``{0}`` and a scalar ``{1}``.
    full: a tensor like ``param`` filled with the scalar ``{0}``.
    zeros: a tensor like ``param`` filled with zeros.
    copy: a copy of tensor ``{0}``.
    lift: operator -> operands that must be tensors even where the rule has a scalar.
    helpers: functions that the templates call, by name; emitted where used.
    modules: names that the emitted module imports, not to be used for variables.
    """

    functions: Mapping[str, str]
    scalar_bound: Mapping[str, str]
    full: str
    zeros: str
    copy: str
    lift: Mapping[str, tuple[int, ...]]
    modules: tuple[str, ...]
    helpers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Functions:
    """Source of a rule's two functions, and of the helpers that they call by name."""

    init: str
    update: str
    helpers: Mapping[str, str]


def functions(name: str, rule: Rule, operators: Operators) -> Functions:
    """``init_<name>`` and ``update_<name>`` of a rule.

    Raises:
        RuleError: a name of the rule is not a Python identifier (a rule read from a file).
    """
    slots = (*rule.program.outputs, *rule.slot_names, *(i.name for i in rule.program.inputs("slot")))
    hypers = (*(h.name for h in rule.hyperparameters), *(i.name for i in rule.program.inputs("hyper")))
    for kind, names in (("rule", (name,)), ("slot", slots), ("hyperparameter", hypers)):
        for each in names:
            if not _is_identifier(each):
                raise RuleError(
                    f"{kind} {each!r}: expected an ASCII Python identifier; rename it to emit source"
                )
    init, update = _init(name, rule, operators), _Writer(rule.program, operators).function(name, rule)
    helpers = {**_HELPERS, **operators.helpers}
    called = {h: text for h, text in helpers.items() if re.search(rf"\b{h}\(", init + update)}
    return Functions(init, update, called)


def _is_identifier(name: str) -> bool:
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _init(name: str, rule: Rule, operators: Operators) -> str:
    entries = []
    for slot in rule.slots:
        value = operators.zeros if slot.init == "zeros" else operators.full.format(f'hyper["{slot.init}"]')
        entries.append(f'"{slot.name}": {value}')
    return "\n".join(
        (
            f"def init_{name}(param, hyper):",
            '    """Slots of ``param`` before its first update."""',
            *call("    return {", entries, "}"),
            "",
        )
    )


class _Writer:
    """Writes one program as the statements of a function."""

    def __init__(self, program: Program, operators: Operators) -> None:
        self.program, self.operators = program, operators
        self.live = program.used()
        self.uses = Counter(a for i in self.live for a in program.nodes[i].args)
        self.names: dict[int, str] = {}
        self.lines: list[str] = []
        self.taken = {
            "hyper",
            "slots",
            "param",
            "grad",
            "step",
            *_HELPERS,
            *operators.helpers,
            *operators.modules,
        }
        self.ieee = _careful(program)

    def function(self, name: str, rule: Rule) -> str:
        """The whole ``update_<name>``."""
        self._inputs()
        outputs: dict[int, str] = {}
        for output, i in self.program.outputs.items():
            outputs.setdefault(i, "new_" + output)
        for i in sorted(self.live):
            node = self.program.nodes[i]
            if node.op in ("input", "const"):
                continue
            shared = self.uses[i] > 1 and not self._cheap(node)
            if i in outputs or node.label or shared:
                self._assign(i, outputs.get(i) or node.label or self._suggest(node))
        results = {o: self._result(i) for o, i in self.program.outputs.items()}
        items = [f'"{slot}": {results[slot]}' for slot in rule.slot_names]
        return "\n".join(
            (
                f"def update_{name}(param, grad, step, hyper, slots):",
                '    """The new parameter and the new slots; ``step`` counts completed updates."""',
                *self.lines,
                *call(f"    return {results['param']}, {{", items, "}"),
                "",
            )
        )

    def _inputs(self) -> None:
        for i in sorted(self.live):
            node = self.program.nodes[i]
            if not isinstance(node.attr, Input):
                continue
            role, name = node.attr.role, node.attr.name
            if role in ("param", "grad", "step"):
                self.names[i] = role
                continue
            self.names[i] = self._fresh(name)
            value = f'float(hyper["{name}"])' if role == "hyper" else f'slots["{name}"]'
            self.lines.append(f"    {self.names[i]} = {value}")

    def _fresh(self, name: str) -> str:
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not _is_identifier(name) or hasattr(builtins, name):
            name = f"{name}_" if _is_identifier(name + "_") else f"x_{name}"
        base, k = name, 1
        while name in self.taken:
            k += 1
            name = f"{base}{k}"
        self.taken.add(name)
        return name

    def _suggest(self, node: Node) -> str:
        """A name for a value that the rule did not name."""
        inner, rounded = node, False
        while inner.op == "cast":
            rounded = rounded or inner.type is FLOAT32
            inner = self.program.nodes[inner.args[0]]
        if rounded and isinstance(inner.attr, Input):
            return f"{inner.attr.name or inner.attr.role}_f32"
        return "x"

    def _cheap(self, node: Node) -> bool:
        """Read more easily in place: ``1 - beta1``."""
        if node.type.is_tensor or node.op == "cast":
            return False
        return all(self.program.nodes[a].op in ("input", "const") or a in self.names for a in node.args)

    def _assign(self, i: int, name: str) -> None:
        self.names[i] = self._name(self._expression(i)[0], name)

    def _name(self, text: str, suggested: str) -> str:
        """A new variable that holds ``text``."""
        name = self._fresh(suggested)
        self.lines.append(f"    {name} = {text}")
        return name

    def _result(self, i: int) -> str:
        """An output: a constant made a tensor, an input copied so that it is not shared."""
        node = self.program.nodes[i]
        if node.op == "const":
            return self.operators.full.format(self._literal(node, node))
        return self.operators.copy.format(self.names[i]) if node.op == "input" else self.names[i]

    def _literal(self, node: Node, user: Node) -> str:
        value = float(node.attr)  # type: ignore[arg-type]
        if user.type is FLOAT32 or node.type is FLOAT32:
            value = float(np.float32(value))
        small = value.is_integer() and abs(value) < 2**53 and not (value == 0 and math.copysign(1, value) < 0)
        return str(int(value)) if small else number(value)

    def _operand(self, user: Node, k: int, binding: int) -> str:
        """Operand ``k`` of a node, in parentheses where it binds more loosely than ``binding``."""
        i = user.args[k]
        node = self.program.nodes[i]
        lifted = user.type.is_tensor and k in self._lifted(user) and not self._is_tensor(i)
        if node.op == "const":
            text, own = self._literal(node, user), _ATOM
            own = 6 if text.startswith("-") else own
        elif i in self.names:
            text, own = self.names[i], _ATOM
        else:
            text, own = self._expression(i)
            if len(text) > _OPERAND:
                self._assign(i, self._suggest(node))
                text, own = self.names[i], _ATOM
        if lifted:
            text = self.operators.full.format(text)
            return text if len(text) <= _OPERAND else self._name(text, "x")
        return f"({text})" if own < binding else text

    def _is_tensor(self, i: int) -> bool:
        node = self.program.nodes[i]
        return node.type.is_tensor and node.op != "const"

    def _lifted(self, node: Node) -> tuple[int, ...]:
        if node.op == "where":
            return (1, 2)
        return self.operators.lift.get(node.op, ())

    def _expression(self, i: int) -> tuple[str, int]:
        """Text of a node and how tightly it binds; operands too long to read are assigned first."""
        node = self.program.nodes[i]
        if node.op == "cast":
            rounded = node.type is FLOAT32
            text = self._operand(node, 0, 0 if rounded else _ATOM)
            return f"f32({text})" if rounded else text, _ATOM
        template, own, order = self._template(i)
        infix = own < _ATOM
        operands = []
        for place, k in enumerate(order):
            # A right operand at equal binding keeps its parentheses: a + (b + c) is not (a + b) + c.
            tighter = place > 0 or own in (1, 3, 8)
            operands.append(self._operand(node, k, own + tighter if infix else 0))
        text = template.format(*operands)
        if node.type is FLOAT32 and node.op not in _EXACT:
            return f"f32({text})", _ATOM
        return text, own

    def _template(self, i: int) -> tuple[str, int, tuple[int, ...]]:
        """Template, its binding, and the operands in the template's order."""
        node = self.program.nodes[i]
        order = tuple(range(len(node.args)))
        if node.op == "where" and not self._is_tensor(node.args[0]):
            return "{0} if {1} else {2}", 1, (1, 0, 2)
        tensors = [self._is_tensor(a) for a in node.args]
        if any(tensors):
            if node.op in ("min", "max") and not all(tensors):
                return self.operators.scalar_bound[node.op], _ATOM, order if tensors[0] else (1, 0)
            if node.op in self.operators.functions:
                return self.operators.functions[node.op], _ATOM, order
            return (*_PYTHON[node.op], order)
        if i in self.ieee and node.op in _IEEE:
            return _IEEE[node.op], _ATOM, order
        if node.op in _SCALAR:
            return _SCALAR[node.op], _ATOM, order
        return (*_PYTHON[node.op], order)


def _careful(program: Program) -> set[int]:
    """Scalars to compute by IEEE rules: those that come from data, or that a condition may discard."""
    host = set(scalars(program))
    branches = [
        a
        for i in program.used()
        if (node := program.nodes[i]).op == "where" and not program.nodes[node.args[0]].type.is_tensor
        for a in node.args[1:]
    ]
    out = {i for i in program.used() if not program.nodes[i].type.is_tensor} - host
    while branches:
        i = branches.pop()
        if i not in out and not program.nodes[i].type.is_tensor:
            out.add(i)
            branches.extend(program.nodes[i].args)
    return out


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


def default_group(spec: Spec) -> Group:
    """The group whose values are the defaults: the open one, else the first."""
    return next((g for g in spec.groups if g.params is None), spec.groups[0])


def rule_name(rule: Rule) -> str:
    """The catalogue's name of a rule, or its family and six digits of its options."""
    for entry in CATALOGUE.values():
        if entry.family_name == rule.family and dict(entry.options) == dict(rule.options):
            return entry.name
    return f"{rule.family}_{_options_digest(rule.options)}"


def rule_named(name: str) -> Rule:
    """The rule that `rule_name` calls ``name``: how an emitted optimizer's own files tell their rule.

    Raises:
        UnknownNameError: no rule is called so.
    """
    entry = CATALOGUE.get(name)
    if entry is not None:
        return entry.rule()
    fam = families().get(name.rpartition("_")[0])
    if fam is not None:
        for values in itertools.product(*(o.choices for o in fam.options.values())):
            options = dict(zip(fam.options, values, strict=True))
            if _options_digest(options) == name.rpartition("_")[2]:
                return fam.rule(**options)
    raise UnknownNameError(f"unknown rule {name!r}; expected one that this optexport can emit")


def _options_digest(options: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(options.items()))).encode()).hexdigest()[:6]


def rules_of(spec: Spec) -> dict[str, Rule]:
    """The distinct rules of a spec by `rule_name`, in the order of its groups.

    Raises:
        HyperparameterError: the spec has no group.
    """
    if not spec.groups:
        raise HyperparameterError("spec: expected at least one parameter group, found none")
    found: dict[str, Rule] = {}
    for group in spec.groups:
        found.setdefault(rule_name(group.rule), group.rule)
    return found


def class_name(spec: Spec, given: str | None) -> str:
    """``given`` if it is an identifier, else ``Optexport`` and the rules' names.

    Raises:
        HyperparameterError: ``given`` is not a Python identifier.
    """
    if given is not None:
        if not _is_identifier(given):
            raise HyperparameterError(f"class_name: expected a Python identifier, found {given!r}")
        return given
    rules = rules_of(spec)
    words = (
        next(iter(rules)).split("_")
        if len(rules) == 1
        else [*{r.family: 0 for r in rules.values()}, "groups"]
    )
    return "Optexport" + "".join(word.capitalize() for word in words)


def first_step(spec: Spec) -> int:
    """What a fresh optimizer's step counter starts at.

    Raises:
        HyperparameterError: groups differ in it.
    """
    found = sorted({group.first_step for group in spec.groups})
    if len(found) > 1:
        raise HyperparameterError(f"spec: first_step expected alike in all groups, found {found}")
    return found[0]


def docstring(title: str, rules: Mapping[str, Rule], *paragraphs: str) -> str:
    """A module's docstring: the equations and the digest of each rule, then ``paragraphs``."""
    lines = [title, ""]
    for name, rule in rules.items():
        if len(rules) > 1:
            lines += [f"{name}:", ""]
        choices = families()[rule.family].options if rule.family in families() else {}
        meaning = [
            f"{o} = {str(v).lower()}: {choices[o].choices[v]}"
            for o, v in rule.options.items()
            if o in choices
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
