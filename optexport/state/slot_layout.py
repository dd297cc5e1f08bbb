"""How a port of tensors carries the slots of a rule, and whether the rule is then the same.

A slot of the parameter's shape, a master and each item of a history go as the parameter does. A scalar
stays. A slot that lacks an axis follows that axis: where rows and columns change places, so do their
factors. What has no place afterwards is refused with the reason.

Whether updates stay the same is asked of the rule's program. A program that tells no axis from another
does not mind their order, and one that computes nothing from a whole tensor does not mind its being cut.
For the rest the square is tried, in float64 on a small problem: step and port, port and step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..errors import VerdictError
from ..ir import axes_matter, whole_tensor
from ..reference.interpreter import run_together
from ..rules import Rule, Slot, families
from ..specs import Group
from ..translation.verdict import Verdict
from .axes import Axes
from .name_map import Port
from .training import MASTER

__all__ = ["carried", "fitted", "judged"]

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]
# Numbers of a parameter from which on the square is tried on a smaller one.
_SMALL = 4096
# Rounding of a few hundred float64 operations, which differ in order alone.
_ALIKE = 1e-9


def fitted(rule: Rule, shape: Shape) -> Rule:
    """The rule of a parameter of this shape, where options follow from shapes."""
    fam = families().get(rule.family)
    if fam is None or fam.fit is None:
        return rule
    options = fam.fit(rule.options, shape)
    return rule if options == rule.options else fam.rule(**options)


def carried(
    port: Port,
    before: Rule,
    after: Sequence[Rule],
    slots: Sequence[Mapping[str, np.ndarray]],
    shapes: Sequence[Shape],
) -> list[Arrays]:
    """The slots of each target.

    before: rule of the sources. after: of each target. slots, shapes: of each source.

    Raises:
        VerdictError: a slot has no place afterwards; the message says why.
    """
    if port.keeps:
        return [dict(slots[0])]
    kinds = {s.name: s for s in before.slots}
    targets = [port_shape(port, shapes)[i] for i in range(len(port.targets))]
    out: list[Arrays] = [{} for _ in port.targets]
    for name in slots[0]:
        slot = kinds.get(name, Slot(name, ""))
        arrays = [s[name] for s in slots]
        if slot.shape == "scalar":
            made = _scalars(port, before, name, arrays)
            places = [name] * len(made)
        elif slot.shape == "param" or slot.shape.startswith("history"):
            made = port.apply(arrays, int(slot.shape != "param"))
            places = [name] * len(made)
        else:
            made = _factors(port, slot, arrays, shapes[0])
            places = [_place(port, slot, shapes[0], r, t) for r, t in zip(after, targets, strict=True)]
        for have, place, array in zip(out, places, made, strict=True):
            if place in have:
                raise _refused(port, f"two slots of its rule would both be {place!r}")
            have[place] = array
    for have, rule in zip(out, after, strict=True):
        lost = [s for s in rule.slot_names if s not in have] + [
            s for s in have if s not in (*rule.slot_names, MASTER)
        ]
        if lost:
            raise _refused(
                port,
                f"tensors of the new shape have the slots {', '.join(rule.slot_names)}, and not of each one is there",
            )
    return out


def port_shape(port: Port, shapes: Sequence[Shape]) -> list[Shape]:
    """Shapes of the targets."""
    # No bytes behind it: one zero, seen everywhere.
    return [a.shape for a in port.apply([np.broadcast_to(np.zeros((), np.bool_), s) for s in shapes])]


def _refused(port: Port, why: str) -> VerdictError:
    return VerdictError(
        f'{port.label}: verdict none: {why}; leave it out with "to": null and let it start fresh'
    )


def _scalars(port: Port, rule: Rule, name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    if port.axis is not None:
        if _of_one_tensor(rule, name):
            raise _refused(
                port, f"slot {name!r} is one number made from a whole tensor, which is cut or joined here"
            )
        if len({(a.dtype, a.tobytes()) for a in arrays}) > 1:
            raise _refused(port, f"slot {name!r} is not the same number in each of the joined tensors")
    return [arrays[0]] * len(port.targets)


def _of_one_tensor(rule: Rule, name: str) -> bool:
    """Whether a scalar slot is computed from its own parameter."""
    todo, seen = [name], {name}
    while todo:
        slot = todo.pop()
        if whole_tensor(rule.program, slot):
            return True
        for i in rule.program.used(slot):
            input_ = rule.program.nodes[i].attr
            other = getattr(input_, "name", "") if getattr(input_, "role", "") == "slot" else ""
            if other and other not in seen:
                seen.add(other)
                todo.append(other)
    return False


def _factors(port: Port, slot: Slot, arrays: Sequence[np.ndarray], shape: Shape) -> list[np.ndarray]:
    """A slot that lacks axes, axes moved."""
    if port.axes is not None and port.axes.order is None:
        raise _refused(port, f"slot {slot.name!r} is a mean over an axis, and axes are cut or joined here")
    if port.axis is not None:
        order = port.axes.order if port.axes is not None else None
        lacking = slot.reduced(shape)
        cut = port.axis if order is None or len(port.sources) == 1 else order[port.axis]
        if cut in lacking:
            raise _refused(
                port,
                f"slot {slot.name!r} is a mean over axis {cut}, along which the tensor is "
                f"{'joined' if len(port.sources) > 1 else 'split'}: the pieces have means of their own",
            )
    return port.apply(arrays)


def _place(port: Port, slot: Slot, shape: Shape, rule: Rule, target: Shape) -> str:
    """The slot that lacks the same axes after they moved."""
    order = port.axes.order if port.axes is not None else None
    lacking = slot.reduced(shape)
    if order is not None:
        lacking = tuple(sorted(order.index(a) for a in lacking))
    fitting = [
        s.name
        for s in rule.slots
        if s.shape.partition(":")[0] in ("without", "only") and s.reduced(target) == lacking
    ]
    if not fitting:
        axes = " and ".join(map(str, lacking))
        raise _refused(
            port,
            f"slot {slot.name!r} is a mean over what is then axis {axes}, and the rule keeps none over that axis",
        )
    return slot.name if slot.name in fitting else fitting[0]


def judged(port: Port, group: Group, before: Rule, after: Sequence[Rule], shapes: Sequence[Shape]) -> Verdict:
    """Whether the updates of the targets are those of the sources.

    group: whose hyperparameters they have, as numbers.
    """
    if port.keeps:
        return Verdict()
    note = Verdict(notes=(_told(port),))
    same = all(r == before for r in after)
    whole = whole_tensor(before.program)
    matter = axes_matter(before.program)
    if same and not matter and (port.axis is None or not whole):
        return note
    if port.axis is not None:
        numbers = [n for n, kind in whole.items() if kind == "scalar"]
        if numbers:
            made = ", ".join(numbers)
            word = "the whole tensor" if len(port.sources) == 1 else "each tensor"
            return note.then(
                Verdict(
                    "lossy",
                    dropped=(
                        f"{port.label}: {before.family} computes {made} from {word}; afterwards from "
                        f"{'each piece' if len(port.sources) == 1 else 'the joined one'}, so updates differ",
                    ),
                )
            )
    gap = _square(port, group, before, after, shapes)
    if gap <= _ALIKE:
        return note
    return note.then(
        Verdict(
            "lossy",
            dropped=(
                f"{port.label}: {before.family} tells axes from one another; on a test problem its update of the "
                f"rearranged tensor differs by {gap:.2g} of itself",
            ),
        )
    )


def _told(port: Port) -> str:
    if len(port.targets) > 1:
        return "tensors are split"
    if len(port.sources) > 1:
        return "tensors are joined"
    return (
        f"axes moved: {port.axes.text}"
        if port.axes is not None and port.axes.order is None
        else "axes are transposed"
    )


def _square(port: Port, group: Group, rule: Rule, after: Sequence[Rule], shapes: Sequence[Shape]) -> float:
    """Largest relative difference between step-then-port and port-then-step, of updates and slots.

    Infinite where it cannot be tried.
    """
    tried = _smaller(port, shapes)
    if tried is None:
        return math.inf
    port, small = tried
    if port.axis is not None and (
        [fitted(rule, s) for s in small] != [rule] * len(small)
        or [fitted(r, s) for r, s in zip(after, port_shape(port, small), strict=True)] != list(after)
    ):
        return math.inf
    worst = 0.0
    for size in (1e-3, 1.0, 1e3):
        rng = np.random.default_rng(0)
        values = group.values(max(group.values().get("lr", 0.0), 0.01))
        params = [rng.standard_normal(s) for s in small]
        slots = [{s.name: s.first(p, p.shape, np.float64, values) for s in rule.slots} for p in params]
        for step in range(3):
            given = {r: [rng.standard_normal(s) for s in small] for r in ("grad", "noise", "hessian")}
            given["grad"] = [size * g for g in given["grad"]]
            moved = {r: port.apply(a) for r, a in given.items()}
            mapped = carried(port, rule, after, slots, small)
            starts = port.apply(params)
            new, new_slots = _stepped([rule] * len(small), params, slots, given, step, values)
            other, other_slots = _stepped(after, starts, mapped, moved, step, values)
            ours = port.apply([n - p for n, p in zip(new, params, strict=True)])
            theirs = [n - p for n, p in zip(other, starts, strict=True)]
            pairs = list(zip(ours, theirs, strict=True))
            for have, want in zip(carried(port, rule, after, new_slots, small), other_slots, strict=True):
                pairs += [(have[s], want[s]) for s in want]
            worst = max(worst, *(_gap(a, b) for a, b in pairs))
            params, slots = new, new_slots
    return worst


def _stepped(
    rules: Sequence[Rule],
    params: Sequence[np.ndarray],
    slots: Sequence[Arrays],
    given: Mapping[str, Sequence[np.ndarray]],
    step: int,
    values: Mapping[str, float],
) -> tuple[list[np.ndarray], list[Arrays]]:
    members = []
    for i, rule in enumerate(rules):
        inputs = {"param": params[i], "step": step} | {role: arrays[i] for role, arrays in given.items()}
        inputs |= {f"hyper:{k}": v for k, v in values.items()} | {f"slot:{k}": v for k, v in slots[i].items()}
        members.append((rule.program, inputs))
    made = run_together(members)
    new = [m.pop("param") for m in made]
    return new, [{k: np.asarray(v) for k, v in m.items()} for m in made]


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    top = float(np.abs(b).max(initial=0.0))
    gap = float(np.abs(a - b).max(initial=0.0))
    return 0.0 if gap == 0 else gap / top if top and math.isfinite(gap) else math.inf


def _smaller(port: Port, shapes: Sequence[Shape]) -> tuple[Port, list[Shape]] | None:
    """The same port on tensors that are quick to step, the order of their sizes kept; None where
    nothing tells that a smaller one behaves as the real one."""
    if sum(math.prod(s) for s in shapes) <= _SMALL:
        return port, list(shapes)
    if port.axis is None:
        axes = port.axes or Axes((), ())
        named = axes.named_sizes(shapes[0], port.label)
        ranks = {n: i + 2 for i, n in enumerate(sorted({n for n in named.values() if n > 1}))}
        sizes = {name: ranks.get(n, n) for name, n in named.items()}
        small = Axes(axes.left, axes.right, sizes if axes.order is None else {})
        shape = tuple(math.prod(sizes[n] for n in axis) for axis in axes.left)
        after = tuple(math.prod(sizes[n] for n in axis) for axis in axes.right)
        alike = _order(shape) == _order(shapes[0]) and _order(after) == _order(
            axes.shape(shapes[0], port.label)
        )
        return (replace(port, axes=small), [shape]) if alike else None
    # Cut or joined: only rules come here that know rows, and no sizes.
    if port.axes is not None and port.axes.order is None:
        return None
    pieces = tuple(2 + i % 2 for i in range(max(len(port.sources), len(port.targets))))
    if len(port.targets) > 1:
        whole = [min(n, 3) for n in shapes[0]]
        whole[port.axis] = sum(pieces)
        return replace(port, sizes=pieces), [tuple(whole)]
    old = port.axes.order[port.axis] if port.axes is not None and port.axes.order is not None else port.axis
    parts = [tuple(p if i == old else min(n, 3) for i, n in enumerate(shapes[0])) for p in pieces]
    return replace(port, sizes=pieces), parts


def _order(shape: Shape) -> list[tuple[bool, int]]:
    """Which axes are larger than which, equal ones included."""
    ranks = {n: i for i, n in enumerate(sorted(set(shape)))}
    return [(n == 1, ranks[n]) for n in shape]
