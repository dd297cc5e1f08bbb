"""Between native state and training state: a dialect gives raw tensors their meaning, and takes it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..dialects import Native, converter, find
from ..errors import CheckpointError, HyperparameterError, UnknownNameError
from ..rules import Rule, families
from ..schedules.native_state import read_schedules, write_schedules
from ..specs import Group, Spec, numbered, unfitted
from .native import NativeGroup, NativeState
from .training import MASTER, TrainingState

__all__ = ["arranged", "emitted_roles", "lift", "native_roles", "native_state", "says_optimizer"]

Paths = Mapping[str, str]


def _entry(native: NativeState, optimizer: str | None, where: str) -> Native:
    if optimizer is not None:
        entry = find(optimizer)
        if entry.framework != native.framework:
            raise UnknownNameError(
                f"{where}: is a {native.framework} file; expected {native.framework}:NAME, found {optimizer}"
            )
        return entry
    if native.optimizer is None:
        raise UnknownNameError(
            f"{where}: does not say which optimizer wrote it; name it, as in --optimizer {native.framework}:NAME"
        )
    return find(f"{native.framework}:{native.optimizer}")


def _paths(entry: Native, slots: Sequence[str], master: bool) -> dict[str, str]:
    """Native slot name -> where it stands in the file."""
    place = getattr(converter(entry.framework, "dialect"), "slot_paths", None)
    if place is not None:
        return dict(place(entry.name, slots, master))
    return {s: s for s in (*slots, *([MASTER] if master else []))}


def native_roles(entry: Native, group: Group, found: Sequence[str], where: str) -> dict[str, tuple[str, str]]:
    """File path -> (the framework's slot name, the rule's), for the slots of one parameter; the rule's is
    empty where nothing reads the slot.

    Raises:
        CheckpointError: the file has a slot that the optimizer does not have.
    """
    has = [n for n, role in entry.slots if role in group.rule.slot_names]
    for master in (False, True):
        paths = _paths(entry, has, master)
        places = {p: (n, MASTER if n == MASTER else str(entry.role(n))) for n, p in paths.items()}
        if entry.step_slot:
            places[entry.step_slot] = (entry.step_slot, "step")
        places |= {n: (n, "") for n in entry.unread}
        if set(found) <= set(places) and (not master or paths[MASTER] in found):
            return places
    raise CheckpointError(
        f"{where}: expected the slots of {entry.qualified} ({', '.join(_paths(entry, has, False).values()) or 'none'}), "
        f"found {', '.join(found)}; was it another optimizer? name it with --optimizer"
    )


def lift(
    native: NativeState,
    where: str,
    *,
    optimizer: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    step: int | None = None,
) -> TrainingState:
    """The training state of a native one; parameters keep the file's keys.

    where: what to call the file in messages.
    optimizer, arguments, step: what the file does not hold (arguments in the framework's own names).

    Raises:
        UnknownNameError: the optimizer is unknown. CheckpointError: slots do not fit the optimizer,
        or the file lacks something that must be given.
    """
    emitted = _emitted(native) if optimizer is None else None
    if emitted is not None:
        return _lift_emitted(native, emitted, where)
    entry = _entry(native, optimizer, where)
    native = arranged(native, entry, arguments or {}, where)
    warnings = list(native.warnings)
    if native.worked_out and step is not None:
        said = sorted({n for n in native.steps.values() if n not in (None, step)})
        if said:
            warnings.append(
                f"the file's own numbers say {said[0]} updates; --step says {step}, which is taken"
            )
        native = replace(native, steps=dict.fromkeys(native.steps))
    groups: list[Group] = []
    counted = [n for n in native.steps.values() if n is not None]
    followed = read_schedules(native, max(counted) if counted else step)
    warnings += followed.warnings
    step = followed.clock if step is None and not counted else step
    for i, g in enumerate(native.groups):
        for made in _groups(entry, g, arguments or {}, where, warnings, followed.numbers(i, followed.clock)):
            made = replace(
                made, schedules={k: s for k, s in followed.groups[i].items() if k in made.hyperparameters}
            )
            groups.extend(_fitted(entry, made, native.slots))
    order = [key for g in native.groups for key in g.params]
    groups = list(numbered(groups, order))
    slots: dict[str, dict[str, np.ndarray]] = {}
    steps = dict.fromkeys(order, 0)
    for group in groups:
        for key in group.params or ():
            have = native.slots.get(key, {})
            # A name that stands for several optimizers gives groups of the one that it means.
            roles = native_roles(find(group.native), group, list(have), f"{where}: parameter {key!r}")
            slots[key] = {
                roles[p][1]: entry.to_rule(roles[p][0], a, group.rule)
                for p, a in have.items()
                if roles[p][1] not in ("step", "")
            }
            _check_shapes(slots[key], group.rule, f"{where}: parameter {key!r}")
            slots[key] = _without_axes(slots[key], group.rule)
            steps[key] = _step(native, entry, key, bool(have), not group.rule.slots, step, where)
    if native.groups and not entry.step_slot and any(slots.values()) and step is None and _stepless(native):
        warnings.append(f"{entry.qualified} keeps no step count; parameters with state count as updated once")
    return TrainingState(
        Spec(tuple(groups)),
        {},
        {k: v for k, v in slots.items() if v},
        steps,
        dialect=entry.qualified,
        provenance=(f"read from {native.format} of {entry.qualified}",),
        warnings=tuple(warnings),
    )


def arranged(native: NativeState, entry: Native, given: Mapping[str, Any], where: str) -> NativeState:
    """The native state with its tensors under the optimizer's slots.

    A format that knows tensors by position alone has a dialect with ``arrange``, which places them
    once the optimizer is known. given: arguments that the file does not hold.

    Raises:
        CheckpointError: they do not fit, or an argument is needed that neither file nor caller gives.
    """
    if entry.framework != native.framework:
        return native
    arrange = getattr(converter(entry.framework, "dialect"), "arrange", None)
    return native if arrange is None else arrange(native, entry, given, where)  # type: ignore[no-any-return]


def says_optimizer(native: NativeState) -> bool:
    """Whether the file tells which optimizer, or which rule, its state belongs to."""
    return native.optimizer is not None or _emitted(native) is not None


def _emitted(native: NativeState) -> list[Group] | None:
    """Groups where an optimizer that optexport emitted wrote the file, else None.

    A converter may emit nothing, or nothing with a state of its own (ONNX: a graph has none).
    """
    try:
        emitter = converter(native.framework, "emit")
    except ModuleNotFoundError as error:
        if not str(error.name).endswith(".emit"):
            raise
        return None
    groups: list[Group] | None = getattr(emitter, "emitted_groups", lambda _: None)(native)
    return groups


def emitted_roles(native: NativeState, rule: Rule, found: Sequence[str], where: str) -> Mapping[str, str]:
    """File path -> the rule's slot, for one parameter of a file that an emitted optimizer wrote.

    Raises:
        CheckpointError: the file has a slot that the rule does not have.
    """
    places = converter(native.framework, "emit").emitted_paths
    for paths in (places(rule, master) for master in (False, True)):
        if set(found) <= set(paths):
            return dict(paths)
    raise CheckpointError(
        f"{where}: expected the slots {', '.join(rule.slot_names)}, found {', '.join(found)}; the file is damaged"
    )


def _lift_emitted(native: NativeState, groups: list[Group], where: str) -> TrainingState:
    """The training state of a run in an emitted optimizer: the rule's own, no framework's."""
    slots: dict[str, dict[str, np.ndarray]] = {}
    listed = {key for g in groups for key in g.params or ()}
    steps = {key: 0 for g in native.groups for key in g.params if key in listed}
    for group in groups:
        for key in group.params or ():
            have = native.slots.get(key, {})
            roles = emitted_roles(native, group.rule, list(have), f"{where}: parameter {key!r}")
            held = {roles[p]: a for p, a in have.items() if roles[p] != "step"}
            _check_shapes(held, group.rule, f"{where}: parameter {key!r}")
            slots[key] = _without_axes(held, group.rule)
            steps[key] = native.steps.get(key) or 0
    followed = read_schedules(native, max(steps.values(), default=0))
    # MXNet's one group may be several of the emitted optimizer's.
    per_group = followed.groups if len(followed.groups) == len(groups) else followed.groups[:1] * len(groups)
    groups = [
        replace(g, schedules={**g.schedules, **{h: s for h, s in f.items() if h in g.hyperparameters}})
        for g, f in zip(groups, per_group, strict=True)
    ]
    return TrainingState(
        Spec(tuple(groups)),
        {},
        {k: v for k, v in slots.items() if v},
        steps,
        provenance=(f"read from {native.format} of an emitted optimizer",),
        buffers=native.extras.get("buffers", {}),
        # Which class wrote it does not matter: the rule is in the file.
        warnings=(*(w for w in native.warnings if "which optimizer" not in w), *followed.warnings),
    )


def _stepless(native: NativeState) -> bool:
    return all(v is None for v in native.steps.values())


def _groups(
    entry: Native,
    g: NativeGroup,
    given: Mapping[str, Any],
    where: str,
    warnings: list[str],
    now: Mapping[str, float],
) -> list[Group]:
    """now: numbers of the scheduled hyperparameters, which the file may not hold (MXNet's ``lr`` is None)."""
    known = set(entry.arguments) | entry.inert | set(entry.aliases)
    held = {k: v for k, v in g.arguments.items() if k in known}
    for hyper, value in now.items():
        if hyper in entry.links:
            name = entry.links[hyper].path[0]
            held[name] = held.get(entry.aliases.get(name, name), entry.arguments[name])
            entry.links[hyper].write(held, value)
            held.pop("lr", None) if name == "learning_rate" else None
    foreign = {k: v for k, v in g.arguments.items() if k not in known}
    if foreign:
        warnings.append(
            f"group entries {', '.join(sorted(foreign))} are not arguments of {entry.qualified}; carried, not interpreted"
        )
    if not g.arguments:
        needed = [a for a in ("lr", "learning_rate") if a in entry.arguments]
        if not any(a in given for a in (*needed, "lr", "learning_rate")):
            raise CheckpointError(
                f"{where}: holds no hyperparameters; give them in {entry.framework}'s own names, at least --hyper "
                f"{needed[0]}=…"
            )
        assumed = [
            f"{k}={v}"
            for k, v in entry.arguments.items()
            if k not in given and k not in needed and v is not None
        ]
        if assumed:
            warnings.append(
                f"the file holds no hyperparameters; assumed {entry.qualified}'s defaults {', '.join(assumed)}"
            )
    told = {entry.aliases.get(k, k) for k in (*held, *given)}
    untold = [a for a in entry.inputs if a not in told]
    if untold:
        raise CheckpointError(
            f"{where}: does not hold {', '.join(untold)}, which {entry.qualified} is given at each update; give "
            f"{' '.join(f'--hyper {a}=…' for a in untold)}"
        )
    made = entry.groups({**held, **given}, tuple(g.params))
    return [replace(m, arguments={**m.arguments, **foreign}, first_step=0) for m in made]


def _fitted(entry: Native, group: Group, slots: Mapping[str, Mapping[str, np.ndarray]]) -> list[Group]:
    """The group, cut by the slots that its parameters have where a shape decides which they are."""
    fam = families().get(group.rule.family)
    if fam is None or fam.fit is None:
        return [group]
    parts: dict[Rule, list[str]] = {}
    for key in group.params or ():
        have = {p: a for p, a in slots.get(key, {}).items() if p != entry.step_slot}
        rules = (fam.rule(**{**group.rule.options, **fit}) for fit in fam.fits if have)
        fitting = next((r for r in rules if _is_of(entry, r, have)), group.rule)
        parts.setdefault(fitting, []).append(key)
    return [replace(group, rule=rule, params=tuple(keys)) for rule, keys in parts.items()]


def _is_of(entry: Native, rule: Rule, have: Mapping[str, np.ndarray]) -> bool:
    """Whether a parameter with these slots is updated by this rule: by their names, and by the shape
    that they tell of the parameter."""
    names = [n for n, role in entry.slots if role in rule.slot_names]
    places = {path: name for name, path in _paths(entry, names, False).items()}
    fam = families()[rule.family]
    if set(have) != set(places) or fam.fit is None:
        return False
    kinds = {s.name: s.shape.partition(":")[0] for s in rule.slots}
    try:
        arrays = {entry.role(n): entry.to_rule(n, have[p], rule) for p, n in places.items()}
        # Sizes of 1 stand where an axis is reduced, so that together they have the parameter's shape.
        shape = np.broadcast_shapes(
            *(np.shape(a) for r, a in arrays.items() if kinds[str(r)] in ("param", "without", "only"))
        )
        return fam.fit(rule.options, shape) == rule.options
    except (ValueError, HyperparameterError):
        return False  # arrays that are none of this rule's


def _check_shapes(slots: Mapping[str, np.ndarray], rule: Rule, where: str) -> None:
    """Slots that are shaped like the parameter agree; a scalar is one number."""
    kinds = {s.name: s.shape.partition(":")[0] for s in rule.slots}
    shapes = {tuple(a.shape) for s, a in slots.items() if kinds.get(s, "param") == "param"}
    shapes |= {tuple(a.shape[1:]) for s, a in slots.items() if kinds.get(s) == "history"}
    if len(shapes) > 1 or any(a.size != 1 for s, a in slots.items() if kinds.get(s) == "scalar"):
        found = ", ".join(f"{s} {list(a.shape)}" for s, a in slots.items())
        raise CheckpointError(f"{where}: expected slots of one shape, found {found}; the file is damaged")


def _without_axes(slots: Mapping[str, np.ndarray], rule: Rule) -> dict[str, np.ndarray]:
    """A scalar has no axes here, though in some files it is an array of one."""
    scalars = {s.name for s in rule.slots if s.shape == "scalar"}
    return {n: a.reshape(()) if n in scalars else a for n, a in slots.items()}


def _step(
    native: NativeState,
    entry: Native,
    key: str,
    updated: bool,
    stateless: bool,
    given: int | None,
    where: str,
) -> int:
    """updated: whether the file has state of it. stateless: whether the rule keeps none."""
    held = native.steps.get(key)
    if held is not None:
        return held
    if given is not None:
        return given if updated or stateless else 0
    if not updated:
        return 0
    if entry.step_slot or _needs_step(entry):
        raise CheckpointError(
            f"{where}: parameter {key!r}: holds no step count, which {entry.qualified} needs; give it with --step N"
            + (f" ({native.warnings[-1]})" if native.worked_out and native.warnings else "")
        )
    return 1


def _needs_step(entry: Native) -> bool:
    """Whether the rule at its defaults reads the step beyond asking for the first update."""
    rule = entry.rule(entry.complete({}))
    return bool(rule.program.inputs("step")) and any(
        n.op == "pow" for i, n in enumerate(rule.program.nodes) if i in rule.program.used()
    )


def native_state(state: TrainingState, where: str) -> NativeState:
    """The native state of a training state that is some framework's (see ``translate``).

    Raises:
        CheckpointError: its groups are not of one native optimizer.
    """
    kinds = {g.native for g in state.spec.groups}
    if len(kinds) != 1 or not next(iter(kinds)):
        raise CheckpointError(
            f"{where}: expected groups of one native optimizer, found {', '.join(sorted(k or 'a rule' for k in kinds))}; "
            "name the target's with --optimizer"
        )
    entry = find(kinds.pop())
    out = NativeState(
        entry.framework, "", entry.class_name or entry.name, named=True, weights=dict(state.params)
    )
    join = getattr(converter(entry.framework, "dialect"), "join", None)
    order = state.ordered_names
    # Files hold the numbers of now; what they follow stands beside them.
    groups = unfitted(state.spec.groups, order)
    now = Spec(tuple(g.at(state.clock) for g in groups))
    if join is not None:
        out.groups = [NativeGroup(join(now, order, state.steps), order)]
    else:
        for g, before in zip(now.groups, groups, strict=True):
            arguments = {**entry.file_defaults, **g.arguments}
            for h in before.schedules:
                entry.links[h].write(arguments, g.values()[h])
            if g.lr_mult != 1:
                entry.links["lr"].write(arguments, g.values()["lr"])
            out.groups.append(NativeGroup(arguments, list(g.params or ())))
    write_schedules(out, groups, state.clock)
    for name in state.names:
        have = dict(state.slots.get(name, {}))
        if have:
            rule = state.spec.group(name).rule
            has = [n for n, role in entry.slots if role in rule.slot_names]
            full = state.full_slots(name)
            paths = _paths(entry, has, MASTER in have)
            out.slots[name] = {
                p: full[MASTER] if n == MASTER else entry.to_native(n, full[str(entry.role(n))], rule)
                for n, p in paths.items()
            }
        out.steps[name] = state.steps[name]
    return out
