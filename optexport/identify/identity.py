"""`identify`: probes an optimizer and says what it is, or what the nearest rule is and how they differ."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..parity.compare import relative_error
from ..parity.subjects import Subject, SubjectError, subject, trace
from ..rules import CATALOGUE, name_of
from ..rules.base import OptionValue
from .candidates import claimed
from .edits import changed_equations
from .explain import explained_by_edit
from .fit import Seen, observed
from .hypothesis import Hypothesis, simulate
from .probes import FREE, MATRICES, Probe, probe
from .search import Search, departs, tidied

__all__ = ["Identity", "identify"]

_STEPS, _FRESH_STEPS = 16, 30


@dataclass(frozen=True)
class Identity:
    """matches: whether it is a rule of the catalogue. rule: its name, None where it is none.

    options, hyperparameters: of the rule, or of the nearest one. counts_from: updates that count as done
    before the first. nearest: the rule's name, or the nearest one's. differs: what is different (None
    where it matches): ``kind``, ``change``, ``equations``, ``step``, ``slot``, ``error``, ``bound``.
    alternatives: other names and options that compute the same. notes: what a person should know.
    dtype: that it was examined in. error: largest relative error over its bound on the fresh probe.
    """

    optimizer: str
    framework: str
    matches: bool
    rule: str | None
    options: Mapping[str, OptionValue]
    hyperparameters: Mapping[str, float]
    nearest: str
    differs: Mapping[str, Any] | None
    counts_from: int = 0
    alternatives: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dtype: str = "float64"
    family: str = ""
    seconds: float = field(default=0.0, compare=False)


def identify(
    optimizer: Any,
    arguments: Mapping[str, Any] | None = None,
    *,
    hints: bool = True,
    seconds: float = 8.0,
) -> Identity:
    """Which rule of the catalogue ``optimizer`` is, with which options and hyperparameters.

    optimizer: ``MODULE:NAME``, an ``.onnx`` file, a class, an instance, a transformation, a function that
        makes one, or a `parity.subjects.Subject`. arguments: of the class or function.
    hints: whether what its name suggests is tried first; the numbers decide either way.
    seconds: of computing, after which no new supposition is tried.

    Raises:
        SubjectError: it raises, gives NaN, changes shapes, needs a closure, or does not repeat itself.
        UnknownNameError: there is no such thing.
    """
    began = time.process_time()
    made = optimizer if isinstance(optimizer, Subject) else subject(optimizer, arguments)
    seen, fresh, notes = _examined(made)
    late = time.process_time() + seconds
    hint = claimed(made.hint) if hints else None
    search = Search(seen, fresh, late - 0.65 * seconds)
    found, best = search.run(hint)
    if found is None and seen.dtype == "float32":
        search.floor = _float32_floor()
        tried = [h for h in (hint, *(h for _, h in best[:4])) if h is not None]
        found = next((held for h in tried if (held := search.settled(h)) is not None), None)
        if found is not None:
            notes.append("it agrees as far as 1 − βᵗ in float32 allows")
    if found is not None:
        return _matched(made, search, found, notes, began)
    if found is None and (steady := _steady(made, search, hint)) is not None:
        steady_search, held = steady
        return _matched(
            made,
            steady_search,
            held,
            [
                *notes,
                "while its learning rate stays what it is; when that changes it is no rule of the catalogue",
            ],
            began,
        )
    if not best:
        raise SubjectError(f"{made.name}: no rule of the catalogue can be run on its parameters' shapes")
    return _nearest(made, search, best, notes, began, late)


def _float32_floor() -> float:
    """Frameworks without double compute 1 − βᵗ in float32: β and its power each round by 2⁻²⁴, which the
    first update divides by 1 − β; 0.999 is the largest β in use."""
    return 2 * 2.0**-24 / (1 - 0.999)


# --- probing --------------------------------------------------------------------------------------------


def _examined(made: Subject) -> tuple[Seen, Seen, list[str]]:
    """What it does on two probes, in the best dtype and on the widest shapes that it takes."""
    first: SubjectError | None = None
    for shapes in (made.shapes,) if made.shapes else (FREE, MATRICES):
        for dtype in made.dtypes:
            try:
                try:
                    return _seen_in(made, shapes, dtype)
                except _NotFiniteError as e:
                    seen, fresh, notes = _seen_in(made, shapes, dtype, zeros=False)
                    return seen, fresh, [*notes, e.causes[0] + "; examined on gradients without zeros"]
            except SubjectError as e:
                if getattr(e, "final", False):
                    raise
                first = first or e
    assert first is not None
    raise first


class _NotFiniteError(SubjectError):
    """NaN or infinity on finite gradients."""

    final = True


def _final(message: str) -> SubjectError:
    error = SubjectError(message)
    error.final = True  # type: ignore[attr-defined]
    return error


def _seen_in(
    made: Subject, shapes: Mapping[str, tuple[int, ...]], dtype: str, zeros: bool = True
) -> tuple[Seen, Seen, list[str]]:
    steady = probe(shapes, _STEPS, rates=False, zeros=zeros)
    runs = [trace(made, steady.params, steady.grads, steady.rates, dtype) for _ in range(2)]
    for t, ((a, _), (b, _)) in enumerate(zip(*runs, strict=True), 1):
        for name in a:
            if not np.array_equal(a[name], b[name], equal_nan=True):
                raise _final(
                    f"{made.name}: is not deterministic: two runs on the same gradients part at step {t}; "
                    "give it a fixed seed, or no noise"
                )
            if not np.isfinite(a[name]).all():
                raise _NotFiniteError(f"{made.name}: gives NaN or infinity at step {t}, on finite gradients")
    if all(np.array_equal(runs[0][-1][0][n], steady.params[n]) for n in steady.params):
        raise _final(
            f"{made.name}: does not change the parameters in {_STEPS} steps; is its learning rate 0?"
        )
    notes: list[str] = []
    rated = probe(shapes, _STEPS, zeros=zeros)
    after = trace(made, rated.params, rated.grads, rated.rates, dtype)
    follows = any(
        not np.array_equal(x[n], y[n]) for (x, _), (y, _) in zip(runs[0], after, strict=True) for n in x
    )
    if not follows:
        notes.append(
            "its learning rate cannot be changed from outside, so that what depends on a change of it (a learning rate "
            "folded into the momentum) cannot be told"
        )
    chosen: Probe = rated if follows else steady
    other = probe(shapes, _FRESH_STEPS, seed=1, rates=follows, zeros=zeros)
    seen = observed(chosen, after if follows else runs[0], dtype)
    return seen, observed(other, trace(made, other.params, other.grads, other.rates, dtype), dtype), notes


def _steady(made: Subject, search: Search, hint: Hypothesis | None) -> tuple[Search, Hypothesis] | None:
    """What its name suggests, held against runs whose learning rate does not change."""
    if hint is None or set(search.seen.probe.rates) == {1.0}:
        return None
    runs = []
    for old in (search.seen, search.fresh):
        p = replace(old.probe, rates=[1.0] * len(old.probe.rates))
        runs.append(observed(p, trace(made, p.params, p.grads, p.rates, old.dtype), old.dtype))
    again = replace(search, seen=runs[0], fresh=runs[1])
    held = again.settled(hint)
    return None if held is None else (again, held)


# --- what is told ----------------------------------------------------------------------------------------


def _names(h: Hypothesis) -> tuple[str, tuple[str, ...]]:
    """The catalogue's name, and the other names of the same rule at these values."""
    values = dict(h.values)
    name = name_of(h.rule, values)
    wanted = h.rule.digest_at(values)
    same = []
    for entry in CATALOGUE.values():
        if entry.name == name:
            continue
        rule = entry.rule()
        known = {p.name: values.get(p.name, p.neutral) for p in rule.hyperparameters}
        if rule.digest_at({k: v for k, v in known.items() if v is not None}) == wanted:
            zero = [k for k, v in known.items() if k not in values and v is not None]
            same.append(
                entry.name + (f" with {', '.join(f'{k} {known[k]:g}' for k in zero)}" if zero else "")
            )
    return name, tuple(same)


def _matched(made: Subject, search: Search, h: Hypothesis, notes: list[str], began: float) -> Identity:
    h, more = tidied(h, search)
    name, same = _names(h)
    return Identity(
        made.name,
        made.framework,
        True,
        name,
        dict(h.options),
        dict(h.values),
        name,
        None,
        int(h.first),
        same,
        (*notes, *more),
        search.seen.dtype,
        h.family,
        time.process_time() - began,
    )


def _nearest(
    made: Subject,
    search: Search,
    best: list[tuple[float, Hypothesis]],
    notes: list[str],
    began: float,
    late: float,
) -> Identity:
    found = explained_by_edit(search, best, late)
    if found is not None and found[0] is None:
        return _matched(made, search, found[1], notes, began)
    if found is not None and (held := search.beside(found[1])) is not None:
        return _matched(made, search, held, notes, began)  # what was changed is an option of the rule
    if found is not None:
        edit, near, changed = found
        assert edit is not None
        changed, more = tidied(changed, search)
        notes = [*notes, *more]
        near = near.at({p.name: changed.values[p.name] for p in near.hyperparameters})
        shapes = search.seen.probe.shapes
        differs: dict[str, Any] = {
            "kind": edit.kind,
            "change": edit.words,
            "equations": changed_equations(
                near.members(shapes)[0].program, changed.members(shapes)[0].program
            ),
        }
        if edit.extra:
            differs["values"] = {p.name: changed.values[p.name] for p in edit.extra}
    else:
        near = best[0][1]
        differs = {"kind": "unknown", "change": "by more than one change that is known", "equations": []}
    differs |= _parting(near, search.fresh)
    name, same = _names(near)
    return Identity(
        made.name,
        made.framework,
        False,
        None,
        dict(near.options),
        dict(near.values),
        name,
        differs,
        int(near.first),
        same,
        tuple(notes),
        search.seen.dtype,
        near.family,
        time.process_time() - began,
    )


def _parting(h: Hypothesis, seen: Seen) -> dict[str, Any]:
    """Step, slot and size of the first difference beyond the bound."""
    parted = departs(h, seen)
    if parted is None:
        return {"step": None, "slot": None, "error": 0.0, "bound": 0.0}
    slot = _first_slot(h, seen, parted.update) or "param"
    return {"step": parted.update, "slot": slot, "error": parted.error, "bound": parted.bound}


def _first_slot(h: Hypothesis, seen: Seen, until: int) -> str | None:
    """The rule's slot that differs at that step or before, among those that can be found in its state."""
    settings = {p.name: np.array([float(h.values[p.name])]) for p in h.hyperparameters}
    settings.setdefault("lr", np.zeros(1))
    runs = simulate(h, seen.probe, settings, np.array([h.first]), slots=True)
    held = [s for _, (_, s) in zip(range(until), runs, strict=False)]
    name = next(iter(seen.probe.params))
    if not held or name not in held[0]:
        return None
    errors: dict[str, float] = {}
    for role in held[0][name]:
        wanted = [s[name][role][0] for s in held]
        places = list(seen.slots[0].get(name, {}))
        near = [
            max(
                relative_error(seen.slots[t].get(name, {}).get(p, np.nan), wanted[t])
                for t in range(len(wanted))
            )
            for p in places
        ]
        if near:
            errors[role] = min(near)
    # A slot that nothing in the state resembles is not among what can be read.
    off = [r for r, e in errors.items() if 1e-10 < e < 0.5]
    return off[0] if off else None
