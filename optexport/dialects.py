"""Dialects: which rule each framework's native optimizer really is.

A framework's folder lists its optimizers as `Native` records in ``dialect.py``; this file defines
the record and finds frameworks. Records are data and small functions; none imports a framework.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from .errors import HyperparameterError, UnknownNameError
from .rules import Rule, families
from .rules.base import OptionValue
from .specs import Group

__all__ = ["Link", "Native", "absent", "converter", "find", "frameworks", "natives"]

Arguments = Mapping[str, Any]
Layout = Callable[[Any, Mapping[str, OptionValue]], Any]


@dataclass(frozen=True)
class Link:
    """How one hyperparameter of a rule stands among a framework's arguments.

    argument: its name, ``"betas[0]"`` for an item of a tuple.
    to_rule, to_native: where the numbers differ (ONNX's β is 1 − τ).
    times: another argument that multiplies this one in the framework's update.
    """

    argument: str
    to_rule: Callable[[float], float] = float
    to_native: Callable[[float], float] = float
    times: str = ""

    @property
    def path(self) -> tuple[str, int | None]:
        name, _, index = self.argument.partition("[")
        return name, int(index[:-1]) if index else None

    def read(self, arguments: Arguments) -> Any:
        name, index = self.path
        value = self.to_rule(arguments[name] if index is None else arguments[name][index])
        return value * arguments[self.times] if self.times else value

    def write(self, arguments: dict[str, Any], value: float) -> None:
        name, index = self.path
        value = self.to_native(value / arguments[self.times] if self.times else value)
        if index is None:
            arguments[name] = value
        else:
            items = list(arguments[name])
            items[index] = value
            arguments[name] = tuple(items)


def _one_group(
    arguments: Arguments, params: tuple[str, ...] | None
) -> Sequence[tuple[dict[str, Any], Any, float]]:
    return [(dict(arguments), params, 1.0)]


@dataclass(frozen=True)
class Native:
    """One native optimizer.

    name: the framework's own. family: the rule family it belongs to.
    arguments: its arguments with the framework's defaults.
    options: arguments -> the family's options (every one of them).
    links: rule hyperparameter -> argument. One that the rule has and this lacks is at its neutral
        value.
    slots: the framework's slot names and the rule's, in the framework's order.
    variants: argument settings that choose a rule, tried when a rule is to be expressed by this
        optimizer. Hyperparameters overwrite placeholders in them.
    counts: the family's options that are whole numbers -> the arguments that say them; a rule with any
        number there is expressed with it.
    aliases: other spellings of arguments that are accepted.
    inert: arguments that do not change the numbers.
    split: arguments, params -> groups as (arguments, params, lr_mult), where names decide values.
    validate: raises on combinations that the framework itself refuses.
    step_slot: name of the slot in which the framework keeps the step beside the others, or empty.
    unread: slots that its files hold and no update reads.
    inputs: arguments that the optimizer is given at each update, so that its files may lack them and no
        default stands for them.
    file_defaults: what its files hold besides the arguments.
    counts_from: argument with the number of updates that a fresh optimizer counts as done.
    masters: whether it keeps a float32 master beside a half-precision parameter.
    layouts: the framework's slot name -> how its array differs from the rule's, as a pair (to the
        rule's, to the framework's) of functions of an array and the rule's options: a row of means that
        lacks the reduced axis.
    note: what a person should know about this optimizer.
    class_name: what its files call it, where that is not ``name``.
    asked: taken only when it is named: a run cannot simply go on in it (an operator without files of
        its own, a class for sparse gradients alone).
    """

    framework: str
    name: str
    family: str
    arguments: Arguments
    options: Callable[[Arguments], Mapping[str, OptionValue]]
    links: Mapping[str, Link]
    slots: Sequence[tuple[str, str]] = ()
    variants: Sequence[Arguments] = ({},)
    counts: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    inert: frozenset[str] = frozenset()
    split: Callable[[Arguments, tuple[str, ...] | None], Sequence[tuple[dict[str, Any], Any, float]]] = (
        _one_group
    )
    validate: Callable[[Arguments], None] = lambda _: None
    counts_from: str = ""
    step_slot: str = ""
    unread: Sequence[str] = ()
    inputs: Sequence[str] = ()
    file_defaults: Arguments = field(default_factory=dict)
    masters: bool = False
    layouts: Mapping[str, tuple[Layout, Layout]] = field(default_factory=dict)
    note: str = ""
    class_name: str = ""
    asked: bool = False

    @property
    def qualified(self) -> str:
        return f"{self.framework}:{self.name}"

    def complete(self, given: Arguments) -> dict[str, Any]:
        """Every argument: the given ones under their own names, defaults for the rest."""
        known = set(self.arguments) | self.inert
        out = dict(self.arguments)
        for key, value in given.items():
            name = self.aliases.get(key, key)
            if name not in known:
                near = difflib.get_close_matches(key, [*known, *self.aliases], n=2)
                raise UnknownNameError(
                    f"{self.qualified}: unknown argument {key!r}; expected one of "
                    f"{', '.join(self.arguments)}" + (f"; did you mean {' or '.join(near)}?" if near else "")
                )
            self._check_number(name, value)
            out[name] = value
        self.validate(out)
        return out

    def _check_number(self, name: str, value: Any) -> None:
        """A number where the default is one (``True`` and a zero-dimensional array will do)."""
        default = self.arguments.get(name)
        if not isinstance(default, int | float) or isinstance(default, bool):
            return
        if value is None and any(v.get(name, 0) is None for v in self.variants):
            return  # None switches off what a number switches on
        try:
            if isinstance(value, str):
                raise ValueError
            float(value)
        except (TypeError, ValueError, OverflowError):
            raise HyperparameterError(
                f"{self.qualified}: argument {name!r} expected a number, found {value!r}"
            ) from None

    def rule_options(self, arguments: Arguments) -> dict[str, OptionValue]:
        """Every option of the family at these (complete) arguments."""
        return families()[self.family].check_options(self.options(arguments))

    def rule(self, arguments: Arguments) -> Rule:
        """The rule that this optimizer is at these (complete) arguments."""
        return families()[self.family].rule(**self.options(arguments))

    def hyperparameters(self, arguments: Arguments, rule: Rule) -> dict[str, float]:
        """The rule's hyperparameters out of (complete) arguments, range-checked."""
        values = {}
        for h in rule.hyperparameters:
            link = self.links.get(h.name)
            if link is None:
                values[h.name] = h.default if h.neutral is None else h.neutral
                continue
            where = f"{self.qualified}: argument {link.argument!r}"
            try:
                raw = link.read(arguments)
            except (TypeError, ValueError, IndexError, KeyError):
                raise HyperparameterError(
                    f"{where}: {h.name!r} expected a number in {h.range}, found {arguments.get(link.path[0])!r}"
                ) from None
            values[h.name] = h.check(where, raw)
        return values

    def groups(self, given: Arguments, params: tuple[str, ...] | None) -> list[Group]:
        """Parameter groups for these arguments (several where names decide values)."""
        out = []
        for arguments, names, lr_mult in self.split(self.complete(given), params):
            rule = self.rule(arguments)
            values = self.hyperparameters(arguments, rule)
            first = int(arguments[self.counts_from]) if self.counts_from else 0
            out.append(Group(rule, values, names, lr_mult, self.qualified, arguments, first))
        return out

    def express(
        self, variant: Arguments, values: Mapping[str, float], base: Arguments | None = None
    ) -> dict[str, Any]:
        """Arguments at which this optimizer has the rule of ``variant`` with these values.

        base: arguments to start from (a group's own, for a round trip); the defaults otherwise.
        """
        arguments = {**self.arguments, **(base or {}), **variant}
        rule = self.rule(arguments)
        for h in rule.hyperparameters:
            if h.name in self.links and h.name in values:
                self.links[h.name].write(arguments, values[h.name])
        return arguments

    def to_rule(self, slot: str, array: Any, rule: Rule) -> Any:
        """The rule's array of a slot, out of the framework's."""
        return self.layouts[slot][0](array, rule.options) if slot in self.layouts else array

    def to_native(self, slot: str, array: Any, rule: Rule) -> Any:
        """The framework's array of a slot, out of the rule's."""
        return self.layouts[slot][1](array, rule.options) if slot in self.layouts else array

    def composed(
        self, group: Group
    ) -> (
        Iterable[tuple[Mapping[str, OptionValue], Callable[[Mapping[str, float]], dict[str, Any] | None]]]
        | None
    ):
        """What it may become for a group of any family, as (options, hyperparameters -> arguments or None
        where it cannot have them); None for an optimizer, which is of its own family alone."""
        del group
        return None

    def role(self, slot: str) -> str | None:
        """The rule's slot behind the framework's name."""
        return dict(self.slots).get(slot)


@lru_cache(maxsize=1)
def frameworks() -> Mapping[str, str]:
    """Framework name -> package of its converter: those that ship, and those that others register
    through the entry-point group ``optexport.converters``."""
    import optexport.converters as shipped

    found = {
        m.name: f"{shipped.__name__}.{m.name}" for m in pkgutil.iter_modules(shipped.__path__) if m.ispkg
    }
    for point in entry_points(group="optexport.converters"):
        if found.setdefault(point.name, point.value) != point.value:
            raise UnknownNameError(
                f"converter {point.name!r} is registered twice: {found[point.name]} and {point.value}"
            )
    return found


def home(framework: str) -> str:
    """The converter that serves a framework: its own, or that which lists its optimizers too
    (``onnx`` serves ``onnxruntime``); the name itself where there is none."""
    if framework in frameworks():
        return framework
    served = (
        n
        for n in sorted(frameworks())
        for e in converter(n, "dialect").OPTIMIZERS
        if e.framework == framework
    )
    return next(served, framework)


def converter(framework: str, module: str) -> ModuleType:
    """``dialect``, ``checkpoint``, ``emit`` or ``run`` of a framework's converter."""
    package = frameworks().get(framework) or frameworks().get(home(framework))
    if package is None:
        raise UnknownNameError(
            f"unknown framework {framework!r}; expected one of {', '.join(sorted(natives()))}"
        )
    return importlib.import_module(f"{package}.{module}")


@lru_cache(maxsize=1)
def natives() -> Mapping[str, Mapping[str, Native]]:
    """framework -> lower-case optimizer name -> record. One converter may serve several names
    (``onnx`` and ``onnxruntime``), so the key is the record's own framework."""
    table: dict[str, dict[str, Native]] = {}
    for name in sorted(frameworks()):
        for entry in converter(name, "dialect").OPTIMIZERS:
            rows = table.setdefault(entry.framework, {})
            if entry.name.lower() in rows:
                raise UnknownNameError(f"{entry.qualified} is registered twice")
            rows[entry.name.lower()] = entry
    return table


def absent(framework: str) -> Mapping[str, str]:
    """Lower-case names of a framework's optimizers that are not offered -> the reason.

    A converter lists them in ``dialect.ABSENT``, by ``name``, or by ``framework:name`` where it serves
    several.
    """
    out: dict[str, str] = {}
    for name in sorted(frameworks()):
        dialect = converter(name, "dialect")
        if framework in {e.framework for e in dialect.OPTIMIZERS}:
            for key, why in getattr(dialect, "ABSENT", {}).items():
                own, _, optimizer = key.rpartition(":")
                if own in ("", framework):
                    out[optimizer.lower()] = why
    return out


def find(optimizer: str) -> Native:
    """The record of ``framework:optimizer``; case does not matter.

    Raises:
        UnknownNameError: names the nearest.
    """
    framework, colon, name = optimizer.partition(":")
    if not colon:
        raise UnknownNameError(f"{optimizer!r}: expected FRAMEWORK:OPTIMIZER, as in torch:AdamW")
    table = natives().get(framework.lower())
    if table is None:
        raise UnknownNameError(f"unknown framework {framework!r}; expected one of {', '.join(natives())}")
    entry = table.get(name.lower())
    if entry is None:
        why = absent(framework.lower()).get(name.lower())
        if why is not None:
            raise UnknownNameError(f"{framework}:{name} is not offered: {why}")
        near = difflib.get_close_matches(name.lower(), table, n=3, cutoff=0.4) or list(table)
        names = ", ".join(table[n].name for n in near)
        raise UnknownNameError(
            f"unknown optimizer {name!r} of {framework}; expected a native one, nearest: {names}"
        )
    return entry
