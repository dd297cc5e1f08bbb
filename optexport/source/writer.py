"""One program as the statements of a Python function."""

from __future__ import annotations

import builtins
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RuleError
from ..ir import FLOAT32, TENSOR, Node, Program
from ..ir.analysis import scalars
from ..ir.program import Input
from ..rules import Rule
from ..rules.base import Slot
from .naming import is_identifier
from .operators import ATOM, EXACT, HELPERS, PYTHON, Operators
from .text import call, number

__all__ = ["Functions", "functions", "given"]

_OPERAND = 52  # an operand longer than this gets a name of its own
_GIVEN = ("noise", "hessian")  # inputs that the caller gives beside the gradient
_VIEWS = frozenset({"input", "expand", "item", "transpose"})  # may share memory with their operand


@dataclass(frozen=True)
class Functions:
    """Source of a rule's two functions, and of the helpers that they call by name.

    given: what ``update`` takes after ``slots``: ``noise``, ``hessian``. sums: whether ``update`` is a
    generator, which yields a number to be summed over all parameters and is sent the sum.
    """

    init: str
    update: str
    helpers: Mapping[str, str]
    given: tuple[str, ...] = ()
    sums: bool = False


def functions(name: str, rule: Rule, operators: Operators, given: Sequence[str] = ()) -> Functions:
    """``init_<name>`` and ``update_<name>`` of a rule.

    given: what the update function takes after ``slots`` even where the rule does not read it, so that
        the functions of several rules are called alike.

    Raises:
        RuleError: a name of the rule is not a Python identifier (a rule read from a file), or it has
            an operator or an input that the framework cannot have.
    """
    slots = (*rule.program.outputs, *rule.slot_names, *(i.name for i in rule.program.inputs("slot")))
    hypers = (*(h.name for h in rule.hyperparameters), *(i.name for i in rule.program.inputs("hyper")))
    for kind, names in (("rule", (name,)), ("slot", slots), ("hyperparameter", hypers)):
        for each in names:
            if not is_identifier(each):
                raise RuleError(
                    f"{kind} {each!r}: expected an ASCII Python identifier; rename it to emit source"
                )
    _check_possible(name, rule.program, operators)
    writer = _Writer(rule, operators, given)
    init, update = _init(name, rule, operators), writer.function(name)
    helpers = {**HELPERS, **operators.helpers}
    called = _called(init + update, helpers)
    return Functions(init, update, called, writer.given, writer.sums)


def _called(text: str, helpers: Mapping[str, str]) -> dict[str, str]:
    """The helpers that ``text`` calls, and those that they call."""
    found: dict[str, str] = {}
    todo = [text]
    while todo:
        body = todo.pop()
        for name, helper in helpers.items():
            if name not in found and re.search(rf"\b{name}\(", body):
                found[name] = helper
                todo.append(helper)
    return {name: helper for name, helper in helpers.items() if name in found}


def given(rules: Iterable[Rule]) -> tuple[str, ...]:
    """What callers give beside the gradient, for any of these rules: ``noise``, ``hessian``."""
    roles = {i.role for rule in rules for i in rule.program.inputs()}
    return tuple(r for r in _GIVEN if r in roles)


def _check_possible(name: str, program: Program, operators: Operators) -> None:
    for i in sorted(program.used()):
        node = program.nodes[i]
        what = node.attr.role if isinstance(node.attr, Input) else node.op
        if what in operators.refused:
            raise RuleError(f"rule {name}: needs {what}: {operators.refused[what]}")


def _init(name: str, rule: Rule, operators: Operators) -> str:
    entries = [f'"{slot.name}": {_first(slot, rule, operators)}' for slot in rule.slots]
    return "\n".join(
        (
            f"def init_{name}(param, hyper):",
            '    """Slots of ``param`` before its first update."""',
            *call("    return {", entries, "}"),
            "",
        )
    )


def _first(slot: Slot, rule: Rule, operators: Operators) -> str:
    """Expression of a slot's initial value."""
    if slot.init == "param":
        return operators.copy.format("param")
    hyper = slot.init in {h.name for h in rule.hyperparameters}
    value = f'hyper["{slot.init}"]' if hyper else "0.0" if slot.init == "zeros" else number(float(slot.init))
    if slot.shape == "param":
        return operators.zeros if slot.init == "zeros" else operators.full.format(value)
    if slot.shape == "scalar":
        return _stored(slot, value, operators)
    kind, _, index = slot.shape.partition(":")
    index = index if index.lstrip("-").isdigit() else repr(index)
    shape = f"({index}, *param.shape)" if kind == "history" else f"{kind}(param.shape, {index})"
    return operators.filled.format(value, shape=shape)


def _stored(slot: Slot, value: str, operators: Operators) -> str:
    """What a scalar slot holds for ``value``."""
    dtype = "float32" if slot.dtype == "float32" else "float64"
    if operators.scalar_slot:
        return operators.scalar_slot.format(value, dtype=dtype)
    return f"f32({value})" if dtype == "float32" else f"float({value})"


class _Writer:
    """Writes one program as the statements of a function."""

    def __init__(self, rule: Rule, operators: Operators, given: Sequence[str]) -> None:
        program = rule.program
        self.rule, self.program, self.operators = rule, program, operators
        self.live = program.used()
        self.uses = Counter(a for i in self.live for a in program.nodes[i].args)
        self.names: dict[int, str] = {}
        self.lines: list[str] = []
        nodes = [program.nodes[i] for i in self.live]
        roles = {n.attr.role for n in nodes if isinstance(n.attr, Input)}
        self.given = tuple(r for r in _GIVEN if r in roles or r in given)
        self.sums = any(n.op == "group_sum" for n in nodes)
        self.taken = {
            *("hyper", "slots", "param", "grad", "step"),
            *_GIVEN,
            *HELPERS,
            *operators.helpers,
            *operators.prologue,
            *operators.modules,
        }
        self.ieee = _careful(program)

    def function(self, name: str) -> str:
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
            # Sums over all parameters are asked for in the program's order, in every rule alike.
            if i in outputs or node.label or shared or node.op == "group_sum":
                self._assign(i, outputs.get(i) or node.label or self._suggest(node))
        slots = {s.name: s for s in self.rule.slots}
        results = {o: self._result(i, slots.get(o)) for o, i in self.program.outputs.items()}
        items = [f'"{slot}": {results[slot]}' for slot in self.rule.slot_names]
        returns = call(f"    return {results['param']}, {{", items, "}")
        body = "\n".join((*self.lines, *returns))
        prologue = [t for word, t in self.operators.prologue.items() if re.search(rf"\b{word}\(", body)]
        arguments = ", ".join(("param", "grad", "step", "hyper", "slots", *self.given))
        doc = ['    """The new parameter and the new slots; ``step`` counts completed updates."""']
        if self.sums:
            yields = "    Yields numbers, and is sent the sum of each over all parameters of the step."
            doc = [doc[0][:-3], "", yields, '    """']
        return "\n".join(
            (
                f"def update_{name}({arguments}):",
                *doc,
                *prologue,
                body,
                "",
            )
        )

    def _inputs(self) -> None:
        for i in sorted(self.live):
            node = self.program.nodes[i]
            if not isinstance(node.attr, Input):
                continue
            role, name = node.attr.role, node.attr.name
            if role not in ("hyper", "slot"):
                self.names[i] = role
                continue
            self.names[i] = self._fresh(name)
            value = f'slots["{name}"]'
            if role == "hyper":
                value = self.operators.hyper.format(name=name)
            elif not node.type.is_tensor:
                value = self.operators.read_scalar.format(value)
            self.lines.append(f"    {self.names[i]} = {value}")

    def _fresh(self, name: str) -> str:
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not is_identifier(name) or hasattr(builtins, name):
            name = f"{name}_" if is_identifier(name + "_") else f"x_{name}"
        base, k = name, 1
        while name in self.taken:
            k += 1
            name = f"{base}{k}"
        self.taken.add(name)
        return name

    def _suggest(self, node: Node) -> str:
        """A name for a value that the rule did not name."""
        if node.op == "group_sum":
            return "total"
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

    def _result(self, i: int, slot: Slot | None) -> str:
        """An output: a constant made a tensor, a view copied so that no memory is shared."""
        node = self.program.nodes[i]
        if slot is not None and not slot.type.is_tensor:
            return _stored(
                slot, self.names[i] if i in self.names else self._literal(node, node), self.operators
            )
        if node.op == "const":
            return self.operators.full.format(self._literal(node, node))
        return self.operators.copy.format(self.names[i]) if node.op in _VIEWS else self.names[i]

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
            text, own = self._literal(node, user), ATOM
            own = 6 if text.startswith("-") else own
        elif i in self.names:
            text, own = self.names[i], ATOM
        else:
            text, own = self._expression(i)
            if len(text) > _OPERAND:
                self._assign(i, self._suggest(node))
                text, own = self.names[i], ATOM
        if lifted:
            full = self.operators.full if user.type is TENSOR else self.operators.array_scalar
            text = full.format(text)
            return text if len(text) <= _OPERAND else self._name(text, "x")
        if self.operators.meet and node.op != "const" and self._meets_tensor(user, i):
            return self.operators.meet.format(text)
        return f"({text})" if own < binding else text

    def _meets_tensor(self, user: Node, i: int) -> bool:
        """Whether ``user`` is elementwise on tensors and operand ``i`` a real scalar."""
        kind = self.program.nodes[i].type
        return not kind.is_tensor and not kind.is_truth and any(map(self._is_tensor, user.args))

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
            text = self._operand(node, 0, 0 if rounded else ATOM)
            return f"f32({text})" if rounded else text, ATOM
        if self._is_complement(node):
            return self._complement(node), ATOM
        template, own, order = self._template(i)
        infix = own < ATOM
        operands = []
        for place, k in enumerate(order):
            # A right operand at equal binding keeps its parentheses: a + (b + c) is not (a + b) + c.
            tighter = place > 0 or own in (1, 3, 8)
            # `{0}.T` and `{0}[1:]` bind to an operand in parentheses.
            method = ATOM if re.search(rf"\{{{place}\}}[.\[]", template) else 0
            operands.append(self._operand(node, k, own + tighter if infix else method))
        text = template.format(*operands)
        if node.type is FLOAT32 and node.op not in EXACT:
            return f"f32({text})", ATOM
        return text, own

    def _complement(self, node: Node) -> str:
        """1 − a^b as the framework has it."""
        power = self._power(node)
        assert power is not None
        return self.operators.complement.format(*(self._operand(power, k, 0) for k in (0, 1)))

    def _template(self, i: int) -> tuple[str, int, tuple[int, ...]]:
        """Template, its binding, and the operands in the template's order."""
        node, rows = self.program.nodes[i], self.operators
        order = tuple(range(len(node.args)))
        tensors = [self._is_tensor(a) for a in node.args]
        if node.op == "group_sum":
            return "yield {0}", 0, order
        if node.op == "where" and not tensors[0] and not rows.traced:
            return "{0} if {1} else {2}", 1, (1, 0, 2)
        if any(tensors) or node.op == "where":
            if node.op in ("min", "max") and not all(tensors):
                return rows.scalar_bound[node.op], ATOM, order if tensors[0] else (1, 0)
            name = "size_along" if node.op == "size" and node.attr != "all" else node.op
            if name in rows.functions:
                return self._with_attr(rows.functions[name], node), ATOM, order
            return (*self._python(node), order)
        table = rows.careful if i in self.ieee and node.op in rows.careful else rows.scalars
        if node.op in table:
            return table[node.op], ATOM, order
        return (*self._python(node), order)

    def _with_attr(self, template: str, node: Node) -> str:
        return template.replace("{attr}", str(node.attr))

    def _python(self, node: Node) -> tuple[str, int]:
        if node.op not in PYTHON:
            raise RuleError(f"operator {node.op!r}: expected a row in the framework's table, found none")
        return PYTHON[node.op]

    def _is_complement(self, node: Node) -> bool:
        """Whether a scalar is 1 − a^b, and the framework has a way of its own to compute it."""
        return bool(self.operators.complement) and node.op == "sub" and self._power(node) is not None

    def _power(self, node: Node) -> Node | None:
        """b of a scalar 1 − b, where b is a power that nothing else reads."""
        one, power = (self.program.nodes[a] for a in node.args)
        own = power.op == "pow" and not power.label and not power.type.is_tensor
        return power if own and one.op == "const" and one.attr == 1 else None


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
