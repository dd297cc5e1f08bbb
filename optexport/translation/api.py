"""Applying translations: to a whole training state, to two optimizers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..dialects import Native, find
from ..errors import HyperparameterError, OptexportError, UnknownNameError
from ..rules import Slot, families, lookup
from ..rules.base import OptionValue
from ..specs import Group, Spec, native, numbered, recounted, spec
from ..state.training import MASTER, TrainingState
from .moves import Situation
from .search import Goal, Path, find_path, native_goals, rule_goal
from .verdict import Verdict, accept

__all__ = ["Explanation", "Report", "explain", "lower", "translate"]


@dataclass(frozen=True)
class Report:
    """What was done to a state. Fields as in `Verdict`; ``warnings`` are for the person who converts.

    fresh: parameters that start without state. frozen: tensors that carry none, as nothing trains them.
    """

    verdict: str
    conditions: tuple[str, ...] = ()
    bound: float | None = None
    bound_text: str | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    source: str = ""
    target: str = ""
    fresh: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


def translate(
    state: TrainingState,
    to: str,
    *,
    allow: str | None = None,
    lr: float | Sequence[float] | None = None,
) -> tuple[TrainingState, Report]:
    """``state`` as another optimizer's.

    to: ``framework:optimizer``, or a rule of the catalogue.
    allow: consent to a verdict that is not exact or conditional: ``bounded`` or ``lossy``.
    lr: learning rate of the next step (one, or one a group), where it is not the spec's. Buffers
        that fold the learning rate in are scaled by it.

    Raises:
        VerdictError: the verdict needs consent that ``allow`` does not give, or there is no map.
        UnknownNameError: no such target.
    """
    if lr is not None:
        groups = [replace(g, hyperparameters={**g.hyperparameters, "lr": float(state.spec.lr_of(i, lr) or 0.0)},
                          schedules={k: s for k, s in g.schedules.items() if k != "lr"})
                  for i, g in enumerate(state.spec.groups)]  # fmt: skip
        state = replace(state, spec=Spec(tuple(groups)))
    if ":" in to and not find(to).masters:
        state = state.without_masters()
    made, total = [], None
    slots, steps = dict(state.slots), dict(state.steps)
    for scheduled in state.spec.groups:
        group = scheduled.at(state.clock)
        path = _route(group, to, _least_step(state, group), len(state.names))
        why = _why_none(group, to) if path is None else _why_unscheduled(scheduled, group, path)
        if path is None or why:
            total = Verdict("none", notes=(why,))
            break
        verdict = _apply(state, group, path, slots, steps, to)
        total = verdict if total is None else total.beside(verdict)
        made.append(replace(_new_group(group, path, to), schedules=scheduled.schedules))
    total = total or Verdict()
    # Groups that a count alone told apart are one again.
    counted = any(h.numbers for g in state.spec.groups for h in g.rule.hyperparameters)
    source = state.dialect or "this state"
    accept(total, allow, f"{source} to {to}")
    new = replace(
        state,
        spec=Spec(recounted(made, state.ordered_names) if counted else numbered(made, state.ordered_names)),
        slots=slots,
        steps=steps,
        dialect=find(to).qualified if ":" in to else "",
        provenance=(*state.provenance, f"translated from {source} to {to}: {total.level}"),
    )
    return new, Report(**_fields(total), warnings=state.warnings, source=source, target=to)


def _fields(v: Verdict) -> dict[str, Any]:
    return {
        "verdict": v.level,
        "conditions": v.conditions,
        "bound": v.bound,
        "bound_text": v.bound_text,
        "dropped": v.dropped,
        "notes": v.notes,
    }


def _least_step(state: TrainingState, group: Group) -> int | None:
    return min((state.steps[p] for p in group.params or () if state.slots.get(p)), default=0)


def _route(group: Group, to: str, step: int | None, tensors: int | None) -> Path | None:
    family, goals = _target(group, to)
    if family != group.rule.family:
        return None
    at = Situation(family, group.rule.options, group.values(), step, tensors)
    return find_path(at, family, goals)


def _target(group: Group, to: str) -> tuple[str, list[Goal]]:
    if ":" not in to:
        entry = lookup(to)
        return entry.family_name, rule_goal(entry.family.check_options(entry.options))
    target = find(to)
    composed = target.composed(group)
    if composed is not None:
        goals = [Goal(options, express) for options, express in composed]
        return group.rule.family if goals else "", goals
    same = group.native == target.qualified
    if same:
        # The same optimizer: its own arguments, untouched.
        return target.family, [Goal(group.rule.options, lambda _: dict(group.arguments))]
    return target.family, list(native_goals(target, like=group.rule.options))


def _why_unscheduled(scheduled: Group, now: Group, path: Path) -> str:
    """Why a group's schedules cannot go along ``path``; empty where they can."""
    for name, value in now.values().items():
        if name in scheduled.schedules and path.end.values.get(name) != value:
            return (
                f"{name!r} follows the schedule {scheduled.schedules[name].told()}, and the target's is another "
                "number made from it; give the learning rate as a number (lr=) and the new schedule afterwards"
            )
    for m, _ in path.steps:
        read = m.reads_for_hypers & set(scheduled.schedules)
        if read:
            return (
                f"{m.name}: computes a hyperparameter from {min(read)!r}, which follows a schedule; give it as a "
                "number (lr=)"
            )
    return ""


def _why_none(group: Group, to: str) -> str:
    source = group.native or group.rule.family
    family, goals = _target(group, to)
    if not family:
        return f"{source} is of the {group.rule.family} family, of which {to} has no part; no map joins them"
    if family != group.rule.family:
        return (
            f"{source} is of the {group.rule.family} family, {to} of the {family} family; no map joins them"
        )
    nearest = min(goals, key=lambda g: sum(g.options[o] != v for o, v in group.rule.options.items()))
    return f"{source} and {to} differ where no map exists: " + "; ".join(
        _option_words(family, o, v, nearest.options[o])
        for o, v in group.rule.options.items()
        if nearest.options[o] != v
    )


def _apply(
    state: TrainingState, group: Group, path: Path, slots: dict[str, Any], steps: dict[str, int], to: str
) -> Verdict:
    """Carry every parameter of ``group`` along ``path``; ``slots`` and ``steps`` are updated."""
    verdict = Verdict()
    for m, at in path.steps:
        verdict = verdict.then(m.verdict(at))
    bounds: list[float] = []
    for name in group.params or ():
        have = dict(slots.get(name, {}))
        if not have and _starts_alike(group, path, to):
            # Never updated, or its rule keeps nothing: the new rule's slots start fresh.
            steps[name] = _map_step(path, steps[name])
            continue
        if not have:
            # An accumulator that starts elsewhere in the target carries the value that it has here.
            have = slots[name] = state.full_slots(name)
        if not path.steps:
            continue
        master, bound = have.pop(MASTER, None), 0.0
        param = state.params.get(name, next(iter(have.values()), np.zeros(0)))
        shape, dtype = state.shape(name) or (), state.state_dtype(name)
        for m, at in path.steps:
            bound += m.bound(at, steps[name], have, param) or 0.0
            have, steps[name] = m.state(at, steps[name], have, param, shape, dtype)
        bounds.append(bound)
        slots[name] = have if master is None else {**have, MASTER: master}
    if verdict.bound_text:
        verdict = replace(verdict, bound=max(bounds, default=0.0))
    return verdict


def _starts_alike(group: Group, path: Path, to: str) -> bool:
    """Whether the slots that both rules have start at the same values."""
    rule = families()[group.rule.family].rule(**path.end.options)
    ends = {s.name: s for s in rule.slots}
    # A native without an argument for it has a start of its own.
    made = find(to).hyperparameters(path.arguments, rule) if ":" in to else path.end.values

    def start(slot: Slot, values: Mapping[str, float]) -> float | str:
        return values.get(slot.init, slot.init)

    return all(
        start(s, group.hyperparameters) == start(ends[s.name], made)
        for s in group.rule.slots
        if s.name in ends
    )


def _map_step(path: Path, step: int) -> int:
    for m, at in path.steps:
        if "step" in m.program.outputs and step > 0:
            _, step = m.state(at, step, {}, np.zeros(0), (0,), np.float64)
    return step


def _new_group(group: Group, path: Path, to: str) -> Group:
    rule = families()[group.rule.family].rule(**path.end.options)
    values = dict(path.end.values)
    if ":" in to and find(to).composed(group) is not None:
        (made,) = find(to).groups(path.arguments, group.params)
        return replace(made, hyperparameters={h.name: values[h.name] for h in rule.hyperparameters})
    # `values` holds the multiplied learning rate; the group keeps its multiplier.
    values["lr"] = group.hyperparameters["lr"] if values["lr"] == group.values()["lr"] else values["lr"]
    lr_mult = group.lr_mult if values["lr"] == group.hyperparameters["lr"] else 1.0
    qualified, arguments = "", {}
    if ":" in to:
        target = find(to)
        qualified, arguments = target.qualified, dict(path.arguments)
        if group.native != qualified:
            target.links["lr"].write(arguments, values["lr"])
    return Group(
        rule,
        {h.name: values[h.name] for h in rule.hyperparameters},
        group.params,
        lr_mult,
        qualified,
        arguments,
    )


def lower(state: TrainingState, to: str, *, allow: str | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Slots under a framework's names and conventions: name -> native slot -> array.

    Raises:
        VerdictError: as in `translate`.
    """
    target = find(to)
    state, _ = translate(state, to, allow=allow)
    out: dict[str, dict[str, np.ndarray]] = {}
    for name in state.names:
        have = state.full_slots(name)
        group = state.spec.group(name)
        own = find(group.native) if target.composed(group) is not None else target
        out[name] = {n: own.to_native(n, have[role], group.rule) for n, role in own.slots if role in have}
        if MASTER in have:
            out[name][MASTER] = have[MASTER]
        if target.step_slot:
            out[name][target.step_slot] = np.asarray(state.steps[name], np.float32)
    return out


@dataclass(frozen=True)
class Explanation:
    """Two optimizers compared. differences: one sentence each."""

    source: str
    target: str
    verdict: str
    conditions: tuple[str, ...]
    bound: str | None
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    differences: tuple[str, ...] = field(default=())


def _group_of(name: str, arguments: Mapping[str, Any] | None = None) -> Group:
    return (native(name, **(arguments or {})) if ":" in name else spec(name, **(arguments or {}))).groups[-1]


def explain(source: str, target: str, arguments: Mapping[str, Any] | None = None) -> Explanation:
    """How far two optimizers are the same rule. No state is at hand, so the bound is a formula.

    arguments: the source's own, its defaults for the rest. An optimizer whose momentum is off by
        default is also judged with momentum, and the verdict holds for both: what is exact without
        momentum and conditional with it is conditional.

    Raises:
        UnknownNameError: no such rule or optimizer.
    """
    given = dict(arguments or {})
    a, b = _group_of(source, given), _group_of(target)
    verdict = _judge(a, target)
    differences = _differences(a, b)
    if ":" in source and find(source).arguments.get("momentum") == 0 and "momentum" not in given:
        moving = _with_momentum(source, given, target)
        if moving is None:
            differences.append("with momentum it does not run")
        elif moving.level == "conditional":
            moving = replace(moving, conditions=tuple(f"with momentum, {c}" for c in moving.conditions))
            verdict = verdict.then(moving)
        elif moving.level != verdict.level:
            differences.append(f"with momentum the verdict is {moving.level}")
    return Explanation(
        source,
        target,
        verdict.level,
        verdict.conditions,
        verdict.bound_text,
        verdict.dropped,
        verdict.notes,
        tuple(differences),
    )


def _with_momentum(source: str, given: Mapping[str, Any], target: str) -> Verdict | None:
    """The verdict with momentum; None where the optimizer itself refuses it."""
    try:
        group = _group_of(source, {**given, "momentum": 0.9})
    except HyperparameterError:
        return None
    return _judge(group, target)


def _judge(group: Group, target: str) -> Verdict:
    """The verdict of one group's way to ``target``, no state at hand."""
    path = _route(group, target, None, None)
    if path is None:
        return Verdict("none", notes=(_why_none(group, target),))
    verdict = Verdict()
    for m, at in path.steps:
        verdict = verdict.then(m.verdict(at))
    return verdict


def _option_words(family: str, option: str, a: OptionValue, b: OptionValue) -> str:
    choices = families()[family].options[option].choices
    return f"{option}: {choices.get(a, a)} | {choices.get(b, b)}"


def _differences(a: Group, b: Group) -> list[str]:
    if a.rule.family != b.rule.family:
        return [f"family: {a.rule.family} | {b.rule.family}"]
    fam = a.rule.family
    out = [
        _option_words(fam, o, v, b.rule.options[o])
        for o, v in a.rule.options.items()
        if b.rule.options[o] != v
    ]
    full_a, full_b = _everything_on(a), _everything_on(b)
    for option, value in full_a.items():
        words = _option_words(fam, option, value, full_b[option])
        if value != full_b[option] and words not in out:
            out.append(f"when in use, {words}")
    for name in a.hyperparameters:
        if name in b.hyperparameters and a.hyperparameters[name] != b.hyperparameters[name]:
            out.append(f"default {name}: {a.hyperparameters[name]:g} | {b.hyperparameters[name]:g}")
    if a.native and b.native:
        left, right = find(a.native), find(b.native)
        roles = {role: n for n, role in right.slots}
        for n, role in left.slots:
            if role in roles and roles[role] != n:
                out.append(f"slot {role}: {n} | {roles[role]}")
        out += [f"{e.qualified}: {e.note}" for e in (left, right) if e.note]
    return out


def _everything_on(group: Group) -> Mapping[str, OptionValue]:
    """The options with decay, rescaling and clipping in use, where the optimizer has them."""
    if not group.native:
        return group.rule.options
    entry: Native = find(group.native)
    placeholders = {
        a: v
        for a, v in {
            "weight_decay": 1.0,
            "wd": 1.0,
            "norm_coefficient": 1.0,
            "rescale_grad": 0.5,
            "clip_gradient": 1.0,
        }.items()
        if a in entry.arguments
    }
    try:
        return entry.rule_options({**group.arguments, **placeholders})
    except (OptexportError, UnknownNameError):
        return group.rule.options
