"""A training state for another model: its tensors under other names and in another layout.

What the target has and the source has not starts fresh, what the source has and the target has not is
left out, what neither trains carries nothing; the first two need consent, and the report lists all three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import NamingError, VerdictError
from ..rules import Rule
from ..specs import Group, Spec, unfitted
from ..translation.api import Report
from ..translation.verdict import Verdict, accept
from .name_map import NameMap, Port
from .names import parameters
from .native import Weights
from .slot_layout import carried, fitted, judged, port_shape
from .training import TrainingState

__all__ = ["rearrange"]

Shape = tuple[int, ...]


@dataclass
class _Made:
    """What becomes of the state, under the target's names."""

    params: dict[str, np.ndarray] = field(default_factory=dict)
    slots: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, Shape | None] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    group: dict[str, int] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    # Tensors of one shape under one rule are judged once.
    judged: dict[Any, Verdict] = field(default_factory=dict)


def rearrange(
    state: TrainingState,
    names: NameMap,
    *,
    source_model: Weights | None = None,
    target_model: Weights | None = None,
    partial: bool = False,
    allow: str | None = None,
) -> tuple[TrainingState, Report]:
    """``state`` for a model whose tensors have other names and layouts.

    names: what becomes of each tensor (`read_map`); slots follow their parameters.
    source_model: the source's weights, which tell frozen tensors from missing ones.
    target_model: the target's weights; their names and shapes are then what the result must have, and a
        parameter that starts fresh takes its value from there.
    partial: consent to parameters that start fresh and to state that is left out, beyond those that the
        map itself lists.
    allow: consent to a verdict that is not exact: ``bounded`` or ``lossy``.

    Raises:
        NamingError: the map does not fit the state or the target; the message lists what is at odds.
        VerdictError: the verdict needs consent that ``allow`` does not give, or a slot has no place.
    """
    ports = names.ports(state.ordered_names)
    groups = unfitted(state.spec.groups, state.ordered_names)
    made = _Made()
    for port in ports:
        _carry(state, groups, port, made)
    accept(made.verdict, allow, f"{names.where}, {state.dialect or 'this state'}")
    out = [s for p in ports if not p.targets for s in p.sources]
    warnings = [
        f"{names.where}: {s!r} matches no parameter"
        for s in names.unused([*state.names, *(source_model.tensors if source_model else ())])
    ]
    fresh: list[str] = []
    frozen: list[str] = []
    if target_model is not None:
        still = _untrained(names, state, source_model)
        frozen = [
            n for n in target_model.tensors if names.is_frozen(n) or (n in still and n not in made.steps)
        ]
        fresh, extra = _compared(made, names, target_model, frozen, partial)
        out += extra
        for name in fresh:
            _start(made, name, groups, names, target_model)
    if fresh or out or any(len(p.sources) != len(p.targets) for p in ports):
        _check_uncounted(groups, names.where)
    order = list(made.steps)
    if target_model is not None and target_model.ordered:
        order = [n for n in target_model.tensors if n in made.steps]
    dropped = tuple(f"state of parameter {n!r}" for n in out)
    new = _built(state, groups, made, order)
    told = replace(
        new,
        provenance=(*state.provenance, f"rearranged by {names.where}: {made.verdict.level}"),
        warnings=(*state.warnings, *warnings, *_said(fresh, frozen, out)),
    )
    v = made.verdict
    return told, Report(
        v.level, v.conditions, v.bound, v.bound_text, (*v.dropped, *dropped), v.notes, told.warnings,
        state.dialect, state.dialect, tuple(fresh), tuple(frozen),
    )  # fmt: skip


def _carry(state: TrainingState, groups: Sequence[Group], port: Port, made: _Made) -> None:
    """One port: its tensors into ``made``."""
    where = {i for i, g in enumerate(groups) for s in port.sources if s in (g.params or ())}
    if not port.targets:
        return
    steps = {state.steps[s] for s in port.sources}
    if len(where) > 1 or len(steps) > 1:
        found = (
            f"parameter groups {', '.join(map(str, sorted(where)))}"
            if len(where) > 1
            else f"steps {', '.join(map(str, sorted(steps)))}"
        )
        raise VerdictError(
            f"{port.label}: verdict none: joined tensors are updated alike, found {found}; keep them apart, or leave "
            'them out with "to": null'
        )
    known = [state.shape(s) for s in port.sources]
    shapes = [s for s in known if s is not None]
    rules = {state.spec.group(s).rule: None for s in port.sources}
    before = next(iter(rules))
    if port.keeps:
        targets: list[Shape | None] = [known[0]]
        after = [before]
    elif len(shapes) < len(known):
        raise NamingError(
            f"{port.label}: nothing tells the shape of {port.sources[known.index(None)]!r}; pass the weights (--model)"
        )
    else:
        targets = list(port_shape(port, shapes))
        after = [fitted(before, s) for s in targets if s is not None]
    if len(rules) > 1:
        raise VerdictError(
            f"{port.label}: verdict none: by their shapes the joined tensors have different rules"
        )
    group = groups[where.pop()]
    held = [state.slots.get(s, {}) for s in port.sources]
    if any(held) and not port.keeps:
        held = [state.full_slots(s) for s in port.sources]
    slots = carried(port, before, after, held, shapes) if any(held) else [{} for _ in port.targets]
    alike = (
        groups.index(group),
        before,
        port.axis,
        port.sizes,
        repr(port.axes),
        len(port.targets),
        tuple(shapes),
    )
    if alike not in made.judged:
        now = replace(group, rule=before).at(state.clock)
        made.judged[alike] = judged(port, now, before, after, shapes)
        made.verdict = made.verdict.then(made.judged[alike])
    values = [state.params[s] for s in port.sources if s in state.params]
    params = port.apply(values) if len(values) == len(port.sources) else []
    for i, name in enumerate(port.targets):
        made.steps[name], made.shapes[name], made.rules[name] = (
            state.steps[port.sources[0]],
            targets[i],
            after[i],
        )
        made.group[name] = groups.index(group)
        if slots[i]:
            made.slots[name] = slots[i]
        if params:
            made.params[name] = params[i]


def _untrained(names: NameMap, state: TrainingState, model: Weights | None) -> set[str]:
    """Names in the target of the source's tensors that its optimizer does not have."""
    out: set[str] = set()
    for name in model.tensors if model is not None else ():
        if name not in state.steps:
            try:
                out |= {t for p in names.ports([name]) for t in p.targets}
            except NamingError:
                continue  # a piece of a tensor that is joined; not a tensor of the target by itself
    return out


def _compared(
    made: _Made, names: NameMap, model: Weights, frozen: Iterable[str], partial: bool
) -> tuple[list[str], list[str]]:
    """Parameters of the target that start fresh, and those of the source that are left out (and taken out)."""
    target = {n: s for n, s in parameters(model).items() if n not in set(frozen)}
    trained = [n for n in made.steps if names.is_frozen(n)]
    extra = [n for n in made.steps if n not in target and n not in trained]
    missing = [n for n in target if n not in made.steps]
    unasked = [n for n in missing if not names.fresh_group(n)[0]]
    if not partial and (extra or unasked):
        raise NamingError(_at_odds(made, target, extra, unasked, names.where))
    for name in (*extra, *trained):
        for held in (made.params, made.slots, made.steps, made.shapes, made.rules, made.group):
            held.pop(name, None)  # type: ignore[attr-defined]
    for name, shape in made.shapes.items():
        if shape is not None and shape != target[name]:
            raise NamingError(
                f"{names.where}: parameter {name!r}: its state has shape {list(shape)}, the target model "
                f"{list(target[name])}; state how its axes move (transpose, axes), or leave it out"
            )
    return missing, [*extra, *trained]


def _at_odds(
    made: _Made, target: Mapping[str, Shape], extra: Sequence[str], missing: Sequence[str], where: str
) -> str:
    if extra:
        name, shape = extra[0], made.shapes[extra[0]]
        alike = [n for n in missing if shape is None or sorted(target[n]) == sorted(shape)]
        may = f"it may be {' or '.join(alike[:6])}: map it" if alike else "map it"
        return (
            f"{where}: {len(extra)} parameters have no counterpart in the target model, {name!r} "
            f'{list(shape) if shape is not None else ""} first; {may}, leave it out ("to": null), or consent with --partial'
        )
    shape = target[missing[0]]
    return (
        f"{where}: {len(missing)} parameters of the target model have no state, {missing[0]!r} {list(shape)} first; map "
        "them, list them as 'fresh' or 'frozen', or consent to their starting fresh with --partial"
    )


def _start(made: _Made, name: str, groups: Sequence[Group], names: NameMap, model: Weights) -> None:
    """A parameter without state, in the group that the map says or the only one."""
    index = names.fresh_group(name)[1]
    if index is None and len(groups) > 1:
        raise NamingError(
            f"{names.where}: parameter {name!r} starts fresh, and the optimizer has {len(groups)} groups; say which in the "
            f'map: "fresh": [{{"name": "{name}", "group": 0}}]'
        )
    if index is not None and index >= len(groups):
        raise NamingError(
            f"{names.where}: parameter {name!r}: expected one of the groups 0 to {len(groups) - 1}, found {index}"
        )
    shape = tuple(model.tensors[name].shape)
    made.steps[name], made.shapes[name], made.group[name] = groups[index or 0].first_step, shape, index or 0
    made.rules[name] = fitted(groups[index or 0].rule, shape)
    if made.params:
        made.params[name] = model.tensors[name]


def _check_uncounted(groups: Sequence[Group], where: str) -> None:
    counting = [h.name for g in groups for h in g.rule.hyperparameters if h.numbers]
    if counting:
        raise VerdictError(
            f"{where}: verdict none: {groups[0].rule.family} counts the optimizer's tensors ({counting[0]!r}), and there "
            "would be another number of them"
        )


def _built(state: TrainingState, groups: Sequence[Group], made: _Made, order: Sequence[str]) -> TrainingState:
    parts: list[Group] = []
    for i, group in enumerate(groups):
        by_rule: dict[Rule, list[str]] = {}
        for name in order:
            if made.group[name] == i:
                by_rule.setdefault(made.rules[name], []).append(name)
        parts += [replace(group, rule=r, params=tuple(n)) for r, n in by_rule.items()]

    def sorted_(held: Mapping[str, Any]) -> dict[str, Any]:
        return {n: held[n] for n in order if n in held}

    return replace(
        state,
        spec=Spec(tuple(parts)),
        params=sorted_(made.params),
        slots=sorted_(made.slots),
        steps=sorted_(made.steps),
        shapes=sorted_(made.shapes),
    )


def _said(fresh: Sequence[str], frozen: Sequence[str], out: Sequence[str]) -> list[str]:
    lines = []
    for what, names in (
        ("start fresh, without state, at step 0", fresh),
        ("are frozen and carry nothing; the target's optimizer must not have them", frozen),
        ("had state that is left out", out),
    ):
        if names:
            some = ", ".join(names[:4]) + (f", … {len(names)} in all" if len(names) > 4 else "")
            lines.append(f"{some}: {what}")
    return lines
