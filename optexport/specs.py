"""A spec: all of an optimizer but its tensors.

`spec` builds one from the catalogue, `native` from a framework's own optimizer and arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

from .errors import HyperparameterError, UnknownNameError
from .rules import Rule, families, lookup
from .schedules.base import Schedule

__all__ = ["Group", "Spec", "native", "numbered", "recounted", "spec", "unfitted"]


@dataclass(frozen=True)
class Group:
    """Parameters that share a rule and its values.

    hyperparameters: a value for each that the rule has; ``lr`` is the learning rate of the next step.
    params: names; None means every parameter that no other group has (settled by ``init``).
    lr_mult: the group's learning rate is ``lr · lr_mult``.
    native: ``framework:optimizer`` the group came from, empty for a rule of the catalogue.
    arguments: the framework's own arguments, kept so that a round trip gives them back.
    first_step: updates that a fresh optimizer counts as done (MXNet's ``begin_num_update``).
    schedules: hyperparameter -> what it follows; its number in ``hyperparameters`` is that of the first step.
    stated: the group before its schedules were put inside its rule (`schedules.inline`), else None.
    """

    rule: Rule
    hyperparameters: Mapping[str, float]
    params: tuple[str, ...] | None = None
    lr_mult: float = 1.0
    native: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    first_step: int = 0
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    stated: Group | None = None

    def values(self, lr: float | None = None, step: int | None = None) -> dict[str, float]:
        """The hyperparameters of one step, the learning rate multiplied out.

        step: completed updates, which schedules need; a learning rate given is the schedule's no more.

        Raises:
            HyperparameterError: a scheduled hyperparameter and no step, or a value outside its range.
        """
        values = dict(self.hyperparameters)
        for name, schedule in self.schedules.items():
            if name == "lr" and lr is not None:
                continue
            if step is None:
                raise HyperparameterError(
                    f"{name!r} follows the schedule {schedule.told()}: expected the step at which it is read, "
                    "found none; put the schedule into the rule (optexport.schedules.inline) or pass the step"
                )
            hyper = next(h for h in self.rule.hyperparameters if h.name == name)
            values[name] = hyper.check(f"{schedule.told()} after {step} updates", schedule.at(step))
        if lr is not None:
            values["lr"] = float(lr)
        if "lr" in values:
            values["lr"] *= self.lr_mult
        return values

    def at(self, step: int) -> Group:
        """The group with its scheduled hyperparameters as numbers, those after ``step`` updates."""
        if not self.schedules:
            return self
        now = {k: s.at(step) for k, s in self.schedules.items()}
        return replace(self, hyperparameters={**self.hyperparameters, **now}, schedules={})


@dataclass(frozen=True)
class Spec:
    """Parameter groups in order."""

    groups: tuple[Group, ...]

    def group(self, param: str) -> Group:
        """The group that has ``param``."""
        rest = None
        for g in self.groups:
            if g.params is None:
                rest = g
            elif param in g.params:
                return g
        if rest is None:
            raise UnknownNameError(f"spec: parameter {param!r} is in no group; add it to one")
        return rest

    def settle(self, names: Iterable[str]) -> Spec:
        """With the open group, if there is one, holding every name that no other group has.

        names: or name -> shape (or array): options that follow from a parameter's shape are then
            settled too, which may cut a group in several. A rule that counts the optimizer's
            parameters gets a group for each; see `numbered`.

        Raises:
            UnknownNameError: a group lists a parameter that is not among ``names``, or none has one.
            HyperparameterError: a parameter is listed twice.
        """
        known = dict.fromkeys(names)
        listed = Counter(p for g in self.groups for p in g.params or ())
        twice = [p for p, n in listed.items() if n > 1]
        if twice:
            raise HyperparameterError(
                f"spec: parameter {twice[0]!r} is listed {listed[twice[0]]} times; expected once"
            )
        unknown = [p for p in listed if p not in known]
        if unknown:
            raise UnknownNameError(
                f"spec: group lists {', '.join(map(repr, unknown))}; expected names among {', '.join(known)}"
            )
        rest = tuple(n for n in known if n not in listed)
        groups = tuple(replace(g, params=rest) if g.params is None else g for g in self.groups)
        held = {p for g in groups for p in g.params or ()}
        for name in known:
            if name not in held:
                raise UnknownNameError(f"spec: parameter {name!r} is in no group; add it to one")
        if isinstance(names, Mapping):
            given: Mapping[str, Any] = names
            shapes = {n: tuple(getattr(v, "shape", v)) for n, v in given.items()}
            groups = tuple(part for g in groups for part in _fitted(g, shapes))
        return Spec(numbered([g for g in groups if g.params], list(known)))

    def renamed(self, names: Mapping[str, str]) -> Spec:
        """With parameters called ``names[old]``."""
        return Spec(
            tuple(
                replace(g, params=None if g.params is None else tuple(names.get(p, p) for p in g.params))
                for g in self.groups
            )
        )

    @property
    def lrs(self) -> tuple[float, ...]:
        """The learning rate of each group before its multiplier; groups whose rule computes it have none."""
        return tuple(g.hyperparameters["lr"] for g in self.groups if "lr" in g.hyperparameters)

    @property
    def one_lr(self) -> bool:
        """Whether one learning rate drives all groups."""
        return len(set(self.lrs)) <= 1

    def lr_of(self, group: int, lr: float | Sequence[float] | None) -> float | None:
        """The override for one group out of what a caller of ``step`` gave."""
        if lr is None:
            return None
        if isinstance(lr, Real):
            return float(lr)
        values = list(lr)  # type: ignore[arg-type]
        if len(values) != len(self.groups):
            raise HyperparameterError(
                f"lr: expected one value or {len(self.groups)} (one a group), found {len(values)}"
            )
        return values[group]


def numbered(groups: Sequence[Group], order: Sequence[str]) -> tuple[Group, ...]:
    """The groups, where a rule counts the optimizer's parameters cut into one a parameter.

    order: every parameter of the optimizer, in the order in which it updates them. Hyperparameters
    that already count (`Hyper.numbers`) are left alone.
    """
    out: list[Group] = []
    for group in groups:
        counts = {h.name: h.numbers for h in group.rule.hyperparameters if h.numbers}
        if not counts or all(group.hyperparameters[h] for h in counts):
            out.append(group)
            continue
        for name in group.params or ():
            number = {"all": len(order), "own": order.index(name) + 1}
            values = {h: float(number[kind]) for h, kind in counts.items()}
            out.append(replace(group, params=(name,), hyperparameters={**group.hyperparameters, **values}))
    return tuple(out)


def recounted(groups: Sequence[Group], order: Sequence[str]) -> tuple[Group, ...]:
    """Groups made of others: those that differ in their parameters alone are one, and rules that
    count parameters do so; see `numbered`."""
    joined: list[Group] = []
    for group in groups:
        last = joined[-1] if joined else None
        if last is not None and replace(last, params=None) == replace(group, params=None):
            joined[-1] = replace(last, params=(*(last.params or ()), *(group.params or ())))
        else:
            joined.append(group)
    return numbered(joined, order)


def _fitted(group: Group, shapes: Mapping[str, tuple[int, ...]]) -> list[Group]:
    """The group, one part for each setting of the options that follow from a parameter's shape."""
    fam = families().get(group.rule.family)
    if fam is None or fam.fit is None:
        return [group]
    parts: dict[Rule, list[str]] = {}
    for name in group.params or ():
        options = fam.fit(group.rule.options, shapes[name])
        rule = group.rule if options == group.rule.options else fam.rule(**options)
        parts.setdefault(rule, []).append(name)
    return [replace(group, rule=rule, params=tuple(names)) for rule, names in parts.items()]


def unfitted(groups: Sequence[Group], order: Sequence[str]) -> list[Group]:
    """The groups, those that were one before a parameter's shape cut it joined again.

    order: of the parameters in a joined group. Parts of one group follow one another and have a rule each, which
    differ in the options that a shape decides; a rule that comes again is another group's.
    """
    out: list[list[Group]] = []
    for group in groups:
        parts = out[-1] if out else []
        if parts and group.rule not in [p.rule for p in parts] and _shape_alone(parts[0], group):
            parts.append(group)
        else:
            out.append([group])
    place = {name: i for i, name in enumerate(order)}
    return [
        parts[0]
        if len(parts) == 1
        else replace(
            parts[0], params=tuple(sorted((n for p in parts for n in p.params or ()), key=place.__getitem__))
        )
        for parts in out
    ]


def _shape_alone(a: Group, b: Group) -> bool:
    """Whether two groups differ in nothing but what follows from their parameters' shapes."""
    fam = families().get(a.rule.family)
    if fam is None or fam.fit is None or b.rule.family != a.rule.family:
        return False
    decided = {option for fit in fam.fits for option in fit}
    rest = [{k: v for k, v in g.rule.options.items() if k not in decided} for g in (a, b)]
    return rest[0] == rest[1] and replace(b, rule=a.rule, params=a.params) == a


def _params(group: Mapping[str, Any]) -> tuple[str, ...]:
    names = group.get("params")
    if (
        not isinstance(names, Iterable)
        or isinstance(names, str)
        or not all(isinstance(n, str) for n in names)
    ):
        raise HyperparameterError(f"group: expected 'params', a list of parameter names, found {names!r}")
    return tuple(names)


def _rule_group(name: str, arguments: Mapping[str, Any], params: tuple[str, ...] | None) -> Group:
    entry = lookup(name)
    fam = entry.family
    arguments, schedules = _apart(arguments)
    options = {
        k: v for k, v in arguments.items() if k in fam.options and not _is_hyper(fam.hyperparameters, k, v)
    }
    rule = entry.rule(**options)
    given = {k: v for k, v in arguments.items() if k not in options}
    known = {h.name: h for h in rule.hyperparameters}
    for key in given:
        if key not in known:
            raise HyperparameterError(
                f"{name}: unknown argument {key!r}; expected an option among {', '.join(fam.options)} "
                f"or a hyperparameter among {', '.join(known)}"
            )
    values = {h: known[h].check(name, given.get(h, entry.defaults.get(h, known[h].default))) for h in known}
    return _following(Group(rule, values, params), schedules, name)


def _apart(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Schedule]]:
    """Arguments with a number where a schedule stands, and the schedules."""
    schedules = {k: v for k, v in arguments.items() if isinstance(v, Schedule)}
    return {k: v.at(0) if isinstance(v, Schedule) else v for k, v in arguments.items()}, schedules


def _following(group: Group, schedules: Mapping[str, Schedule], where: str) -> Group:
    """The group with hyperparameters that follow schedules.

    Raises:
        HyperparameterError: a schedule that is none, of something that the rule does not have, or whose
            first value is outside the range.
    """
    if not schedules:
        return group
    known = {h.name: h for h in group.rule.hyperparameters}
    values = dict(group.hyperparameters)
    for name, schedule in schedules.items():
        if not isinstance(schedule, Schedule):
            raise HyperparameterError(
                f"{where}: schedule of {name!r}: expected optexport.schedule(…), found {schedule!r}"
            )
        if name not in known:
            raise HyperparameterError(
                f"{where}: schedule of {name!r}: expected a hyperparameter among {', '.join(known)}"
            )
        first = f"{where}: first value of the schedule {schedule.told()}"
        values[name] = known[name].check(first, schedule.at(group.first_step))
    return replace(group, hyperparameters=values, schedules=dict(schedules))


def _is_hyper(hypers: Mapping[str, Any], key: str, value: Any) -> bool:
    """Some words (momentum, eps) name both an option and a hyperparameter; the value tells which."""
    return key in hypers and isinstance(value, Real) and not isinstance(value, bool)


def spec(rule: str, *, groups: Sequence[Mapping[str, Any]] | None = None, **arguments: Any) -> Spec:
    """A spec by a rule of the catalogue.

    arguments: hyperparameters and options of the rule's family by name; where a word names both
        (``momentum``, ``eps``), a number is the hyperparameter and a word the option. A `Schedule`
        (`optexport.schedule`) may stand where a hyperparameter's number stands.
    groups: parameter groups, each ``{"params": [names], **overrides}``; parameters in none of them
        take ``arguments``.

    Raises:
        UnknownNameError: no such rule. HyperparameterError: an unknown or out-of-range argument.

    >>> spec("adamw", lr=1e-3, weight_decay=0.01).groups[0].hyperparameters["weight_decay"]
    0.01
    """
    made = [
        _rule_group(rule, {**arguments, **{k: v for k, v in g.items() if k != "params"}}, _params(g))
        for g in groups or ()
    ]
    return Spec((*made, _rule_group(rule, arguments, None)))


def native(
    optimizer: str,
    *,
    groups: Sequence[Mapping[str, Any]] | None = None,
    schedule: Schedule | Mapping[str, Schedule] | None = None,
    **arguments: Any,
) -> Spec:
    """A spec by a framework's own optimizer, ``"torch:AdamW"``, with its own arguments and defaults.

    groups: as in `spec`, overrides being the framework's own arguments.
    schedule: what the learning rate follows, or schedules by the rule's hyperparameter. One may also
        stand where an argument's number stands, as Optax and Keras have it.

    Raises:
        UnknownNameError: no such framework or optimizer, or an argument it does not have.
        HyperparameterError: an argument outside its range.

    >>> native("torch:AdamW", lr=1e-3, betas=(0.9, 0.99)).groups[0].hyperparameters["beta2"]
    0.99
    """
    made: list[Group] = []
    for g in groups or ():
        overrides = {k: v for k, v in g.items() if k != "params"}
        made += _native_groups(optimizer, {"schedule": schedule, **arguments, **overrides}, _params(g))
    return Spec((*made, *_native_groups(optimizer, {"schedule": schedule, **arguments}, None)))


def _native_groups(
    optimizer: str, arguments: Mapping[str, Any], params: tuple[str, ...] | None
) -> list[Group]:
    from .dialects import find

    entry = find(optimizer)
    told = arguments.get("schedule")
    schedules = dict(told) if isinstance(told, Mapping) else {} if told is None else {"lr": told}
    plain, standing = _apart({k: v for k, v in arguments.items() if k != "schedule"})
    for name, each in standing.items():
        argument = entry.aliases.get(name, name)
        hyper = [h for h, link in entry.links.items() if link.argument == argument and link.to_rule is float]
        if len(hyper) != 1:
            raise HyperparameterError(
                f"{entry.qualified}: argument {name!r} expected a number, found a schedule; give it by the "
                "rule's hyperparameter, as in schedule={'beta1': …}"
            )
        schedules[hyper[0]] = each
    return [_following(g, schedules, entry.qualified) for g in entry.groups(plain, params)]
