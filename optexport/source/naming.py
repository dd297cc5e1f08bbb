"""What emitted things are called: rules, classes, and the groups that give the defaults."""

from __future__ import annotations

import hashlib
import itertools
import json
import keyword
import re
from collections.abc import Iterator, Sequence
from functools import cache

from ..errors import HyperparameterError, UnknownNameError
from ..rules import Rule, families
from ..rules.base import Count, Option, OptionValue
from ..rules.catalogue import CATALOGUE
from ..specs import Group, Spec

__all__ = [
    "class_name",
    "default_group",
    "first_step",
    "is_identifier",
    "rule_name",
    "rule_named",
    "rules_of",
]


def is_identifier(name: str) -> bool:
    """Whether ``name`` is an ASCII Python identifier and no keyword."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def default_group(spec: Spec) -> Group:
    """The group whose values are the defaults: the open one, else the first."""
    return next((g for g in spec.groups if g.params is None), spec.groups[0])


def rule_name(rule: Rule) -> str:
    """The catalogue's name of a rule, or its family and twelve hexadecimal digits of its options."""
    fam = families().get(rule.family)
    for entry in CATALOGUE.values() if fam is not None else ():
        if entry.family_name == rule.family and entry.family.check_options(entry.options) == dict(
            rule.options
        ):
            return entry.name
    if not rule.options:
        return rule.family
    known = {} if fam is None else fam.options
    marks = sum(_mark(known.get(o), o, v) for o, v in rule.options.items())
    return f"{rule.family}_{marks % _MARKS:012x}"


@cache
def rule_named(name: str) -> Rule:
    """The rule that `rule_name` calls ``name``: how an emitted optimizer's own files tell their rule.

    Raises:
        UnknownNameError: no rule is called so.
    """
    entry = CATALOGUE.get(name)
    if entry is not None:
        return entry.rule()
    family, _, digits = name.rpartition("_")
    fam = families().get(family)
    if fam is not None and re.fullmatch("[0-9a-f]{12}", digits):
        options = _with_marks(list(fam.options.values()), int(digits, 16))
        if options is not None:
            return fam.rule(**options)
    raise UnknownNameError(f"unknown rule {name!r}; expected one that this optexport can emit")


# The digits are a sum of one mark an option, so that the options can be found again from two halves.
_MARKS = 1 << 48


def _mark(option: Option | None, name: str, value: OptionValue) -> int:
    """What an option's value adds to the digits: nothing where it is the default, so that an option
    added to a family later changes no name."""
    if option is not None and option.default is not None and value == option.default:
        return 0
    return int.from_bytes(hashlib.sha256(json.dumps([name, value]).encode()).digest()[:6], "big")


def _with_marks(options: Sequence[Option], wanted: int) -> dict[str, OptionValue] | None:
    """The values whose marks add up to ``wanted``, None where no values do."""
    half = len(options) // 2
    first = dict(_sums(options[:half]))
    for marks, values in _sums(options[half:]):
        found = first.get((wanted - marks) % _MARKS)
        if found is not None:
            return dict(zip((o.name for o in options), (*found, *values), strict=True))
    return None


def _sums(options: Sequence[Option]) -> Iterator[tuple[int, tuple[OptionValue, ...]]]:
    """(sum of marks, values) for every choice of values."""
    choices = [
        [(_mark(o, o.name, v), v) for v in (range(o.low, o.high + 1) if isinstance(o, Count) else o.choices)]
        for o in options
    ]
    for chosen in itertools.product(*choices):
        yield sum(mark for mark, _ in chosen) % _MARKS, tuple(value for _, value in chosen)


def rules_of(spec: Spec) -> dict[str, Rule]:
    """The distinct rules of a spec by `rule_name`, in the order of its groups.

    Raises:
        HyperparameterError: the spec has no group, or one whose rule counts parameters that are not
            known yet.
    """
    if not spec.groups:
        raise HyperparameterError("spec: expected at least one parameter group, found none")
    found: dict[str, Rule] = {}
    for group in spec.groups:
        for h in group.rule.hyperparameters:
            if h.numbers and not group.hyperparameters[h.name]:
                raise HyperparameterError(
                    f"{group.native or group.rule.family}: {h.name!r} ({h.doc}) depends on the optimizer's "
                    "parameters; expected their names and shapes, found none; pass params="
                )
        found.setdefault(rule_name(group.rule), group.rule)
    return found


def class_name(spec: Spec, given: str | None) -> str:
    """``given`` if it is an identifier, else ``Optexport`` and the rules' names.

    Raises:
        HyperparameterError: ``given`` is not a Python identifier.
    """
    if given is not None:
        if not is_identifier(given):
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
