"""A schedule inside a rule: the rule then has the schedule's hyperparameters in place of a number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir import Tracer
from ..ir.splice import splice
from ..rules.base import Hyper, Rule
from .base import Schedule

if TYPE_CHECKING:
    from ..specs import Group, Spec

__all__ = ["inline", "scheduled_rule"]


def scheduled_rule(
    rule: Rule,
    schedules: Mapping[str, Schedule],
    factors: Mapping[str, float] | None = None,
    first_step: int = 0,
) -> Rule:
    """``rule`` with each scheduled hyperparameter computed from ``step``.

    The schedule's hyperparameter ``base`` of ``lr`` is the new rule's ``lr_base``. factors: what a
    scheduled value is multiplied by (a group's ``lr_mult``). A slot that starts at a scheduled
    hyperparameter starts at its value at ``first_step``.
    """
    tracer = Tracer()
    hypers: list[Hyper] = [h for h in rule.hyperparameters if h.name not in schedules]
    values, options = {}, dict(rule.options)
    for name, schedule in schedules.items():
        called = {h.name: f"{name}_{h.name}" for h in schedule.hyperparameters}
        hypers += [replace(h, name=called[h.name]) for h in schedule.hyperparameters]
        value = splice(tracer, schedule.program, {"step": tracer.step}, called)["value"]
        factor = (factors or {}).get(name, 1.0)
        values[f"hyper:{name}"] = value if factor == 1 else value * factor
        # Part of the rule's name, so that two schedules never share one.
        told = hashlib.sha256(f"{schedule.digest} {factor!r} {sorted(schedule.values.items())}".encode())
        options[f"schedule_{name}"] = f"{schedule.name}_{told.hexdigest()[:12]}"
    made = splice(tracer, rule.program, values)
    for name, value in values.items():
        # A schedule that is only a number has no node of its own to name.
        if tracer.nodes[value.index].op not in ("input", "const"):
            tracer.let(name.partition(":")[2], value)
    slots = tuple(
        replace(s, init=repr(schedules[s.init].at(first_step))) if s.init in schedules else s
        for s in rule.slots
    )
    return Rule(rule.family, options, tracer.finish(**made), slots, tuple(hypers), rule.source)


def inline(spec: Spec, keep: Iterable[str] = ()) -> Spec:
    """``spec`` with its schedules inside its rules, but for the hyperparameters in ``keep``.

    Those stay what a caller gives at each step; their value here is that of the first step. Each
    group remembers, as ``stated``, what it was.
    """
    from ..specs import Spec

    return Spec(tuple(_inlined(g, frozenset(keep)) for g in spec.groups))


def _inlined(group: Group, keep: frozenset[str]) -> Group:
    if not group.schedules:
        return group
    inside = {k: s for k, s in group.schedules.items() if k not in keep}
    now = {k: s.at(group.first_step) for k, s in group.schedules.items()}
    values = {k: now.get(k, v) for k, v in group.hyperparameters.items() if k not in inside}
    rule = group.rule
    lr_mult = group.lr_mult
    if inside:
        rule = scheduled_rule(rule, inside, {"lr": lr_mult}, group.first_step)
        values |= {f"{k}_{n}": v for k, s in inside.items() for n, v in s.values.items()}
        lr_mult = 1.0 if "lr" in inside else lr_mult
        values = {h.name: values[h.name] for h in rule.hyperparameters}
    return replace(group, rule=rule, hyperparameters=values, schedules={}, lr_mult=lr_mult, stated=group)
