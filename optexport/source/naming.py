"""What emitted things are called: rules, classes, and the groups that give the defaults."""

from __future__ import annotations

import keyword
from collections.abc import Iterator

from ..errors import HyperparameterError, UnknownNameError
from ..rules import Rule, families
from ..rules.base import Count, Family, Option, OptionValue
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
    """The catalogue's name of a rule; else its family's and the options that set it apart from the
    family's first entry there: ``adam__eps_hat__decay_none``."""
    fam = families().get(rule.family)
    base = {} if fam is None else _base(fam)
    for entry in CATALOGUE.values() if fam is not None else ():
        if entry.family_name == rule.family and fam.check_options(entry.options) == dict(rule.options):
            return entry.name
    parts = [_part(o, v) for o, v in rule.options.items() if o not in base or base[o] != v]
    return "__".join((rule.family, *parts))


def rule_named(name: str) -> Rule:
    """The rule that `rule_name` calls ``name``: how an emitted optimizer's own files tell their rule.

    Raises:
        UnknownNameError: no rule is called so.
    """
    entry = CATALOGUE.get(name)
    if entry is not None:
        return entry.rule()
    family, *parts = name.split("__")
    fam = families().get(family)
    if fam is not None:
        options, told = _base(fam), dict(_told(fam, parts))
        if len(told) == len(parts) and (parts or len(options) == len(fam.options)):
            return fam.rule(**{**options, **told})
    raise UnknownNameError(f"unknown rule {name!r}; expected one that this optexport can emit")


def _base(fam: Family) -> dict[str, OptionValue]:
    """Options of the family's first entry in the catalogue; those with a default where it has none."""
    for entry in CATALOGUE.values():
        if entry.family_name == fam.name:
            return fam.check_options(entry.options)
    return {o.name: o.default for o in fam.options.values() if o.default is not None}


def _part(option: str, value: OptionValue) -> str:
    return f"{option}_{str(value).lower()}"


def _values(option: Option, part: str) -> Iterator[OptionValue]:
    """Values of an option that ``part`` may mean."""
    if isinstance(option, Count):
        number = part.removeprefix(option.name + "_")
        if number.isascii() and number.isdigit():
            yield int(number)
    else:
        yield from option.choices


def _told(fam: Family, parts: list[str]) -> Iterator[tuple[str, OptionValue]]:
    for part in parts:
        for option in fam.options.values():
            for value in _values(option, part):
                if _part(option.name, value) == part:
                    yield option.name, value


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
