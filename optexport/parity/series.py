"""A run as one array a slot: what workers send, what measures compare, what baselines keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dialects import find
from ..state import TrainingState
from .runs import Snapshot

__all__ = ["Fault", "Series", "collect", "expected", "parted"]

# (parameter, slot) -> values of every update, the update first; slot ``param`` is the parameter.
Series = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Fault:
    """What is wrong with an optimizer apart from its numbers.

    kind: raises, closure, shape, missing, nan, nondeterministic. update: 1 is the first, 0 before it.
    sentence: says it to a person.
    """

    kind: str
    sentence: str
    update: int = 0
    param: str = ""
    slot: str = ""

    def __str__(self) -> str:
        return self.sentence


def collect(snapshots: Iterable[Snapshot]) -> tuple[Series, Fault | None]:
    """Run an optimizer to its end, or to the update at which it goes wrong.

    The series has every update that was complete. A state whose shapes change, or whose slots come and go,
    is a fault; so is any exception.
    """
    kept: dict[tuple[str, str], list[np.ndarray]] = {}
    fault: Fault | None = None
    update = 0
    try:
        for update, (params, slots) in enumerate(snapshots, 1):
            now = dict(_flat(params, slots))
            fault = _changed(kept, now, update)
            if fault:
                break
            for key, value in now.items():
                kept.setdefault(key, []).append(value)
    except Exception as e:
        fault = raised(e, update + 1)
    return {k: np.stack(v) for k, v in kept.items() if v}, fault


def _flat(
    params: Mapping[str, Any], slots: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    for name, value in params.items():
        yield (name, "param"), np.array(value)
        for slot, held in slots.get(name, {}).items():
            yield (name, slot), np.array(held)


def _changed(
    kept: Mapping[tuple[str, str], Sequence[np.ndarray]],
    now: Mapping[tuple[str, str], np.ndarray],
    update: int,
) -> Fault | None:
    for (param, slot), before in kept.items():
        value, where = now.get((param, slot)), f"update {update}, parameter {param!r}, {slot}"
        if value is None:
            return Fault("missing", f"{where}: expected the value, found none any more", update, param, slot)
        if value.shape != before[0].shape:
            said = f"{where}: expected shape {before[0].shape} as before, found {value.shape}"
            return Fault("shape", f"the optimizer changes a shape: {said}", update, param, slot)
    if kept and (extra := [k for k in now if k not in kept]):
        param, slot = extra[0]
        said = f"update {update}, parameter {param!r}: slot {slot} was not there before"
        return Fault("shape", f"the optimizer changes its slots: {said}", update, param, slot)
    return None


def raised(error: BaseException, update: int) -> Fault:
    """An exception of an optimizer as a sentence."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, TypeError | RuntimeError) and "closure" in str(error):
        return Fault(
            "closure",
            f"the optimizer needs a closure that computes the loss again, which parity does not give it: {said}",
            update,
        )
    return Fault("raises", f"the optimizer raised at update {update}: {said}", update)


def parted(a: Series, b: Series) -> Fault | None:
    """Where two runs of one optimizer on the same gradients first differ in a bit; None where nowhere."""
    firsts = []
    for key in a:
        one, two = a[key], b.get(key)
        if two is None or one.shape != two.shape:
            return Fault("nondeterministic", f"a second run has another {key[1]} of {key[0]!r}", 1, *key)
        same = [x.tobytes() == y.tobytes() for x, y in zip(one, two, strict=True)]
        if not all(same):
            firsts.append((same.index(False) + 1, *key))
    if not firsts:
        return None
    update, param, slot = min(firsts)
    return Fault(
        "nondeterministic",
        "the optimizer is not deterministic: two runs on the same gradients differ from "
        f"update {update} on, parameter {param!r}, {slot}",
        update,
        param,
        slot,
    )


def expected(states: Iterable[TrainingState], native: str | None = None) -> Series:
    """The referee's run, its slots under the names and in the shapes of ``framework:optimizer`` where given."""
    entry = find(native) if native else None
    kept: dict[tuple[str, str], list[np.ndarray]] = {}
    for state in states:
        for name in state.names:
            kept.setdefault((name, "param"), []).append(np.asarray(state.params[name]))
            rule = state.spec.group(name).rule
            own = state.slots[name]
            roles = dict(entry.slots) if entry else {s: s for s in own}
            for slot, role in roles.items():
                if role in own:
                    value = entry.to_native(slot, own[role], rule) if entry else own[role]
                    kept.setdefault((name, slot), []).append(np.asarray(value))
    return {k: np.stack(v) for k, v in kept.items()}
